--[[ claim: a called person becomes an admitted one, once; a repeat finds the same admission.
KEYS
  1 users                 sorted set of those who wait
  2 ready                 sorted set of those who are called
  3 admitted              sorted set of those who are admitted
  4 places                hash of places that left the line
  5 line                  hash: counters of the line
  6 policy                hash: what an operator changed
ARGV
  1 user_id               who claims
  2 default_admission_ms  how long an admission lasts unless an operator set it
RETURNS
  {1, until_ms, since_ms, score, fresh}  admitted; fresh is 1 when this call did it
  {0, "REASON"}                          refused: PLACE_NOT_FOUND, PLACE_NOT_READY
COMPLEXITY O(log n) of those inside
]]
local users, ready, admitted, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local line, policy = KEYS[5], KEYS[6]
local user_id, default_admission_ms = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local record = redis.call('HGET', places, user_id)
local waits = redis.call('ZSCORE', users, user_id)
if not record and not waits then return {0, 'PLACE_NOT_FOUND'} end
if waits then return {0, 'PLACE_NOT_READY'} end
local state, score, until_ms, since_ms = string.match(record, '^(%a):(%d+):(%d+):(%d+)$')
if tonumber(until_ms) <= now_ms then return {0, 'PLACE_NOT_READY'} end
if state == 'A' then return {1, tonumber(until_ms), tonumber(since_ms), score, 0} end

local admission_until = now_ms + tonumber(redis.call('HGET', policy, 'admission_ms') or default_admission_ms)
redis.call('ZREM', ready, user_id)
redis.call('ZADD', admitted, admission_until, user_id)
redis.call('HSET', places, user_id, 'A:' .. score .. ':' .. admission_until .. ':' .. now_ms)
redis.call('HINCRBY', line, 'claimed', 1)
return {1, admission_until, now_ms, score, 1}
