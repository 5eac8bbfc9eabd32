--[[ finish: who has bought is DONE, and the slot is free at once; handling the same purchase again changes nothing.
KEYS
  1 users         sorted set of those who wait
  2 admitted      sorted set of those who are admitted
  3 places        hash of places that left the line
  4 line          hash: counters of the line
ARGV
  1 user_id       who has bought
  2 confirmed_ms  when the purchase was committed, ms on the clock of inventory
  3 tolerance_ms  how far that clock may be behind Redis' own
RETURNS
  1  the place is DONE now
  0  nothing to finish: no admission, or one that began, or ran out of a place that began, after this purchase
COMPLEXITY O(log n) of those inside
]]
local users, admitted, places, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local user_id, confirmed_ms, tolerance_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local record = redis.call('HGET', places, user_id) or ''
local state, score, _, since_ms = string.match(record, '^([AE]):(%d+):(%d+):(%d+)$')
if not state or redis.call('ZSCORE', users, user_id) then return 0 end
-- An old purchase, told again, must not end the admission that its buyer got later, nor turn what ran out of it to DONE.
-- When an ended admission began is no longer known, but its place is older than it.
local began_ms = state == 'A' and tonumber(since_ms) or tonumber(score) / 1000
if confirmed_ms + tolerance_ms < began_ms then return 0 end

redis.call('ZREM', admitted, user_id)
redis.call('HSET', places, user_id, 'D:' .. score .. ':0:' .. now_ms)
redis.call('HINCRBY', line, 'done', 1)
return 1
