--[[ claim: a called person becomes an admitted one, once; a repeat finds the same admission. The admission and its fact
are written together.
KEYS
  1 users                 sorted set of those who wait in lane 0
  2 lane_1                likewise of lane 1
  3 lane_2                likewise of lane 2
  4 lane_3                likewise of lane 3
  5 lanes                 hash: lanes of those who are not in lane 0
  6 entrants              sorted set of those who take part in the draw
  7 ready                 sorted set of those who are called
  8 admitted              sorted set of those who are admitted
  9 places                hash of places that left the line
 10 line                  hash: counters of the line
 11 policy                hash: what an operator changed
 12 outbox                stream of facts, until they are published
ARGV
  1 user_id               who claims
  2 default_admission_ms  how long an admission lasts unless an operator set it
RETURNS
  {1, until_ms, since_ms, score, lane, entry_id, built}  admitted; entry_id is that of the fact in the outbox when this
                          call did it, and "" at a repeat; built is the life of the line in which this is so
  {0, "REASON"}           refused: PLACE_NOT_FOUND, PLACE_NOT_READY, NOT_BUILT (the line is not there, or was lost)
COMPLEXITY O(log n) of those inside
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, entrants, ready, admitted, places = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local line, policy, outbox = KEYS[10], KEYS[11], KEYS[12]
local user_id, default_admission_ms = ARGV[1], ARGV[2]
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local built = redis.call('HGET', line, 'built')
if not built then return {0, 'NOT_BUILT'} end
local record = redis.call('HGET', places, user_id)
local lane = tonumber(redis.call('HGET', lanes, user_id) or 0)
if redis.call('ZSCORE', sets[lane], user_id) then return {0, 'PLACE_NOT_READY'} end
if not record then return {0, redis.call('ZSCORE', entrants, user_id) and 'PLACE_NOT_READY' or 'PLACE_NOT_FOUND'} end
local state, score, until_ms, since_ms, calls = string.match(record, '^(%a):(%d+):(%d+):(%d+):(%d)$')
if (state ~= 'R' and state ~= 'A') or tonumber(until_ms) <= now_ms then return {0, 'PLACE_NOT_READY'} end
if state == 'A' then return {1, tonumber(until_ms), tonumber(since_ms), score, lane, '', built} end

local admission_until = now_ms + tonumber(redis.call('HGET', policy, 'admission_ms') or default_admission_ms)
redis.call('ZREM', ready, user_id)
redis.call('ZADD', admitted, admission_until, user_id)
redis.call('HSET', places, user_id, 'A:' .. score .. ':' .. admission_until .. ':' .. now_ms .. ':' .. calls)
redis.call('HINCRBY', line, 'claimed', 1)
local entry_id = redis.call('XADD', outbox, '*', 'kind', 'admitted', 'user_id', user_id, 'at_ms', now_ms,
  'until_ms', admission_until, 'lane', lane, 'score', score, 'calls', calls)
return {1, admission_until, now_ms, score, lane, entry_id, built}
