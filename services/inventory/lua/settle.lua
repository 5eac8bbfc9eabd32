--[[ settle: makes the record of a booking say what MySQL has committed, and its seats with it; repeats change nothing.
KEYS
  1 seats        bitmap, 1 = taken
  2 owners       hash: seat index -> booking id
  3 holds        hash: booking id -> record
  4 expiries     sorted set: booking id, score = due, ms
  5 limits       hash: user id -> tickets in live bookings
  6 counts       hash: total, left, sold, version
  7 rebuild      lock of the rebuild that is under way
  8 missed       list: what was committed since that rebuild began to read MySQL
  9 promised     sorted set: booking ids in the event log that were not decided
ARGV
  1 booking_id
  2 record       the booking as committed; its second byte says whether its seats are taken
  3 due_ms       when reap looks at it; 0 = never. Of an unchanged record it is put off, never brought forward
  4 before       one byte per state from which this one can be reached: what is told late is not believed
RETURNS
  "SETTLED" | "UNCHANGED" | "STALE"
  "NOT_READY"    Redis does not know the event; a rebuild that is under way has been told
COMPLEXITY O(seats)
]]
local seats, owners, holds, expiries, limits, counts, rebuild, missed, promised =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local booking_id, record, due_ms, before = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local CONFIRMED = 3
local function expire_ms(of) return struct.unpack('>I8', of, 19) end

redis.call('ZREM', promised, booking_id)
if redis.call('EXISTS', counts) == 0 then
  if redis.call('EXISTS', rebuild) == 1 then
    redis.call('RPUSH', missed, booking_id, record, due_ms, before)
    redis.call('PEXPIRE', missed, 60000)
  end
  return 'NOT_READY'
end
local known = redis.call('HGET', holds, booking_id)
if known == record then
  if due_ms > 0 then redis.call('ZADD', expiries, 'XX', 'GT', due_ms, booking_id) end
  return 'UNCHANGED'
end
local state = known and string.sub(known, 1, 1)
if known and state ~= string.sub(record, 1, 1) and not string.find(before, state, 1, true) then return 'STALE' end
-- The time to pay is only ever lengthened: of two records of one state, that with less of it is the older one.
if known and state == string.sub(record, 1, 1) and expire_ms(record) < expire_ms(known) then return 'STALE' end

local left, sold = 0, 0
local function quantity(of) return (#of - 66) / 4 end
if known and string.byte(known, 2) == 1 then
  for at = 67, #known, 4 do
    local seat = struct.unpack('>I4', known, at)
    if redis.call('HGET', owners, seat) == booking_id then
      left = left + redis.call('SETBIT', seats, seat, 0)
      redis.call('HDEL', owners, seat)
    end
  end
  if string.byte(known, 1) == CONFIRMED then sold = -quantity(known) end
  redis.call('HINCRBY', limits, struct.unpack('>I8', known, 3), -quantity(known))
end
if string.byte(record, 2) == 1 then
  for at = 67, #record, 4 do
    local seat = struct.unpack('>I4', record, at)
    left = left - 1 + redis.call('SETBIT', seats, seat, 1)
    redis.call('HSET', owners, seat, booking_id)
  end
  if string.byte(record, 1) == CONFIRMED then sold = sold + quantity(record) end
  redis.call('HINCRBY', limits, struct.unpack('>I8', record, 3), quantity(record))
end
redis.call('HSET', holds, booking_id, record)
if due_ms == 0 then redis.call('ZREM', expiries, booking_id) else redis.call('ZADD', expiries, due_ms, booking_id) end
redis.call('HINCRBY', counts, 'left', left)
redis.call('HINCRBY', counts, 'sold', sold)
if left ~= 0 or sold ~= 0 then redis.call('HINCRBY', counts, 'version', 1) end
return 'SETTLED'
