--[[ read: the line and the places of some people in it, all of the same instant.
KEYS
  1 users         sorted set of those who wait
  2 places        hash of places that left the line
  3 line          hash: clock, pace and counters of the line
  4 policy        hash: what an operator changed
  5 sale          hash: progress of the sale
ARGV
  1 default_mode  mode unless an operator set one
  2 default_rate  people called per second, likewise
  3 user_ids...   whose places
RETURNS
  {now_ms, waiting, mode, rate, sold_out, seats_left, place...}  rate is the observed one, as text; sold_out is "1" or
      not; seats_left is "" until the sale reported; each place is {rank, score} of one who waits,
      {-1, "state:score:until_ms:since_ms"} of one who was in line, or {-1, ""}
COMPLEXITY O(m log n) for m people of n who wait
]]
local users, places, line, policy, sale = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local default_mode, default_rate = ARGV[1], ARGV[2]
local time = redis.call('TIME')

local function place(user_id)
  local rank = redis.call('ZRANK', users, user_id)
  if rank then return {rank, redis.call('ZSCORE', users, user_id)} end
  return {-1, redis.call('HGET', places, user_id) or ''}
end

local set = redis.call('HMGET', policy, 'mode', 'rate')
local rate = redis.call('HGET', line, 'observed_rate') or set[2] or default_rate
local progress = redis.call('HMGET', sale, 'sold_out', 'seats_left')
local answer = {
  time[1] * 1000 + math.floor(time[2] / 1000), redis.call('ZCARD', users),
  set[1] or default_mode, rate, progress[1] or '0', progress[2] or '',
}
for i = 3, #ARGV do answer[#answer + 1] = place(ARGV[i]) end
return answer
