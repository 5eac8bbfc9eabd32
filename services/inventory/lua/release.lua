--[[ release: ends a hold that the event log did not take; one that became durable all the same is left alone.
KEYS
  1 holds        hash: booking id -> record
  2 expiries     sorted set: booking id, score = due, ms
ARGV
  1 booking_id
RETURNS
  1              reap frees its seats at the next call
  0              it is not PENDING
COMPLEXITY O(log n)
]]
local holds, expiries = KEYS[1], KEYS[2]
local booking_id = ARGV[1]
local PENDING = 1

local record = redis.call('HGET', holds, booking_id)
if not record or string.byte(record, 1) ~= PENDING or string.byte(record, 2) == 0 then return 0 end
redis.call('ZADD', expiries, 'XX', 0, booking_id)
return 1
