--[[ enter: some of those who took part in a draw get their places, each once, and nobody who has left since.
KEYS
  1 users     sorted set of those who wait in lane 0
  2 lane_1    sorted set of those who wait in lane 1
  3 lane_2    sorted set of those who wait in lane 2
  4 lane_3    sorted set of those who wait in lane 3
  5 lanes     hash: user id to lane, of those who are not in lane 0
  6 entrants  sorted set of those who take part in the draw
  7 places    hash of places that left the line: user id to "state:score:until_ms:since_ms:calls"
  8 missed    sorted set of those who missed a call
  9 draw      hash: how far the draw is
ARGV
  1 key       the key of the draw that the scores are of
  2 pairs...  user id and score, in turn; 2,000 of both at most
RETURNS
  {1, present, entered}  how many of them take part, and how many of those got a place by this run
  {0, "REASON"}          HELD (everyone has a place already), OTHER_DRAW (the line was lost meanwhile)
COMPLEXITY O(m log n) for m people of those who wait
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, places, missed, draw = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local key = ARGV[1]

local known = redis.call('HMGET', draw, 'key', 'held_ms', 'closed_ms')
if known[1] ~= key then return {0, 'OTHER_DRAW'} end
if known[2] then return {0, 'HELD'} end
local closed_ms = tonumber(known[3])
local ids, scores = {}, {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1], scores[#scores + 1] = ARGV[i], ARGV[i + 1]
end

local takes_part = redis.call('ZMSCORE', entrants, unpack(ids))
local lane_of = redis.call('HMGET', lanes, unpack(ids))
local ended = redis.call('HMGET', places, unpack(ids))
local standing = {}
for _, place in ipairs({users, lane_1, lane_2, lane_3, missed}) do
  for i, score in ipairs(redis.call('ZMSCORE', place, unpack(ids))) do
    standing[i] = standing[i] or score
  end
end

local given, present, entered = {}, 0, 0
for i, user_id in ipairs(ids) do
  -- A record that is older than the list is of a place that its owner gave up before entering again.
  local since_ms = ended[i] and tonumber(string.match(ended[i], '^[^:]*:[^:]*:[^:]*:(%d+)')) or 0
  if takes_part[i] then
    present = present + 1
    if not standing[i] and since_ms < closed_ms then
      local lane = tonumber(lane_of[i] or 0)
      given[lane] = given[lane] or {}
      table.insert(given[lane], scores[i])
      table.insert(given[lane], user_id)
      entered = entered + 1
    end
  end
end
for lane, pairs_of_lane in pairs(given) do
  redis.call('ZADD', ({[0] = users, lane_1, lane_2, lane_3})[lane], 'NX', unpack(pairs_of_lane))
end
if entered > 0 then redis.call('HINCRBY', draw, 'entered', entered) end
return {1, present, entered}
