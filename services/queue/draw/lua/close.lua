--[[ close: the list of a draw is closed once and for good, when the sale has opened and the line is whole.
KEYS
  1 line      hash: how the line is kept
  2 draw      hash: how far the draw is
  3 entrants  sorted set of those who take part in the draw
ARGV
  1 open_ms   when the sale opens, ms
RETURNS
  {1, closed_ms, entrants, held}  closed, now or before; held is 1 when everyone has a place
  {0, "REASON"}                   still open: NOT_BUILT (the line was lost, and nobody has begun to rebuild it),
                                  RESTORING (people are coming back to it), TOO_EARLY
COMPLEXITY O(1)
]]
local line, draw, entrants = KEYS[1], KEYS[2], KEYS[3]
local open_ms = tonumber(ARGV[1])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local known = redis.call('HMGET', draw, 'closed_ms', 'held_ms')
local closed_ms = known[1]
if not closed_ms then
  local life = redis.call('HMGET', line, 'built', 'restoring_until_ms')
  if not life[1] then return {0, 'NOT_BUILT'} end
  if now_ms < tonumber(life[2] or 0) then return {0, 'RESTORING'} end
  if now_ms < open_ms then return {0, 'TOO_EARLY'} end
  closed_ms = string.format('%.0f', now_ms)
  redis.call('HSET', draw, 'closed_ms', closed_ms)
end
return {1, closed_ms, redis.call('ZCARD', entrants), known[2] and 1 or 0}
