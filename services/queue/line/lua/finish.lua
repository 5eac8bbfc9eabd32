--[[ finish: who has bought is DONE, and the slot is free at once; handling the same purchase again changes nothing.
That it is done and the fact of it are written together.
KEYS
  1 users         sorted set of those who wait in lane 0
  2 lane_1        likewise of lane 1
  3 lane_2        likewise of lane 2
  4 lane_3        likewise of lane 3
  5 lanes         hash: lanes of those who are not in lane 0
  6 admitted      sorted set of those who are admitted
  7 places        hash of places that left the line
  8 line          hash: counters of the line
  9 outbox        stream of facts, until they are published
ARGV
  1 user_id       who has bought
  2 confirmed_ms  when the purchase was committed, ms on the clock of inventory
  3 tolerance_ms  how far that clock may be behind Redis' own
RETURNS
  {1, 1}            the place is DONE now
  {1, 0}            nothing to finish: no admission, or one that began, or ran out of a place that began, after this
                    purchase
  {0, "NOT_BUILT"}  the line is not there, or was lost: whose places ended is not known
COMPLEXITY O(log n) of those inside
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, admitted, places, line, outbox = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local user_id, confirmed_ms, tolerance_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('HEXISTS', line, 'built') == 0 then return {0, 'NOT_BUILT'} end
local record = redis.call('HGET', places, user_id) or ''
local state, score, until_ms, since_ms, calls = string.match(record, '^([AE]):(%d+):(%d+):(%d+):(%d)$')
local lane = tonumber(redis.call('HGET', lanes, user_id) or 0)
if not state or redis.call('ZSCORE', sets[lane], user_id) then return {1, 0} end
-- An old purchase, told again, must not end the admission that its buyer got later, nor turn what ran out of it to DONE.
-- When an ended admission began is no longer known, but its place is older than it.
local began_ms = state == 'A' and tonumber(since_ms) or tonumber(score) / 1000
if confirmed_ms + tolerance_ms < began_ms then return {1, 0} end

redis.call('ZREM', admitted, user_id)
redis.call('HSET', places, user_id, 'D:' .. score .. ':0:' .. now_ms .. ':' .. calls)
redis.call('HINCRBY', line, 'done', 1)
local fact = {'kind', 'done', 'user_id', user_id, 'at_ms', now_ms, 'lane', lane, 'score', score}
if state == 'A' then -- tells inventory which tokens are not good any more
  for _, each in ipairs({'until_ms', until_ms, 'admitted_ms', since_ms}) do fact[#fact + 1] = each end
end
redis.call('XADD', outbox, '*', unpack(fact))
return {1, 1}
