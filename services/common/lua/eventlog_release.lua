--[[ eventlog_release: a reader gives partitions back, and leaves its group if asked to. What it does not own stays as it is.
KEYS
  1 members    zset reader -> ms at which it counts as dead
  2 owners     hash partition -> "reader/take"
ARGV
  1 reader
  2 leave      "1" to leave the group, "0" to stay
  3 pairs...   partition, owner, partition, owner, …
RETURNS
  n   number of partitions given back
COMPLEXITY O(partitions)
]]
local members, owners = KEYS[1], KEYS[2]
local reader, leave = ARGV[1], ARGV[2]
local pairs = {unpack(ARGV, 3)}

if leave == '1' then redis.call('ZREM', members, reader) end
local released = 0
for index = 1, #pairs, 2 do
  if redis.call('HGET', owners, pairs[index]) == pairs[index + 1] then
    released = released + redis.call('HDEL', owners, pairs[index])
  end
end
return released
