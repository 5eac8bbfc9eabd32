--[[ persist: a line that goes on is kept, although it was to be forgotten.
KEYS
  1 users      sorted set of those who wait in lane 0
  2 lane_1     likewise of lane 1
  3 lane_2     likewise of lane 2
  4 lane_3     likewise of lane 3
  5 lanes      hash: lanes of those who are not in lane 0
  6 entrants   sorted set of those who took part in the draw
  7 ready      sorted set of those who are called
  8 admitted   sorted set of those who are admitted
  9 places     hash of places that left the line
 10 missed     sorted set of those who missed a call
 11 changed    sorted set of places that changed
 12 stays      list of how many were inside, for the digest
 13 line       hash: clock, pace and counters of the line
 14 policy     hash: what an operator changed
 15 sale       hash: progress of the sale
 16 draw       hash: how far the draw is
 17 outbox     stream of facts, until they are published
 18 draw_list  hash: the closed list, for whoever reads it
ARGV
RETURNS
  how many keys stay that would have gone
COMPLEXITY O(1)
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, ready, admitted, places, missed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local changed, stays, line, policy, sale = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local draw, outbox, draw_list = KEYS[16], KEYS[17], KEYS[18]
local count = 0
for _, key in ipairs({users, lane_1, lane_2, lane_3, lanes, entrants, ready, admitted, places, missed, changed, stays,
  line, policy, sale, draw, outbox, draw_list}) do
  count = count + redis.call('PERSIST', key)
end
return count
