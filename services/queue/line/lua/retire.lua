--[[ retire: an event whose line was found empty is no longer ticked, unless somebody was about to join lately.
The line and this set may live on different nodes of a cluster, so no script can look at both. A join announces itself here first;
the quiet time covers whatever is between the announcement and the join.
KEYS
  1 active    sorted set of events with a live line
ARGV
  1 event_id  the event
  2 quiet_ms  how long nobody must have announced a join
RETURNS
  1  retired
  0  still active
COMPLEXITY O(log n) of events
]]
local active = KEYS[1]
local event_id, quiet_ms = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local announced_ms = tonumber(redis.call('ZSCORE', active, event_id) or now_ms)
if announced_ms + quiet_ms > now_ms then return 0 end
return redis.call('ZREM', active, event_id)
