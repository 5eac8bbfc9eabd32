--[[ hold: takes one block of seats for a booking, whole, or nothing at all; a repeat gets the first answer.
KEYS
  1 seats        bitmap, 1 = taken
  2 owners       hash: seat index -> booking id that it is taken for
  3 holds        hash: booking id -> record (services/inventory/records.py)
  4 expiries     sorted set: booking id, score = when reap looks at it, ms
  5 limits       hash: user id -> tickets in live bookings
  6 counts       hash: total, left, sold, version; absent until the event is rebuilt from MySQL
  7 revoked      sorted set of admissions that ended early: id of their tokens by when those end, ms
ARGV
  1 booking_id   derived from account, event and key: the same for a repeat
  2 user_id
  3 request_hash 32 bytes
  4 limit        tickets that one person may have
  5 hold_ms      life of the hold unless it becomes durable
  6 pay_ms       time to pay, promised to the buyer
  7 token_id     what the account's admission token is known by
  8 blocks...    ranked candidates, each packed: amount u64, then seat indexes u32; all of one size
RETURNS
  {"HELD", record}        the first block that was wholly free is taken
  {"REPEAT", record}      the booking is known; nothing changed
  {"KEY_REUSED"}          the booking is known, with another request
  {"REVOKED"}             the admission has ended: nothing is held for it any more
  {"LIMIT"}               the person would have too many tickets
  {"TAKEN", left, ...}    no block is wholly free: seats left in the event, then the taken seats of the first block
  {"NOT_READY"}           fail closed: rebuild the event first
COMPLEXITY O(seats of all blocks)
]]
local seats, owners, holds, expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limits, counts, revoked = KEYS[5], KEYS[6], KEYS[7]
local booking_id, user_id, request_hash = ARGV[1], ARGV[2], ARGV[3]
local limit, hold_ms, pay_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local token_id, blocks = ARGV[7], {unpack(ARGV, 8)}
local PENDING = 1

if redis.call('EXISTS', counts) == 0 then return {'NOT_READY'} end

-- A hold that lapsed before it became durable is taken again on the same seats, because the event log may know them.
local known = redis.call('HGET', holds, booking_id)
if known then
  if string.sub(known, 27, 58) ~= request_hash then return {'KEY_REUSED'} end
  if string.byte(known, 1) ~= PENDING or string.byte(known, 2) == 1 then return {'REPEAT', known} end
  blocks = {string.sub(known, 59)}
end

if redis.call('ZSCORE', revoked, token_id) then return known and {'REPEAT', known} or {'REVOKED'} end

local quantity = (#blocks[1] - 8) / 4
local mine = tonumber(redis.call('HGET', limits, user_id) or 0)
if mine + quantity > limit then return known and {'REPEAT', known} or {'LIMIT'} end

local won, refusal
for _, block in ipairs(blocks) do
  local claims, taken = {}, {}
  for at = 9, #block, 4 do
    local seat = struct.unpack('>I4', block, at)
    if redis.call('GETBIT', seats, seat) == 1 then taken[#taken + 1] = seat end
    claims[#claims + 1] = seat
    claims[#claims + 1] = booking_id
  end
  if #taken == 0 then won = {block = block, claims = claims} break end
  refusal = refusal or {'TAKEN', tonumber(redis.call('HGET', counts, 'left')), unpack(taken)}
end
if not won then return known and {'REPEAT', known} or refusal end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = struct.pack('>BBI8I8I8', PENDING, 1, tonumber(user_id), now, now + pay_ms)
local record = head .. request_hash .. won.block
for at = 1, #won.claims, 2 do redis.call('SETBIT', seats, won.claims[at], 1) end
redis.call('HSET', owners, unpack(won.claims))
redis.call('HSET', holds, booking_id, record)
redis.call('ZADD', expiries, now + hold_ms, booking_id)
redis.call('HINCRBY', limits, user_id, quantity)
redis.call('HINCRBY', counts, 'left', -quantity)
redis.call('HINCRBY', counts, 'version', 1)
return {'HELD', record}
