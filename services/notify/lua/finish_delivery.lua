--[[ finish_delivery: a delivery leaves the queue; whether a repetition of its fact is still recognised is the caller's choice.
KEYS
  1 seen           marker of this delivery
  2 due            sorted set delivery -> time of the next attempt
  3 jobs           hash delivery -> what to deliver
  4 attempts       hash delivery -> how often it was claimed
ARGV
  1 delivery_id    that was claimed
  2 repeatable     1: given up, so a repetition from the dead-letter topic counts as new
RETURNS
  1                finished
  0                another claim has finished it before
COMPLEXITY O(log n) with n deliveries in the queue
]]
local seen, due, jobs, attempts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delivery_id, repeatable = ARGV[1], ARGV[2]

if repeatable == '1' then
  redis.call('DEL', seen)
end
redis.call('HDEL', jobs, delivery_id)
redis.call('HDEL', attempts, delivery_id)
return redis.call('ZREM', due, delivery_id)
