--[[ begin_rebuild: a line that Redis lost is cleared of remains; from now on only this attempt writes into it.
KEYS
  1 line      hash: whether the line is built, and by which attempt it is being rebuilt
  2 users     sorted set of those who wait in lane 0
  3 lane_1    likewise, lane 1
  4 lane_2    likewise, lane 2
  5 lane_3    likewise, lane 3
  6 lanes     hash of lanes other than 0
  7 entrants  sorted set of those who take part in the draw
  8 ready     sorted set of those who are called
  9 admitted  sorted set of those who are admitted
  10 missed   sorted set of those who missed a call
  11 changed  sorted set of places that changed
  12 places   hash of places that left the line
  13 draw     hash: the draw
ARGV
  1 attempt   a random name
RETURNS
  {1, now_us}  go on; the time on Redis' clock
  {0}          the line is built
COMPLEXITY O(1): what is large is freed in the background
]]
local line, attempt = KEYS[1], ARGV[1]
local time = redis.call('TIME')

if redis.call('HEXISTS', line, 'built') == 1 then return {0} end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('HSET', line, 'rebuilding', attempt)
return {1, time[1] * 1000000 + time[2]}
