--[[ build: a line is there from now on, under a number of its own; a line that is there stays as it is.
KEYS
  1 line          hash: clock, pace and counters of the line
ARGV
  1 is_restoring  1 when there was a line before, which was lost, so that people come back; or 0
  2 quiet_ms      how long nobody is called after a place came back
  3 limit_ms      how long that may go on in all
RETURNS
  {built_us, fresh}  the number of the line's life, its beginning; fresh is 1 when this call began it
COMPLEXITY O(1)
]]
local line = KEYS[1]
local is_restoring, quiet_ms, limit_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now_us = string.format('%.0f', time[1] * 1000000 + time[2])
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local built_us = redis.call('HGET', line, 'built')
if built_us then return {built_us, 0} end
-- Places that come back prolong it; see join.
redis.call('HSET', line, 'built', now_us, 'restoring_limit_ms', now_ms + limit_ms,
  'restoring_until_ms', is_restoring == '1' and now_ms + math.min(quiet_ms, limit_ms) or 0)
return {now_us, 1}
