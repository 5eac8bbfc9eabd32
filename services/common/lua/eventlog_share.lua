--[[ eventlog_share: a reader says that it lives, and gets its fair share of the partitions of its group.
KEYS
  1 members    zset reader -> ms at which it counts as dead
  2 owners     hash partition -> "reader/take"; field "#take" counts takes, so that no ownership is ever mistaken for an older one
ARGV
  1 reader
  2 ttl_ms
  3 partitions...  all partitions of the group's topics
RETURNS
  {{partition, owner, …}, surplus}   what this reader owns now, and how many of them it should give up
COMPLEXITY O(partitions + readers)
]]
local members, owners = KEYS[1], KEYS[2]
local reader, ttl_ms = ARGV[1], ARGV[2]
local partitions = {unpack(ARGV, 3)}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now)
redis.call('ZADD', members, now + ttl_ms, reader)

local readers = redis.call('ZRANGE', members, 0, -1)
table.sort(readers)
local alive, rank = {}, 0
for index, name in ipairs(readers) do
  alive[name] = true
  if name == reader then rank = index end
end
local quota = math.floor(#partitions / #readers)
if rank <= #partitions % #readers then quota = quota + 1 end

local mine, free = {}, {}
for _, partition in ipairs(partitions) do
  local owner = redis.call('HGET', owners, partition)
  local name = owner and string.match(owner, '^(.*)/%d+$')
  if name == reader then
    table.insert(mine, partition)
    table.insert(mine, owner)
  elseif not alive[name] then
    table.insert(free, partition)
  end
end
for _, partition in ipairs(free) do
  if #mine / 2 >= quota then break end
  local owner = reader .. '/' .. redis.call('HINCRBY', owners, '#take', 1)
  redis.call('HSET', owners, partition, owner)
  table.insert(mine, partition)
  table.insert(mine, owner)
end
return {mine, math.max(0, #mine / 2 - quota)}
