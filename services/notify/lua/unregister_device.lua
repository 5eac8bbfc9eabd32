--[[ unregister_device: forgets a device of one account; a token that has moved to another account stays.
KEYS
  1 devices      hash token -> "user_id platform language"
  2 accounts     sorted set of "user_id/token"
  3 endpoints    hash token -> address that the push provider gave it
ARGV
  1 token        of the device
  2 user_id      whose device it must be
RETURNS
  1              forgotten
  0              not a device of this account: nothing changed
COMPLEXITY O(log n) with n devices in all
]]
local devices, accounts, endpoints = KEYS[1], KEYS[2], KEYS[3]
local token, user_id = ARGV[1], ARGV[2]

local known = redis.call('HGET', devices, token)
if not known or string.match(known, '^(%S+) ') ~= user_id then
  return 0
end

redis.call('HDEL', devices, token)
redis.call('HDEL', endpoints, token)
redis.call('ZREM', accounts, user_id .. '/' .. token)
return 1
