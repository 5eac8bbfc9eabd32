--[[ restore_places: some of those who left the line are put back to where they were.
KEYS
  1 line        hash: whether the line is built, and by which attempt it is being rebuilt
  2 places      hash of places that left the line: user id to "state:score:until_ms:since_ms:calls"
  3 ready       sorted set of those who are called: user id by end of the claim window, ms
  4 admitted    sorted set of those who are admitted: user id by end of the admission, ms
  5 lanes       hash of lanes other than 0
ARGV
  1 attempt     the name given to begin_rebuild
  2 entries...  user id, lane and record, in turn
RETURNS
  1  done
  0  the line is built, or another attempt has begun: nothing was written
COMPLEXITY O(m log n) for m people
]]
local line, places, ready, admitted, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt = ARGV[1]
local known = redis.call('HMGET', line, 'built', 'rebuilding')
if known[1] or known[2] ~= attempt then return 0 end

for i = 2, #ARGV, 3 do
  local user_id, lane, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local state, until_ms = string.match(record, '^(%a):%d+:(%d+):')
  redis.call('HSET', places, user_id, record)
  if state == 'R' then redis.call('ZADD', ready, until_ms, user_id) end
  if state == 'A' then redis.call('ZADD', admitted, until_ms, user_id) end
  if lane ~= '0' then redis.call('HSET', lanes, user_id, lane) end
end
return 1
