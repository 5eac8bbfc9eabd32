--[[ join: one live place per account; a new place stands behind every other of its lane, by Redis' own clock.
Before the opening there is no order: who joins then takes part in the draw.
KEYS
  1 users         sorted set of those who wait in lane 0: user id by score
  2 lane_1        likewise of lane 1
  3 lane_2        likewise of lane 2
  4 lane_3        likewise of lane 3
  5 lanes         hash: lanes of those who are not in lane 0
  6 entrants      sorted set of those who take part in the draw: user id by time of joining, µs
  7 ready         sorted set of those who are called: user id by end of the claim window, ms
  8 admitted      sorted set of those who are admitted: user id by end of the admission, ms
  9 places        hash of places that left the line: user id to "state:score:until_ms:since_ms:calls"
 10 missed        sorted set of those who missed a call: user id by when they are called again, ms
 11 changed       sorted set: whose places changed otherwise than by a call, by when, ms
 12 line          hash: clock, pace and counters of the line
 13 policy        hash: what an operator changed
 14 sale          hash: progress of the sale
 15 draw          hash: how far the draw is
ARGV
  1 open_ms       start of the sale, ms
  2 close_ms      end of the sale, ms
  3 default_mode  mode unless an operator set one
  4 joins...      each "user_id:lane"; the lane is that of a verified pass, or 0
RETURNS
  {1, draw_key, outcome...}  draw_key is "" until the draw is held; each outcome is "joined" or "found" for a place that
      stands, "DRAWN" for one of the draw that was lost, to be restored with its score, or the refusal: SALE_CLOSED,
      SOLD_OUT
  {0, "NOT_BUILT"}           the line is not there, or was lost; nothing was done
COMPLEXITY O(m log n) for m joins and n who wait
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, ready, admitted, places, missed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local changed, line, policy, sale, draw = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local open_ms, close_ms, default_mode = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local known = redis.call('HMGET', line, 'built', 'last_score')
if not known[1] then return {0, 'NOT_BUILT'} end
local last, fresh = tonumber(known[2] or 0), 0
local closed, held, key = unpack(redis.call('HMGET', draw, 'closed_ms', 'held_ms', 'key'))
local mode = redis.call('HGET', policy, 'mode') or default_mode
local refusal = (now_ms >= close_ms or mode == 'DRAIN') and 'SALE_CLOSED'
  or redis.call('HGET', sale, 'sold_out') == '1' and 'SOLD_OUT'

local function take(user_id, before, after)
  if now_ms < open_ms and not closed then
    redis.call('ZADD', entrants, string.format('%.0f', now_us), user_id)
    redis.call('HDEL', places, user_id)
  else
    -- Never the same score twice, nor a smaller one after a larger one, even when the clock stands or steps back.
    last = math.max(now_us, last + 1)
    redis.call('ZADD', sets[after], string.format('%.0f', last), user_id)
  end
  if after > 0 then redis.call('HSET', lanes, user_id, after) elseif before > 0 then redis.call('HDEL', lanes, user_id) end
  fresh = fresh + 1
  return 'joined'
end

local function join(user_id, pass)
  local lane = tonumber(redis.call('HGET', lanes, user_id) or 0)
  if redis.call('ZSCORE', sets[lane], user_id) then return 'found' end
  local record = redis.call('HGET', places, user_id)
  if not record and redis.call('ZSCORE', entrants, user_id) then return held and 'DRAWN' or 'found' end
  local state, score, until_ms, calls = string.match(record or '', '^(%a):(%d+):(%d+):%d+:(%d)$')
  local is_inside = state == 'R' or state == 'A'
  if is_inside and tonumber(until_ms) > now_ms then return 'found' end
  if is_inside or state == 'M' then -- out of time, whether or not the tick has come by
    for _, set in ipairs({ready, admitted, missed}) do redis.call('ZREM', set, user_id) end
  end
  if state == 'M' or (state == 'R' and calls == '1') then -- the second call comes at once
    redis.call('HSET', places, user_id, 'M:' .. score .. ':0:' .. now_ms .. ':1')
    redis.call('ZADD', sets[lane], score, user_id)
    redis.call('ZADD', changed, now_ms, user_id)
    return 'found'
  end
  if is_inside then
    redis.call('HINCRBY', line, 'expired', 1)
    redis.call('HSET', places, user_id, 'E:' .. score .. ':0:' .. until_ms .. ':' .. calls)
  end
  return refusal or take(user_id, lane, pass)
end

local answer = {1, held and key or ''}
for i = 4, #ARGV do
  local user_id, lane = string.match(ARGV[i], '^(%d+):(%d)$')
  answer[#answer + 1] = join(user_id, tonumber(lane))
end
redis.call('HSET', line, 'last_score', string.format('%.0f', last))
redis.call('HINCRBY', line, 'joined', fresh)
return answer
