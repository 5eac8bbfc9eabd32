--[[ move: a place that stands goes to another lane, and keeps its score; a place elsewhere stays what it is.
KEYS
  1 users     sorted set of those who wait in lane 0
  2 lane_1    likewise of lane 1
  3 lane_2    likewise of lane 2
  4 lane_3    likewise of lane 3
  5 lanes     hash: lanes of those who are not in lane 0
  6 entrants  sorted set of those who take part in the draw
  7 places    hash of places that left the line
  8 changed   sorted set: whose places changed otherwise than by a call, by when, ms
  9 draw      hash: how far the draw is
ARGV
  1 user_id   whose place
  2 lane      where to
RETURNS
  {1, 1}          it stands there now
  {1, 0}          there was nothing to move
  {0, "DRAWING"}  the list of the draw is closed, with its lanes: try again when the draw is held
COMPLEXITY O(log n) of those who wait
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, places, changed, draw = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local user_id, lane = ARGV[1], tonumber(ARGV[2])
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')

local before = tonumber(redis.call('HGET', lanes, user_id) or 0)
local closed, held = unpack(redis.call('HMGET', draw, 'closed_ms', 'held_ms'))
local in_draw = not held and redis.call('HEXISTS', places, user_id) == 0 and redis.call('ZSCORE', entrants, user_id)
local score = redis.call('ZSCORE', sets[before], user_id)
if before == lane or not (in_draw or score) then return {1, 0} end
if in_draw and closed then return {0, 'DRAWING'} end

if lane == 0 then redis.call('HDEL', lanes, user_id) else redis.call('HSET', lanes, user_id, lane) end
if score then
  redis.call('ZREM', sets[before], user_id)
  redis.call('ZADD', sets[lane], string.format('%.0f', score), user_id)
end
redis.call('ZADD', changed, time[1] * 1000 + math.floor(time[2] / 1000), user_id)
return {1, 1}
