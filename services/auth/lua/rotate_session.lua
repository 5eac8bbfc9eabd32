--[[ rotate_session: of all uses of one refresh token exactly one gets the next; any other use ends the session.
Comparing and replacing are one step: were they two, two callers with the same token would both be given a new one, and
the theft of a token would go unseen.
KEYS
  1 session         hash of one session
ARGV
  1 used_digest     of the refresh token that is being used
  2 next_digest     of the token that replaces it
  3 lifetime_ms     until the session ends unless it is rotated again
RETURNS
  {1, expire_ms}    rotated; when the session ends, on Redis' clock
  {0, "ENDED"}      there is no such session
  {0, "REUSED"}     the token was spent before; the session has been ended now
COMPLEXITY O(1)
]]
local session = KEYS[1]
local used_digest, next_digest, lifetime_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

local refresh_digest = redis.call('HGET', session, 'refresh_digest')
if not refresh_digest then
  return {0, 'ENDED'}
end
if refresh_digest ~= used_digest then
  redis.call('DEL', session)
  return {0, 'REUSED'}
end

local time = redis.call('TIME')
local expire_ms = time[1] * 1000 + math.floor(time[2] / 1000) + lifetime_ms

redis.call('HSET', session, 'refresh_digest', next_digest)
redis.call('PEXPIREAT', session, expire_ms)
return {1, expire_ms}
