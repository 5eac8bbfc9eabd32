--[[ set_progress: the newest count of seats wins, in whatever order counts arrive.
KEYS
  1 sale         hash: progress of the sale
ARGV
  1 counted_ms   when the seats were counted, ms
  2 seats_total  seats in all
  3 seats_left   seats neither held nor sold
  4 seats_sold   seats sold
RETURNS
  1  stored
  0  older than what is stored
COMPLEXITY O(1)
]]
local sale = KEYS[1]
local counted_ms, seats_total, seats_left, seats_sold = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local known_ms = tonumber(redis.call('HGET', sale, 'counted_ms') or 0)
if tonumber(counted_ms) < known_ms then return 0 end

local sold_out = tonumber(seats_total) > 0 and tonumber(seats_sold) >= tonumber(seats_total)
redis.call('HSET', sale, 'counted_ms', counted_ms, 'seats_total', seats_total, 'seats_left', seats_left,
  'seats_sold', seats_sold, 'sold_out', sold_out and '1' or '0')
return 1
