--[[ release: a lease is given back by who has it, so that the next holder need not wait. Its fence stays used.
KEYS
  1 lease   hash: holder, until_ms, fence
ARGV
  1 holder  who gives back
RETURNS
  1 given back, or 0: somebody else's, or nobody's
COMPLEXITY O(1)
]]
local lease = KEYS[1]
local holder = ARGV[1]

if redis.call('HGET', lease, 'holder') ~= holder then return 0 end

redis.call('HSET', lease, 'holder', '', 'until_ms', 0)
return 1
