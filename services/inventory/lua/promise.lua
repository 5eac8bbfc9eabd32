--[[ promise: notes which PENDING bookings are in the event log, so that a promise that nobody keeps can be found.
KEYS
  1 holds        hash: booking id -> record
  2 promised     sorted set: booking id, score = when it was promised, ms
ARGV
  1 keep_ms      the note ends this long after the last promise of the event
  2 bookings...  booking ids
RETURNS
  n              how many were PENDING still
COMPLEXITY O(bookings × log n)
]]
local holds, promised = KEYS[1], KEYS[2]
local keep_ms, first = ARGV[1], 2
local PENDING = 1

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local noted = 0
for at = first, #ARGV do
  local record = redis.call('HGET', holds, ARGV[at])
  if record and string.byte(record, 1) == PENDING then
    -- A repeat is not a new promise.
    redis.call('ZADD', promised, 'NX', now, ARGV[at])
    noted = noted + 1
  end
end
if noted > 0 then redis.call('PEXPIRE', promised, keep_ms) end
return noted
