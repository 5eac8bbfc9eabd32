--[[ reap: frees the seats of holds that are over, oldest first; later drops what was kept of them to answer repeats.
KEYS
  1 seats        bitmap, 1 = taken
  2 owners       hash: seat index -> booking id
  3 holds        hash: booking id -> record
  4 expiries     sorted set: booking id, score = due, ms
  5 limits       hash: user id -> tickets in live bookings
  6 counts       hash: total, left, sold, version
ARGV
  1 most         look at no more than this many
  2 keep_ms      how long a record is kept after its seats are free
RETURNS
  n              how many were due
COMPLEXITY O(most × seats of one)
]]
local seats, owners, holds, expiries, limits, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local most, keep_ms = tonumber(ARGV[1]), tonumber(ARGV[2])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, most)
for _, booking_id in ipairs(due) do
  local record = redis.call('HGET', holds, booking_id)
  if not record or string.byte(record, 2) == 0 then
    redis.call('HDEL', holds, booking_id)
    redis.call('ZREM', expiries, booking_id)
  else
    local freed = 0
    for at = 67, #record, 4 do
      local seat = struct.unpack('>I4', record, at)
      -- MySQL may have given the seat to another booking meanwhile: then it is not this one's to free.
      if redis.call('HGET', owners, seat) == booking_id then
        redis.call('SETBIT', seats, seat, 0)
        redis.call('HDEL', owners, seat)
        freed = freed + 1
      end
    end
    redis.call('HINCRBY', limits, struct.unpack('>I8', record, 3), -(#record - 66) / 4)
    redis.call('HSET', holds, booking_id, string.sub(record, 1, 1) .. '\0' .. string.sub(record, 3))
    redis.call('ZADD', expiries, now + keep_ms, booking_id)
    redis.call('HINCRBY', counts, 'left', freed)
    redis.call('HINCRBY', counts, 'version', 1)
  end
end
return #due
