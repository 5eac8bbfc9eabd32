--[[ set_policy: some rules of a line are changed together, and the caller learns exactly what was there before.
KEYS
  1 policy     hash: what an operator changed
  2 line       hash: pace of the line
ARGV
  1 changes... field and value, in turn
RETURNS
  {field, value, ...}  what an operator had set before
COMPLEXITY O(1)
]]
local policy, line = KEYS[1], KEYS[2]
local before = redis.call('HGETALL', policy)

redis.call('HSET', policy, unpack(ARGV))
for i = 1, #ARGV, 2 do
  -- What was observed under another rate says nothing about the next minute.
  if ARGV[i] == 'rate' then redis.call('HDEL', line, 'observed_rate') end
end
return before
