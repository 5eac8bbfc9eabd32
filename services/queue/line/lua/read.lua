--[[ read: the line and the places of some people in it, all of the same instant.
KEYS
  1 users         sorted set of those who wait in lane 0
  2 lane_1        likewise of lane 1
  3 lane_2        likewise of lane 2
  4 lane_3        likewise of lane 3
  5 lanes         hash: lanes of those who are not in lane 0
  6 entrants      sorted set of those who take part in the draw, by time of joining
  7 places        hash of places that left the line
  8 missed        sorted set of those who missed a call
  9 line          hash: clock, pace and counters of the line
 10 policy        hash: what an operator changed
 11 sale          hash: progress of the sale
 12 draw          hash: how far the draw is
ARGV
  1 default_mode  mode unless an operator set one
  2 default_rate  people called per second, likewise
  3 user_ids...   whose places
RETURNS
  {1, now_ms, figures, waiting_0, waiting_1, waiting_2, waiting_3, missed, entrants, place...}  figures are the life of
      the line and the end of its restoring, observed rate, mode, lanes, then fields of `sale` and `draw` as they are read
      below, "" where unset. Each place is ""
      or "state:score:until_ms:since_ms:calls:lane:ahead:join_us"; beside the states of `places`, state is W for who
      waits in a lane, and Q for who is in a draw that is not held. join_us is 0 where it is not known
  {0, "NOT_BUILT"}  the line is not there, or was lost
COMPLEXITY O(m log n) for m people of n who wait
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, entrants, places, missed = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local line, policy, sale, draw = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local default_mode, default_rate = ARGV[1], ARGV[2]
-- Drawn scores have 50 bits; times of joining in µs are above.
local FIRST_TIME = 1125899906842624
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')

local figures = {}
local function read(key, ...)
  for _, value in ipairs(redis.call('HMGET', key, ...)) do figures[#figures + 1] = value or '' end
end
read(line, 'built', 'restoring_until_ms')
if figures[1] == '' then return {0, 'NOT_BUILT'} end
local set = redis.call('HMGET', policy, 'mode', 'rate', 'lanes')
figures[3] = redis.call('HGET', line, 'observed_rate') or set[2] or default_rate
figures[4], figures[5] = set[1] or default_mode, set[3] or ''
read(sale, 'sold_out', 'seats_left')
read(draw, 'closed_ms', 'held_ms', 'key', 'entered')
local is_held = figures[9] ~= ''

local function join_us(user_id, score)
  if score >= FIRST_TIME then return string.format('%.0f', score) end
  return string.format('%.0f', redis.call('ZSCORE', entrants, user_id) or 0)
end

local function place(user_id)
  local record = redis.call('HGET', places, user_id)
  local lane = tonumber(redis.call('HGET', lanes, user_id) or 0)
  local entered = not is_held and not record and redis.call('ZSCORE', entrants, user_id)
  if entered then return 'Q:0:0:0:0:' .. lane .. ':0:' .. string.format('%.0f', entered) end
  local rank = redis.call('ZRANK', sets[lane], user_id)
  if rank then
    local score = tonumber(redis.call('ZSCORE', sets[lane], user_id))
    return string.format('W:%.0f:0:0:0:%d:%d:', score, lane, rank) .. join_us(user_id, score)
  end
  if not record then return '' end
  return record .. ':' .. lane .. ':0:' .. join_us(user_id, tonumber(string.match(record, ':(%d+):')))
end

local answer = {1, time[1] * 1000 + math.floor(time[2] / 1000), figures}
for lane = 0, 3 do answer[#answer + 1] = redis.call('ZCARD', sets[lane]) end
answer[#answer + 1] = redis.call('ZCARD', missed)
answer[#answer + 1] = redis.call('ZCARD', entrants)
for i = 3, #ARGV do answer[#answer + 1] = place(ARGV[i]) end
return answer
