--[[ rebuild: replaces what Redis knows of an event by what MySQL knows, at once, and opens the event for holds.
KEYS
  1 seats        bitmap, 1 = taken
  2 owners       hash: seat index -> booking id
  3 holds        hash: booking id -> record
  4 expiries     sorted set: booking id, score = due, ms
  5 limits       hash: user id -> tickets in live bookings
  6 counts       hash: total, left, sold, version
  7 rebuild      the lock: taken before MySQL was read
  8 missed       list: what was committed meanwhile; booking id, record, due ms, states before it
ARGV
  1 token        what the caller wrote into the lock
  2 total        seats of the event
  3 bookings...  triples: booking id, record, due ms (0 = never)
RETURNS
  1              done
  0              the lock is lost: nothing was changed
COMPLEXITY O(seats of all bookings): some 200 ms for 20,000 bookings, in which Redis serves nobody
]]
local seats, owners, holds, expiries, limits, counts, rebuild, missed =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local token, total, first = ARGV[1], tonumber(ARGV[2]), 3
local CONFIRMED = 3
local function expire_ms(of) return struct.unpack('>I8', of, 19) end

if redis.call('GET', rebuild) ~= token then return 0 end
redis.call('DEL', seats, owners, holds, expiries, limits, counts)
-- Gives the bitmap its full length: readers need not pad it.
redis.call('SETBIT', seats, total - 1, 0)

local latest = {}
for at = first, #ARGV, 3 do latest[ARGV[at]] = {ARGV[at + 1], ARGV[at + 2]} end
local late = redis.call('LRANGE', missed, 0, -1)
for at = 1, #late, 4 do
  local known = latest[late[at]]
  local state = known and string.sub(known[1], 1, 1)
  local newer = known and state == string.sub(late[at + 1], 1, 1) and expire_ms(late[at + 1]) >= expire_ms(known[1])
  if not known or newer or string.find(late[at + 3], state, 1, true) then
    latest[late[at]] = {late[at + 1], late[at + 2]}
  end
end

local taken, sold = 0, 0
for booking_id, entry in pairs(latest) do
  local record, due_ms = entry[1], tonumber(entry[2])
  if string.byte(record, 2) == 1 then
    for seat_at = 67, #record, 4 do
      local seat = struct.unpack('>I4', record, seat_at)
      redis.call('SETBIT', seats, seat, 1)
      redis.call('HSET', owners, seat, booking_id)
    end
    local quantity = (#record - 66) / 4
    redis.call('HINCRBY', limits, struct.unpack('>I8', record, 3), quantity)
    taken = taken + quantity
    if string.byte(record, 1) == CONFIRMED then sold = sold + quantity end
  end
  redis.call('HSET', holds, booking_id, record)
  if due_ms > 0 then redis.call('ZADD', expiries, due_ms, booking_id) end
end

-- Versions start at the clock, in microseconds, so that they grow also when the earlier ones were lost.
local time = redis.call('TIME')
local version = string.format('%d%06d', time[1], time[2])
redis.call('HSET', counts, 'total', total, 'left', total - taken, 'sold', sold, 'version', version)
redis.call('DEL', rebuild, missed)
return 1
