--[[ admit: those who waited longest in their lane are called, never more than the rate nor than the cap of people inside.
However many loops run it, the bounds hold. Lanes take turns in proportion to their weights. A call and its fact are
written together: a crash after it cannot lose the call. While facts are not published nobody is called: no token could
be answered.
KEYS
  1 users             sorted set of those who wait in lane 0
  2 lane_1            likewise of lane 1
  3 lane_2            likewise of lane 2
  4 lane_3            likewise of lane 3
  5 ready             sorted set of those who are called
  6 admitted          sorted set of those who are admitted
  7 places            hash of places that left the line
  8 missed            sorted set of those who missed a call
  9 line              hash: clock, pace and counters of the line
 10 policy            hash: what an operator changed
 11 sale              hash: progress of the sale
 12 draw              hash: how far the draw is
 13 outbox            stream of facts, until they are published
ARGV
  1 open_ms           start of the sale, ms
  2 close_ms          end of the sale, ms
  3 default_mode      mode unless an operator set one
  4 default_rate      people called per second, likewise
  5 default_cap       people inside, likewise
  6 default_claim_ms  claim window, likewise
  7 max_batch         most people called in one run: bounds how long Redis is busy
  8 fence             fencing number of the loop, or "" for a loop that has none
  9 pace              share of the rate that the health of the shop allows, above 0, at most 1
 10 patience_ms       how old a fact may be that is not published
RETURNS
  {1, waiting, missed, ready, admitted, unpublished, over, needs_draw, restoring, calling, cap, front_0, front_1, front_2,
      front_3, call...}  counts and flags of the line after this run; over is 1 when the sale is closed, or every seat
      sold. Each call of it is "lane:score", in the order of the
      lane, and each front the smallest score that still waits in a lane from which someone was called, or "": what
      shows, of the same instant, that nobody was passed over
  {0, "NOT_BUILT"}    the line is not there, or was lost
  {0, "FENCED"}       a loop with a higher number ticks the line
COMPLEXITY O(max_batch log n) of those who wait
]]
local users, lane_1, lane_2, lane_3, ready, admitted, places, missed, line =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local policy, sale, draw, outbox = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local open_ms, close_ms, default_mode = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local default_rate, default_cap, default_claim_ms, max_batch, fence, pace, patience_ms =
  ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_us, now_ms = time[1] * 1000000 + time[2], time[1] * 1000 + math.floor(time[2] / 1000)

local built, highest, restoring_ms, had, ticked_us =
  unpack(redis.call('HMGET', line, 'built', 'fence', 'restoring_until_ms', 'tokens', 'ticked_us'))
if not built then return {0, 'NOT_BUILT'} end
if fence ~= '' and tonumber(fence) < tonumber(highest or 0) then return {0, 'FENCED'} end
local mode, rate, cap, claim_ms, in_use = unpack(redis.call('HMGET', policy, 'mode', 'rate', 'cap', 'claim_ms', 'lanes'))
rate, cap = tonumber(rate or default_rate) * pace, tonumber(cap or default_cap)

-- The bucket holds what may be called in one second, at least one person, and fills on Redis' clock.
local burst, elapsed = math.max(1, rate), math.max(0, now_us - tonumber(ticked_us or now_us)) / 1000000
local tokens = math.min(burst, tonumber(had or burst) + rate * elapsed)
local is_held, is_sold_out =
  redis.call('HEXISTS', draw, 'held_ms') == 1, redis.call('HGET', sale, 'sold_out') == '1'
local is_open = now_ms >= math.max(open_ms, tonumber(restoring_ms or 0)) and now_ms < close_ms
local oldest = redis.call('XRANGE', outbox, '-', '+', 'COUNT', 1)[1]
local is_told = not oldest or now_ms - tonumber(string.match(oldest[1], '^%d+')) < patience_ms
local calling = is_open and is_held and is_told and not is_sold_out and (mode or default_mode) ~= 'HOLD'
local slots = cap - redis.call('ZCARD', ready) - redis.call('ZCARD', admitted)
local quota = calling and math.max(0, math.min(math.floor(tokens), slots, max_batch)) or 0

-- Smooth weighted round robin: every lane with people earns its weight, the richest pays for all.
local waiting, weights, shares, credit, calls, fronts, total = {}, {}, {}, {}, {}, {}, 0
for lane = 0, 3 do
  waiting[lane], weights[lane], shares[lane] = redis.call('ZCARD', sets[lane]), 1, 0
  credit[lane] = tonumber(redis.call('HGET', line, 'credit:' .. lane) or 0)
end
for _, each in ipairs(in_use and cjson.decode(in_use) or {}) do weights[each.lane] = each.weight end
local function next_lane()
  local richest, earned = nil, 0
  for lane = 0, 3 do
    local weight = waiting[lane] > shares[lane] and weights[lane] or 0
    credit[lane], earned = weight > 0 and credit[lane] + weight or 0, earned + weight -- an empty lane hoards nothing
    if weight > 0 and (not richest or credit[lane] > credit[richest]) then richest = lane end
  end
  if richest then credit[richest], shares[richest] = credit[richest] - earned, shares[richest] + 1 end
end
for _ = 1, quota do next_lane() end

local claim_until = now_ms + tonumber(claim_ms or default_claim_ms)
for lane = 0, 3 do
  local called = shares[lane] > 0 and redis.call('ZPOPMIN', sets[lane], shares[lane]) or {}
  for i = 1, #called, 2 do
    local user_id, score = called[i], string.format('%.0f', called[i + 1])
    -- Who missed a call of this place has its score on record, and no other chance.
    local number = string.find(redis.call('HGET', places, user_id) or '', 'M:' .. score .. ':', 1, true) == 1 and 2 or 1
    redis.call('ZADD', ready, claim_until, user_id)
    redis.call('HSET', places, user_id, 'R:' .. score .. ':' .. claim_until .. ':' .. now_ms .. ':' .. number)
    redis.call('XADD', outbox, '*', 'kind', 'called', 'user_id', user_id, 'at_ms', now_ms, 'until_ms', claim_until,
      'lane', lane, 'score', score, 'calls', number)
    calls[#calls + 1] = lane .. ':' .. score
  end
  local watermark = math.max(called[#called] or 0, redis.call('HGET', line, 'watermark:' .. lane) or 0)
  redis.call('HSET', line, 'watermark:' .. lane, string.format('%.0f', watermark), 'credit:' .. lane, credit[lane])
  fronts[lane], total =
    #called > 0 and redis.call('ZRANGE', sets[lane], 0, 0, 'WITHSCORES')[2] or '', total + waiting[lane] - shares[lane]
end
redis.call('HINCRBY', line, 'called', #calls)
redis.call('HSET', line, 'tokens', string.format('%.9f', tokens - #calls), 'ticked_us', string.format('%.0f', now_us),
  'fence', math.max(tonumber(fence) or 0, tonumber(highest or 0)))
return {1, total, redis.call('ZCARD', missed), redis.call('ZCARD', ready), redis.call('ZCARD', admitted),
  redis.call('XLEN', outbox), (now_ms >= close_ms or is_sold_out) and 1 or 0, (is_open and not is_held) and 1 or 0,
  now_ms < tonumber(restoring_ms or 0) and 1 or 0, calling and 1 or 0, cap, fronts[0], fronts[1], fronts[2], fronts[3],
  unpack(calls)}
