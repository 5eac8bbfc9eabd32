--[[ enqueue_delivery: however often a fact arrives, it is delivered to a device once.
Remembering the fact and queueing its delivery are one step: between two, a crash would lose the message.
KEYS
  1 seen           marker of this delivery
  2 due            sorted set delivery -> time of the next attempt
  3 jobs           hash delivery -> what to deliver
ARGV
  1 delivery_id    fact and device
  2 job            what to deliver
  3 remember_ms    how long a repetition is recognised
RETURNS
  1                queued
  0                a repetition: nothing changed
COMPLEXITY O(log n) with n deliveries in the queue
]]
local seen, due, jobs = KEYS[1], KEYS[2], KEYS[3]
local delivery_id, job, remember_ms = ARGV[1], ARGV[2], ARGV[3]

if not redis.call('SET', seen, '1', 'NX', 'PX', remember_ms) then
  return 0
end

local time = redis.call('TIME')
redis.call('HSET', jobs, delivery_id, job)
redis.call('ZADD', due, time[1] * 1000 + math.floor(time[2] / 1000), delivery_id)
return 1
