--[[ open_session: a session exists from here on, and never without an end.
KEYS
  1 session           hash of one session
ARGV
  1 user_id           whose it is
  2 password_version  of the account, at login
  3 refresh_digest    SHA-256 of the secret of the only refresh token that is accepted
  4 lifetime_ms       until it ends unless it is rotated
RETURNS
  expire_ms           when it ends, on Redis' clock
COMPLEXITY O(1)
]]
local session = KEYS[1]
local user_id, password_version, refresh_digest, lifetime_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local time = redis.call('TIME')
local expire_ms = time[1] * 1000 + math.floor(time[2] / 1000) + lifetime_ms

redis.call('HSET', session, 'user_id', user_id, 'password_version', password_version, 'refresh_digest', refresh_digest)
redis.call('PEXPIREAT', session, expire_ms)
return expire_ms
