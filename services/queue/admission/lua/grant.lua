--[[ grant: this node backs one holder of a lease at a time, and no fence that is not above all that it has backed.
Takes the lease, keeps it, and, on a node that has lost its memory or was away, gives it back to who holds it elsewhere.
KEYS
  1 lease   hash: holder, until_ms, and the highest fence that was ever backed here, which outlives every holder by a month
ARGV
  1 holder  who asks
  2 fence   the number of the lease; the same again only for who has it. 0 is a look, and always refused
  3 ttl_ms  how long it is backed
RETURNS
  {1, fence, 0}        backed from now on
  {0, fence, left_ms}  refused: the highest fence backed so far, and for how long another holder is still backed, or 0
COMPLEXITY O(1)
]]
local lease = KEYS[1]
local holder, fence, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- A month, in which a holder must not have stood still: the fence that is written in the line is a floor after that.
local FORGET_MS = 2592000000
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', lease, 'holder', 'until_ms', 'fence')
local highest, is_holder = tonumber(known[3] or 0), known[1] == holder

local left_ms = is_holder and 0 or math.max(0, tonumber(known[2] or 0) - now_ms)
if left_ms > 0 or fence < highest or (fence == highest and not is_holder) then return {0, highest, left_ms} end

redis.call('HSET', lease, 'holder', holder, 'until_ms', string.format('%.0f', now_ms + ttl_ms), 'fence', ARGV[2])
redis.call('PEXPIRE', lease, FORGET_MS)
return {1, fence, 0}
