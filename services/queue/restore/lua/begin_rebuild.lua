--[[ begin_rebuild: a line that Redis lost is cleared of remains; from now on only this attempt writes into it. Who does not
have the lock any more must not begin: what another one has written by now would be gone.
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
  14 rebuild  the lock of those who rebuild
ARGV
  1 attempt   the name that the lock was taken with
RETURNS
  1  go on
  0  the line is built, or the lock is another attempt's
COMPLEXITY O(1): what is large is freed in the background
]]
local line, users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lanes, entrants, ready, admitted = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local missed, changed, places, draw, rebuild = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local attempt = ARGV[1]

if redis.call('HEXISTS', line, 'built') == 1 then return 0 end
if redis.call('GET', rebuild) ~= attempt then return 0 end
redis.call('UNLINK', users, lane_1, lane_2, lane_3, lanes, entrants, ready, admitted, missed, changed, places, draw)
redis.call('HSET', line, 'rebuilding', attempt)
return 1
