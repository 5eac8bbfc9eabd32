--[[ leave: a live place ends as LEFT and its slot is free at once; without a live place nothing changes.
KEYS
  1 users     sorted set of those who wait in lane 0
  2 lane_1    likewise of lane 1
  3 lane_2    likewise of lane 2
  4 lane_3    likewise of lane 3
  5 lanes     hash: lanes of those who are not in lane 0
  6 entrants  sorted set of those who take part in the draw
  7 ready     sorted set of those who are called
  8 admitted  sorted set of those who are admitted
  9 places    hash of places that left the line
 10 missed    sorted set of those who missed a call
 11 changed   sorted set: whose places changed otherwise than by a call, by when, ms
 12 line      hash: counters of the line
 13 draw      hash: how far the draw is
 14 outbox    stream of facts, until they are published
ARGV
  1 user_id   who leaves
RETURNS
  {1, 1}            a place was given up
  {1, 0}            there was none
  {0, "NOT_BUILT"}  the line is not there, or was lost
COMPLEXITY O(log n) of those who wait
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, entrants, ready, admitted, places = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local missed, changed, line, draw, outbox = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local user_id = ARGV[1]
-- Drawn scores have 50 bits: with this on record nothing that was drawn is lived any more.
local HIGHEST_DRAWN = '1125899906842623'
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('HEXISTS', line, 'built') == 0 then return {0, 'NOT_BUILT'} end
local record = redis.call('HGET', places, user_id)
local closed, held = unpack(redis.call('HMGET', draw, 'closed_ms', 'held_ms'))
local lane = tonumber(redis.call('HGET', lanes, user_id) or 0)
local entered = not record and redis.call('ZSCORE', entrants, user_id)
local in_draw = entered and not held
-- Who was drawn and has no place, has not come back since the line was lost.
local score = in_draw and '0' or redis.call('ZSCORE', sets[lane], user_id)
  or string.match(record or '', '^[RAM]:(%d+):') or (entered and HIGHEST_DRAWN)
if not score then return {1, 0} end

score = string.format('%.0f', score)
-- A closed list stays as it is: this record, with score 0, says that the entrant gave up.
if in_draw and not closed then
  redis.call('ZREM', entrants, user_id)
  redis.call('HDEL', lanes, user_id)
end
for _, set in ipairs({sets[lane], ready, admitted, missed}) do redis.call('ZREM', set, user_id) end
redis.call('HSET', places, user_id, 'L:' .. score .. ':0:' .. now_ms .. ':0')
redis.call('ZADD', changed, now_ms, user_id)
redis.call('HINCRBY', line, 'left', 1)
-- Nobody need be told who left an open list: the list that will be closed says it.
if not in_draw or closed then
  local fact = {'kind', 'left', 'user_id', user_id, 'at_ms', now_ms, 'lane', lane, 'score', score}
  local until_ms, admitted_ms = string.match(record or '', '^A:%d+:(%d+):(%d+):')
  if until_ms then -- tells inventory which tokens are not good any more
    for _, each in ipairs({'until_ms', until_ms, 'admitted_ms', admitted_ms}) do fact[#fact + 1] = each end
  end
  redis.call('XADD', outbox, '*', unpack(fact))
end
return {1, 1}
