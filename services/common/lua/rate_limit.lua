--[[ rate_limit: takes one from the budget of each account, and then of its address; who is refused takes nothing more.
KEYS
  1 accounts   sorted set: account by the time at which its budget is whole again, µs; absent: it is whole now
  2 addresses  the same of addresses
ARGV
  1 account_us     time in which an account gains one, µs; 0: accounts have no limit
  2 account_burst  the whole budget of an account
  3 address_us     the same of addresses
  4 address_burst
  5 pairs...       account, address, account, address, …; "" stands for one that is not counted
RETURNS
  {w, …}  for each pair: 0 allowed; w > 0 refused by the account for w ms; w < 0 refused by the address for -w ms, which
          leaves the account one poorer
COMPLEXITY O(n log m) of n pairs and m budgets that are not whole
]]
local accounts, addresses = KEYS[1], KEYS[2]
local account_us, account_burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local address_us, address_burst = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]

-- The generic cell rate algorithm: one number says all about a budget.
local function wait_us(budgets, subject, interval, burst)
  if interval == 0 or subject == '' then return 0 end
  local whole_at = tonumber(redis.call('ZSCORE', budgets, subject) or now_us)
  local next_whole = math.max(whole_at, now_us) + interval
  local wait = next_whole - now_us - burst * interval
  if wait > 0 then return wait end
  redis.call('ZADD', budgets, string.format('%.0f', next_whole), subject)
  return 0
end

redis.call('ZREMRANGEBYSCORE', accounts, '-inf', string.format('%.0f', now_us))
redis.call('ZREMRANGEBYSCORE', addresses, '-inf', string.format('%.0f', now_us))
local waits = {}
for index = 5, #ARGV, 2 do
  local wait = wait_us(accounts, ARGV[index], account_us, account_burst)
  if wait == 0 then wait = -wait_us(addresses, ARGV[index + 1], address_us, address_burst) end
  waits[#waits + 1] = wait > 0 and math.ceil(wait / 1000) or math.floor(wait / 1000)
end
redis.call('PEXPIRE', accounts, math.ceil(account_us * account_burst / 1000) + 1)
redis.call('PEXPIRE', addresses, math.ceil(address_us * address_burst / 1000) + 1)
return waits
