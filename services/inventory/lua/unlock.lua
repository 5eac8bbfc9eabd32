--[[ unlock: gives up a rebuild that failed, unless its lock has ended meanwhile and belongs to another one.
KEYS
  1 rebuild      the lock
ARGV
  1 token        what the caller wrote into it
RETURNS
  1              the lock is free
  0              it was not the caller's any more
COMPLEXITY O(1)
]]
local rebuild = KEYS[1]
local token = ARGV[1]

if redis.call('GET', rebuild) ~= token then return 0 end
return redis.call('DEL', rebuild)
