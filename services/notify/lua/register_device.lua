--[[ register_device: a token belongs to exactly one account at any moment; registering it moves it to the caller.
KEYS
  1 devices      hash token -> "user_id platform language"
  2 accounts     sorted set of "user_id/token", all scores 0: the devices of one account are one lexical range
  3 endpoints    hash token -> address that the push provider gave it
ARGV
  1 token        of the device
  2 user_id      of the caller
  3 platform     of the token
  4 language     of messages to it
  5 most         devices that one account may have
RETURNS
  {1, count}     registered; how many devices the account has now
  {0, count}     refused: the account has as many as it may
COMPLEXITY O(log n) with n devices in all
]]
local devices, accounts, endpoints = KEYS[1], KEYS[2], KEYS[3]
local token, user_id, platform, language, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local owner, known_as
local known = redis.call('HGET', devices, token)
if known then
  owner, known_as = string.match(known, '^(%S+) (%S+) ')
end

local count = redis.call('ZLEXCOUNT', accounts, '[' .. user_id .. '/', '(' .. user_id .. '0')
if owner ~= user_id and count >= most then
  return {0, count}
end

if owner and owner ~= user_id then
  redis.call('ZREM', accounts, owner .. '/' .. token)
end
if known_as ~= platform then
  redis.call('HDEL', endpoints, token)
end
redis.call('HSET', devices, token, user_id .. ' ' .. platform .. ' ' .. language)
count = count + redis.call('ZADD', accounts, 0, user_id .. '/' .. token)
return {1, count}
