--[[ admit: those who waited longest are called, never more than the rate nor than the cap of people inside.
However many loops run it, the bounds hold. Ended claim windows and admissions give their slots back on the way. A call and its
fact are written together: a crash after it cannot lose the call.
KEYS
  1 users             sorted set of those who wait
  2 ready             sorted set of those who are called
  3 admitted          sorted set of those who are admitted
  4 places            hash of places that left the line
  5 line              hash: clock, pace and counters of the line
  6 policy            hash: what an operator changed
  7 sale              hash: progress of the sale
  8 outbox            stream of called facts, until they are published
ARGV
  1 open_ms           start of the sale, ms
  2 close_ms          end of the sale, ms
  3 default_mode      mode unless an operator set one
  4 default_rate      people called per second, likewise
  5 default_cap       people inside, likewise
  6 default_claim_ms  claim window, likewise
  7 max_batch         most people called, and most ended of each kind, in one run: bounds how long Redis is busy
RETURNS
  {called, expired, waiting, ready, admitted, unpublished, over, cap, front, score...}  counts of this run, then of the
      line after it; over is 1 when the sale has ended; front is the smallest score that still waits, or "", and each
      score is that of one who was called, in order: what shows, of the same instant, that nobody was passed over
COMPLEXITY O(max_batch log n) of those who wait
]]
local users, ready, admitted, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local line, policy, sale, outbox = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local open_ms, close_ms, default_mode = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local default_rate, default_cap, default_claim_ms, max_batch = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local set = redis.call('HMGET', policy, 'mode', 'rate', 'cap', 'claim_ms')
local mode, rate = set[1] or default_mode, tonumber(set[2] or default_rate)
local cap, claim_ms = tonumber(set[3] or default_cap), tonumber(set[4] or default_claim_ms)

local expired = 0
for _, inside in ipairs({ready, admitted}) do
  for _, user_id in ipairs(redis.call('ZRANGEBYSCORE', inside, '-inf', now_ms, 'LIMIT', 0, max_batch)) do
    local score = string.match(redis.call('HGET', places, user_id), ':(%d+):')
    redis.call('ZREM', inside, user_id)
    redis.call('HSET', places, user_id, 'E:' .. score .. ':0:' .. now_ms)
    expired = expired + 1
  end
end
if expired > 0 then redis.call('HINCRBY', line, 'expired', expired) end

-- The bucket holds what may be called in one second, at least one person, and fills on Redis' clock.
local pace = redis.call('HMGET', line, 'tokens', 'ticked_us', 'backlog', 'observed_rate')
local burst = math.max(1, rate)
local elapsed = math.max(0, now_us - tonumber(pace[2] or now_us)) / 1000000
local tokens = math.min(burst, tonumber(pace[1] or burst) + rate * elapsed)
local calling = mode ~= 'HOLD' and now_ms >= open_ms and now_ms < close_ms
  and redis.call('HGET', sale, 'sold_out') ~= '1'
local slots = cap - redis.call('ZCARD', ready) - redis.call('ZCARD', admitted)
local quota = calling and math.max(0, math.min(math.floor(tokens), slots, max_batch)) or 0

local called = quota > 0 and redis.call('ZPOPMIN', users, quota) or {}
local claim_until = now_ms + claim_ms
for i = 1, #called, 2 do
  local user_id, score = called[i], called[i + 1]
  redis.call('ZADD', ready, claim_until, user_id)
  redis.call('HSET', places, user_id, 'R:' .. score .. ':' .. claim_until .. ':' .. now_ms)
  redis.call('XADD', outbox, '*', 'user_id', user_id, 'called_ms', now_ms, 'until_ms', claim_until)
end
local count, waiting = #called / 2, redis.call('ZCARD', users)
if count > 0 then redis.call('HINCRBY', line, 'called', count) end

-- What the last minute of waiting was like: only time in which someone could have been called and people waited counts.
local observed = tonumber(pace[4] or rate)
if calling and pace[3] == '1' and elapsed > 0 then
  observed = observed + (1 - math.exp(-elapsed / 60)) * (count / elapsed - observed)
end
redis.call('HSET', line, 'tokens', string.format('%.9f', tokens - count), 'ticked_us', string.format('%.0f', now_us),
  'backlog', (calling and waiting > 0) and '1' or '0', 'observed_rate', string.format('%.9f', observed))
local answer = {count, expired, waiting, redis.call('ZCARD', ready), redis.call('ZCARD', admitted),
  redis.call('XLEN', outbox), now_ms >= close_ms and 1 or 0, cap,
  count > 0 and redis.call('ZRANGE', users, 0, 0, 'WITHSCORES')[2] or ''}
for i = 2, #called, 2 do answer[#answer + 1] = called[i] end
return answer
