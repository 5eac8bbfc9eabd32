--[[ claim_deliveries: what is due goes to exactly one caller, and comes back if the caller does not finish it in time.
KEYS
  1 due                        sorted set delivery -> time of the next attempt
  2 jobs                       hash delivery -> what to deliver
  3 attempts                   hash delivery -> how often it was claimed
ARGV
  1 most                       claim at most so many
  2 lease_ms                   until an unfinished claim is due again
RETURNS
  {pending, {id, job, n}...}   size of the queue, then each claimed delivery and how often it was claimed, this time included
COMPLEXITY O(m log n) for m claimed of n deliveries in the queue
]]
local due, jobs, attempts = KEYS[1], KEYS[2], KEYS[3]
local most, lease_ms = tonumber(ARGV[1]), tonumber(ARGV[2])

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local claimed = {redis.call('ZCARD', due)}
for _, delivery_id in ipairs(redis.call('ZRANGE', due, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, most)) do
  redis.call('ZADD', due, now_ms + lease_ms, delivery_id)
  local attempt = redis.call('HINCRBY', attempts, delivery_id, 1)
  claimed[#claimed + 1] = {delivery_id, redis.call('HGET', jobs, delivery_id), attempt}
end
return claimed
