--[[ hold: a draw whose people all have their places is held; from now on people are called.
KEYS
  1 draw  hash: how far the draw is
ARGV
  1 key   the key of the draw
RETURNS
  1  held, now or before
  0  the line was lost meanwhile
COMPLEXITY O(1)
]]
local draw = KEYS[1]
local key = ARGV[1]
local time = redis.call('TIME')

if redis.call('HGET', draw, 'key') ~= key then return 0 end
redis.call('HSETNX', draw, 'held_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1
