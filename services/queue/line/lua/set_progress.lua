--[[ set_progress: the newest count of seats wins, in whatever order counts arrive.
KEYS
  1 sale         hash: progress of the sale
  2 line         hash: clock, pace and counters of the line
ARGV
  1 counted_ms   when the seats were counted, ms
  2 seats_total  seats in all
  3 seats_left   seats neither held nor sold
  4 seats_sold   seats sold
  5 keep_ms      how long the count is kept where there is no line
RETURNS
  2  stored, and a sale that was sold out goes on
  1  stored
  0  older than what is stored
COMPLEXITY O(1)
]]
local sale, line = KEYS[1], KEYS[2]
local counted_ms, seats_total, seats_left, seats_sold, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local known_ms, was_sold_out = unpack(redis.call('HMGET', sale, 'counted_ms', 'sold_out'))
if tonumber(counted_ms) < tonumber(known_ms or 0) then return 0 end

local sold_out = tonumber(seats_total) > 0 and tonumber(seats_sold) >= tonumber(seats_total)
redis.call('HSET', sale, 'counted_ms', counted_ms, 'seats_total', seats_total, 'seats_left', seats_left,
  'seats_sold', seats_sold, 'sold_out', sold_out and '1' or '0')
-- It goes with its line, whatever becomes of that.
local left_ms = redis.call('PTTL', line)
if left_ms == -1 then redis.call('PERSIST', sale) else redis.call('PEXPIRE', sale, left_ms == -2 and keep_ms or left_ms) end
return (was_sold_out == '1' and not sold_out) and 2 or 1
