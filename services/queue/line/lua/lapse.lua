--[[ lapse: what has run out gives its slot back: a first call that was missed is followed by a second one, and
everything else ends as EXPIRED. No claim window ends in a hold, nor sooner after it than a whole window.
KEYS
  1 users             sorted set of those who wait in lane 0
  2 lane_1            likewise of lane 1
  3 lane_2            likewise of lane 2
  4 lane_3            likewise of lane 3
  5 lanes             hash: lanes of those who are not in lane 0
  6 ready             sorted set of those who are called
  7 admitted          sorted set of those who are admitted
  8 places            hash of places that left the line
  9 missed            sorted set of those who missed a call: user id by when they are called again, ms
 10 line              hash: counters of the line
 11 policy            hash: what an operator changed
 12 entrants          sorted set of those who take part in the draw
 13 draw              hash: how far the draw is
ARGV
  1 close_ms          end of the sale, ms
  2 default_mode      mode unless an operator set one
  3 default_claim_ms  claim window, likewise
  4 max_batch         most places of each kind in one run: bounds how long Redis is busy
RETURNS
  {expired, missed, returned, in_draw, prolonged}  how many ended, missed their first call, and stand in their lane again,
      where they are next, since they keep their score; then how many wait for a draw that is not held, and how many have
      a longer claim window because of a hold
COMPLEXITY O(max_batch log n) of those who wait
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, ready, admitted, places, missed = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local line, policy, entrants, draw = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local close_ms, default_mode, default_claim_ms, max_batch = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local claim_ms, mode = unpack(redis.call('HMGET', policy, 'claim_ms', 'mode'))
claim_ms = tonumber(claim_ms or default_claim_ms)
local due_ms, in_hold = now_ms + claim_ms, (mode or default_mode) == 'HOLD' and now_ms < close_ms
local counts = {expired = 0, missed = 0}

local function ended(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', now_ms, 'LIMIT', 0, max_batch)
end

-- No claim window ends before this: -1 from the first run in a hold to the first one after it.
local floor_ms = tonumber(redis.call('HGET', line, 'windows_until_ms') or 0)
if in_hold ~= (floor_ms == -1) then redis.call('HSET', line, 'windows_until_ms', in_hold and -1 or due_ms) end
if in_hold or floor_ms == -1 then floor_ms = due_ms end
-- In a hold a window is made whole when half of it is gone, so that what people are told does not move all the time.
local short = floor_ms <= now_ms and {} or redis.call('ZRANGEBYSCORE', ready, '-inf',
  '(' .. (in_hold and floor_ms - claim_ms / 2 or floor_ms), 'LIMIT', 0, max_batch)
for _, user_id in ipairs(short) do
  local head, tail = string.match(redis.call('HGET', places, user_id), '^(R:%d+:)%d+(:%d+:%d)$')
  redis.call('ZADD', ready, floor_ms, user_id)
  redis.call('HSET', places, user_id, head .. floor_ms .. tail)
end

local returning = ended(missed)
for _, user_id in ipairs(returning) do
  local score = string.match(redis.call('HGET', places, user_id), ':(%d+):')
  redis.call('ZREM', missed, user_id)
  redis.call('ZADD', sets[tonumber(redis.call('HGET', lanes, user_id) or 0)], score, user_id)
end
for _, inside in ipairs(floor_ms > now_ms and {admitted} or {ready, admitted}) do
  for _, user_id in ipairs(ended(inside)) do
    local state, score, calls = string.match(redis.call('HGET', places, user_id), '^(%a):(%d+):%d+:%d+:(%d)$')
    redis.call('ZREM', inside, user_id)
    if state == 'R' and calls == '1' then
      redis.call('ZADD', missed, due_ms, user_id)
      redis.call('HSET', places, user_id, 'M:' .. score .. ':' .. due_ms .. ':' .. now_ms .. ':1')
      counts.missed = counts.missed + 1
    else
      redis.call('HSET', places, user_id, 'E:' .. score .. ':0:' .. now_ms .. ':' .. calls)
      counts.expired = counts.expired + 1
    end
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', line, name, count) end
end
local is_held = redis.call('HEXISTS', draw, 'held_ms') == 1
return {counts.expired, counts.missed, #returning, is_held and 0 or redis.call('ZCARD', entrants), #short}
