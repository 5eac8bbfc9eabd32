--[[ observe: how many people are called per second, over the last minute in which someone could be called and people
waited. An empty or a held line does not make the next estimate look bad.
KEYS
  1 line          hash: clock, pace and counters of the line
  2 policy        hash: what an operator changed
ARGV
  1 default_rate  people called per second unless an operator set it: what is expected at first
  2 calling       1 when people can be called now, or 0
  3 waiting       how many wait now
RETURNS
  the rate, as text
COMPLEXITY O(1)
]]
local line, policy = KEYS[1], KEYS[2]
local default_rate, calling, waiting = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

local called, seen_called, seen_us, backlog, observed =
  unpack(redis.call('HMGET', line, 'called', 'observed_called', 'observed_us', 'backlog', 'observed_rate'))
local rate = tonumber(observed or redis.call('HGET', policy, 'rate') or default_rate)
local elapsed = math.max(0, now_us - tonumber(seen_us or now_us)) / 1000000
if calling == '1' and backlog == '1' and elapsed > 0 then
  local count = tonumber(called or 0) - tonumber(seen_called or 0)
  rate = rate + (1 - math.exp(-elapsed / 60)) * (count / elapsed - rate)
end
local told = string.format('%.9f', rate)
redis.call('HSET', line, 'observed_called', called or 0, 'observed_us', string.format('%.0f', now_us),
  'backlog', (calling == '1' and waiting > 0) and '1' or '0', 'observed_rate', told)
return told
