--[[ leave: a live place ends as LEFT and its slot is free at once; without a live place nothing changes.
KEYS
  1 users     sorted set of those who wait
  2 ready     sorted set of those who are called
  3 admitted  sorted set of those who are admitted
  4 places    hash of places that left the line
  5 line      hash: counters of the line
ARGV
  1 user_id   who leaves
RETURNS
  1  a place was given up
  0  there was none
COMPLEXITY O(log n) of those who wait
]]
local users, ready, admitted, places, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local user_id = ARGV[1]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local score = redis.call('ZSCORE', users, user_id)
if not score then
  local record = redis.call('HGET', places, user_id) or ''
  score = string.match(record, '^[RA]:(%d+):')
end
if not score then return 0 end

redis.call('ZREM', users, user_id)
redis.call('ZREM', ready, user_id)
redis.call('ZREM', admitted, user_id)
redis.call('HSET', places, user_id, 'L:' .. score .. ':0:' .. now_ms)
redis.call('HINCRBY', line, 'left', 1)
return 1
