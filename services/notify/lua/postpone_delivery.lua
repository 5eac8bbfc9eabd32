--[[ postpone_delivery: the next attempt is made after a pause, by whoever claims it then.
KEYS
  1 due            sorted set delivery -> time of the next attempt
ARGV
  1 delivery_id    that was claimed
  2 pause_ms       from now
RETURNS
  1                postponed
  0                another claim has finished it: nothing changed
COMPLEXITY O(log n) with n deliveries in the queue
]]
local due = KEYS[1]
local delivery_id, pause_ms = ARGV[1], tonumber(ARGV[2])

if not redis.call('ZSCORE', due, delivery_id) then
  return 0
end

local time = redis.call('TIME')
redis.call('ZADD', due, time[1] * 1000 + math.floor(time[2] / 1000) + pause_ms, delivery_id)
return 1
