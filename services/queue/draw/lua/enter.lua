--[[ enter: some of those who took part in a draw get their places, each once, and nobody who has left since.
KEYS
  1 users     sorted set of those who wait in lane 0
  2 lane_1    sorted set of those who wait in lane 1
  3 lane_2    sorted set of those who wait in lane 2
  4 lane_3    sorted set of those who wait in lane 3
  5 lanes     hash: user id to lane, of those who are not in lane 0
  6 entrants  sorted set of those who take part in the draw
  7 places    hash of places that left the line: user id to "state:score:until_ms:since_ms:calls"
  8 draw      hash: how far the draw is
ARGV
  1 key       the key of the draw that the scores are of
  2 entries...  user id, score and lane, in turn, of 1,000 people at most; lane is that of the list, or -1: as it is
RETURNS
  {1, present}     how many of them take part; all of those have a place now, or gave it up
  {0, "REASON"}    HELD (everyone has a place already), OTHER_DRAW (the line was lost meanwhile)
COMPLEXITY O(m log n) for m people of those who wait; faster when their scores are close together
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, places, draw = KEYS[6], KEYS[7], KEYS[8]
local key = ARGV[1]

local known = redis.call('HMGET', draw, 'key', 'held_ms', 'closed_ms')
if known[1] ~= key then return {0, 'OTHER_DRAW'} end
if known[2] then return {0, 'HELD'} end
local closed_ms = tonumber(known[3])
local sets = {['0'] = users, ['1'] = lane_1, ['2'] = lane_2, ['3'] = lane_3}
local ids, scores, listed = {}, {}, {}
for i = 2, #ARGV, 3 do
  ids[#ids + 1], scores[#scores + 1], listed[#listed + 1] = ARGV[i], ARGV[i + 1], ARGV[i + 2]
end

local takes_part = redis.call('ZMSCORE', entrants, unpack(ids))
local lane_of = redis.call('EXISTS', lanes) == 1 and redis.call('HMGET', lanes, unpack(ids)) or {}
local ended = redis.call('EXISTS', places) == 1 and redis.call('HMGET', places, unpack(ids)) or {}

-- Who came back to a lost line may have shown another lane than that of the list, which is for ever.
local function lane_to_enter(i)
  local before = lane_of[i] or '0'
  if listed[i] == before or listed[i] == '-1' or redis.call('ZSCORE', sets[before], ids[i]) then return before end
  redis.call('HSET', lanes, ids[i], listed[i])
  return listed[i]
end

local given, present = {['0'] = {}, ['1'] = {}, ['2'] = {}, ['3'] = {}}, 0
for i = 1, #ids do
  if takes_part[i] then
    present = present + 1
    -- A record that is older than the list is of a place that its owner gave up before entering again.
    if not ended[i] or tonumber(string.match(ended[i], '^[^:]*:[^:]*:[^:]*:(%d+)')) < closed_ms then
      local pairs_of_lane = given[lane_to_enter(i)]
      pairs_of_lane[#pairs_of_lane + 1] = scores[i]
      pairs_of_lane[#pairs_of_lane + 1] = ids[i]
    end
  end
end
-- Who has a place already, by an earlier run or having left and joined anew, keeps it: NX.
local entered = 0
for lane, pairs_of_lane in pairs(given) do
  if #pairs_of_lane > 0 then entered = entered + redis.call('ZADD', sets[lane], 'NX', unpack(pairs_of_lane)) end
end
if entered > 0 then redis.call('HINCRBY', draw, 'entered', entered) end
return {1, present}
