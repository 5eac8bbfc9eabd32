--[[ lapse: what has run out gives its slot back: a first call that was missed is followed by a second one, and
everything else ends as EXPIRED. No claim window ends as long as prolong says that the line stands.
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
 10 line              hash: counters of the line, and before when no claim window ends
 11 policy            hash: what an operator changed
 12 entrants          sorted set of those who take part in the draw
 13 draw              hash: how far the draw is
 14 changed           sorted set: whose places changed otherwise than by a call, by when, ms
ARGV
  1 default_claim_ms  claim window unless an operator set one
  2 max_batch         most places of each kind in one run: bounds how long Redis is busy
RETURNS
  {expired, missed, returned, in_draw}  how many ended, missed their first call, and stand in their lane again, where
      they are next, since they keep their score; then how many wait for a draw that is not held
COMPLEXITY O(max_batch log n) of those who wait
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, ready, admitted, places, missed = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local line, policy, entrants, draw, changed = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
-- Longer than any digest tells a change.
local FORGET_MS = 60000
local default_claim_ms, max_batch = ARGV[1], tonumber(ARGV[2])
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local due_ms = now_ms + tonumber(redis.call('HGET', policy, 'claim_ms') or default_claim_ms)
local counts = {expired = 0, missed = 0}

local function ended(set)
  return redis.call('ZRANGEBYSCORE', set, '-inf', now_ms, 'LIMIT', 0, max_batch)
end

local returning = ended(missed)
for _, user_id in ipairs(returning) do
  local score = string.match(redis.call('HGET', places, user_id), ':(%d+):')
  redis.call('ZREM', missed, user_id)
  redis.call('ZADD', sets[tonumber(redis.call('HGET', lanes, user_id) or 0)], score, user_id)
end
local floor_ms = tonumber(redis.call('HGET', line, 'windows_until_ms') or 0)
for _, inside in ipairs((floor_ms == -1 or floor_ms > now_ms) and {admitted} or {ready, admitted}) do
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
redis.call('ZREMRANGEBYSCORE', changed, '-inf', now_ms - FORGET_MS)
local is_held = redis.call('HEXISTS', draw, 'held_ms') == 1
return {counts.expired, counts.missed, #returning, is_held and 0 or redis.call('ZCARD', entrants)}
