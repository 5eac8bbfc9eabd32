--[[ join: one live place per account; a new place stands behind every other, by Redis' own clock.
KEYS
  1 users         sorted set of those who wait: user id by time of joining, µs
  2 ready         sorted set of those who are called: user id by end of the claim window, ms
  3 admitted      sorted set of those who are admitted: user id by end of the admission, ms
  4 places        hash of places that left the line: user id to "state:score:until_ms:since_ms", and "user id:replaced"
                  to the score of a place that an earlier one of the same account took the stead of
  5 line          hash: clock, pace and counters of the line
  6 policy        hash: what an operator changed
  7 sale          hash: progress of the sale
ARGV
  1 user_id       who joins
  2 close_ms      end of the sale, ms
  3 default_mode  mode unless an operator set one
  4 restore_score score of a verified signed place, or "" for a plain join
RETURNS
  {1, score, fresh}  the place stands; fresh is 1 when this call took it, not when it moved to an earlier score
  {0, "REASON"}      refused: SALE_CLOSED, SOLD_OUT
COMPLEXITY O(log n) of those who wait
]]
local users, ready, admitted, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local line, policy, sale = KEYS[5], KEYS[6], KEYS[7]
local user_id, close_ms, default_mode, restore_score = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

local known = redis.call('HMGET', places, user_id, user_id .. ':replaced')
local record, replaced = known[1] or '', tonumber(known[2] or 0)
local state, ended_score, until_ms = string.match(record, '^(%a):(%d+):(%d+):')
-- A signed place that came to its end already, or was replaced by an earlier one in a life before, is not lived again.
local standing = redis.call('ZSCORE', users, user_id)
local spent = tonumber(ended_score or 0)
if not standing or tonumber(standing) > replaced then spent = math.max(spent, replaced) end
local proven = tonumber(restore_score)
local restored = proven and proven > spent
-- After Redis was lost, a device without the proof may have joined anew before the one that has it.
if standing and restored and proven < tonumber(standing) then
  redis.call('HSET', places, user_id .. ':replaced', string.format('%.0f', math.max(tonumber(standing), replaced)))
  redis.call('ZADD', users, restore_score, user_id)
  standing = restore_score
end
if standing then return {1, standing, 0} end
local inside = state == 'R' or state == 'A'
if inside and tonumber(until_ms) > now_ms then return {1, ended_score, 0} end

local mode = redis.call('HGET', policy, 'mode') or default_mode
if now_ms >= close_ms then return {0, 'SALE_CLOSED'} end
if redis.call('HGET', sale, 'sold_out') == '1' then return {0, 'SOLD_OUT'} end
if mode == 'DRAIN' and not restored then return {0, 'SALE_CLOSED'} end

if inside then -- out of time, and the tick has not come by yet
  redis.call('ZREM', ready, user_id)
  redis.call('ZREM', admitted, user_id)
  redis.call('HINCRBY', line, 'expired', 1)
  redis.call('HSET', places, user_id, 'E:' .. ended_score .. ':0:' .. until_ms)
end
-- Never the same score twice, nor a smaller one after a larger one, even when the clock stands or steps back.
local last = tonumber(redis.call('HGET', line, 'last_score') or 0)
local score = restored and restore_score or string.format('%.0f', math.max(now_us, last + 1))
redis.call('ZADD', users, score, user_id)
redis.call('HSET', line, 'last_score', string.format('%.0f', math.max(tonumber(score), last)))
redis.call('HINCRBY', line, 'joined', 1)
return {1, score, 1}
