--[[ keep_lock: the one who rebuilds a line keeps the lock while it is alive, or gives it up; nobody else does.
KEYS
  1 rebuild  the lock of those who rebuild: the name of the attempt that has it
ARGV
  1 attempt  the name given to the lock
  2 ttl_ms   how long it holds from now on, ms, or 0: let go
RETURNS
  1  done
  0  it is somebody else's, or nobody's
COMPLEXITY O(1)
]]
local rebuild = KEYS[1]
local attempt, ttl_ms = ARGV[1], tonumber(ARGV[2])

if redis.call('GET', rebuild) ~= attempt then return 0 end
return ttl_ms > 0 and redis.call('PEXPIRE', rebuild, ttl_ms) or redis.call('DEL', rebuild)
