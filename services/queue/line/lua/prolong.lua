--[[ prolong: nobody's time runs out while it cannot be used. No claim window ends in a hold, nor while facts are not
published, when no token can be answered; nor sooner after it than a whole window. An admission whose token was never
answered begins anew then.
KEYS
  1 lanes                 hash: lanes of those who are not in lane 0
  2 ready                 sorted set of those who are called
  3 admitted              sorted set of those who are admitted
  4 places                hash of places that left the line
  5 line                  hash: counters of the line, and before when no claim window ends
  6 policy                hash: what an operator changed
  7 outbox                stream of facts, until they are published
ARGV
  1 close_ms              end of the sale, ms
  2 default_mode          mode unless an operator set one
  3 default_claim_ms      claim window, likewise
  4 default_admission_ms  how long an admission lasts, likewise
  5 max_batch             most places of each kind in one run: bounds how long Redis is busy
  6 patience_ms           how old a fact may be that is not published
RETURNS
  how many have more time now
COMPLEXITY O(max_batch log n) of those inside
]]
local lanes, ready, admitted, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local line, policy, outbox = KEYS[5], KEYS[6], KEYS[7]
local close_ms, default_mode, default_claim_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local default_admission_ms, max_batch, patience_ms = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local claim_ms, admission_ms, mode = unpack(redis.call('HMGET', policy, 'claim_ms', 'admission_ms', 'mode'))
claim_ms, admission_ms = tonumber(claim_ms or default_claim_ms), tonumber(admission_ms or default_admission_ms)
-- The id of a fact is when it happened.
local oldest = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
local untold_ms = oldest and tonumber(string.match(oldest[1], '^%d+')) or now_ms
local is_silent = now_ms - untold_ms >= patience_ms and now_ms < close_ms
local in_hold = (mode or default_mode) == 'HOLD' and now_ms < close_ms
local stands, due_ms = in_hold or is_silent, now_ms + claim_ms

-- No claim window ends before this: -1 from the first run in which the line stands to the first one after it.
local floor_ms = tonumber(redis.call('HGET', line, 'windows_until_ms') or 0)
if stands ~= (floor_ms == -1) then redis.call('HSET', line, 'windows_until_ms', stands and -1 or due_ms) end
if stands or floor_ms == -1 then floor_ms = due_ms end
-- Meanwhile a window is made whole when half of it is gone, so that what people are told does not move all the time.
local short = floor_ms <= now_ms and {} or redis.call('ZRANGEBYSCORE', ready, '-inf',
  '(' .. (stands and floor_ms - claim_ms / 2 or floor_ms), 'LIMIT', 0, max_batch)
for _, user_id in ipairs(short) do
  local head, tail = string.match(redis.call('HGET', places, user_id), '^(R:%d+:)%d+(:%d+:%d)$')
  redis.call('ZADD', ready, floor_ms, user_id)
  redis.call('HSET', places, user_id, head .. floor_ms .. tail)
end
-- Likewise admissions of which no fact is published. That they began anew is a fact of its own.
local untold = not is_silent and {} or redis.call('ZRANGEBYSCORE', admitted, untold_ms + admission_ms,
  now_ms + admission_ms / 2, 'LIMIT', 0, max_batch)
for _, user_id in ipairs(untold) do
  local score, calls = string.match(redis.call('HGET', places, user_id), '^A:(%d+):%d+:%d+:(%d)$')
  local until_ms, lane = now_ms + admission_ms, redis.call('HGET', lanes, user_id) or 0
  redis.call('ZADD', admitted, until_ms, user_id)
  redis.call('HSET', places, user_id, 'A:' .. score .. ':' .. until_ms .. ':' .. now_ms .. ':' .. calls)
  redis.call('XADD', outbox, '*', 'kind', 'admitted', 'user_id', user_id, 'at_ms', now_ms, 'until_ms', until_ms,
    'lane', lane, 'score', score, 'calls', calls)
end
return #short + #untold
