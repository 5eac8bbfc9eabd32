--[[ conclude: a line that nobody ticks is forgotten some day; until then people can read how their places ended.
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
  1 close_ms   end of the sale, ms; or 0, when it is over
  2 keep_ms    how long the line is kept after that, and after now
RETURNS
  how many keys will go
COMPLEXITY O(1)
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, ready, admitted, places, missed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local changed, stays, line, policy, sale = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local draw, outbox, draw_list = KEYS[16], KEYS[17], KEYS[18]
local close_ms, keep_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local until_ms = math.max(close_ms, time[1] * 1000 + math.floor(time[2] / 1000)) + keep_ms
local count = 0
for _, key in ipairs({users, lane_1, lane_2, lane_3, lanes, entrants, ready, admitted, places, missed, changed, stays,
  line, policy, sale, draw, outbox, draw_list}) do
  count = count + redis.call('PEXPIREAT', key, string.format('%.0f', until_ms))
end
return count
