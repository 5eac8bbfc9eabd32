--[[ activate: an event is ticked from now on, because someone is about to join its line.
KEYS
  1 active    sorted set of events with a live line: event id by the last time somebody was about to join, ms
ARGV
  1 event_id  the event
RETURNS
  1  it was not ticked until now
  0  it was
COMPLEXITY O(log n) of events
]]
local active = KEYS[1]
local event_id = ARGV[1]
local time = redis.call('TIME')

return redis.call('ZADD', active, time[1] * 1000 + math.floor(time[2] / 1000), event_id)
