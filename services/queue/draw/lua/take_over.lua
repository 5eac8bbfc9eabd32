--[[ take_over: some of those whom the list of a draw names take part in it, in the lanes of the list, whatever Redis lost.
KEYS
  1 users      sorted set of those who wait in lane 0
  2 lane_1     likewise of lane 1
  3 lane_2     likewise of lane 2
  4 lane_3     likewise of lane 3
  5 lanes      hash: user id to lane, of those who are not in lane 0
  6 entrants   sorted set of those who take part in the draw
  7 draw       hash: how far the draw is
  8 line       hash: whether the line is built, and by which attempt it is being rebuilt
ARGV
  1 attempt    the one that rebuilds the line, or "" for a holder of the draw
  2 key        the key of the draw
  3 joined_us  when they joined, as far as is known, µs
  4 entries... user id and lane, in turn
RETURNS
  1  done
  0  the line was lost meanwhile, or the draw is held: nothing was written
COMPLEXITY O(m log n) for m people
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, draw, line = KEYS[6], KEYS[7], KEYS[8]
local attempt, key, joined_us = ARGV[1], ARGV[2], ARGV[3]
local sets = {['0'] = users, ['1'] = lane_1, ['2'] = lane_2, ['3'] = lane_3}

local life = redis.call('HMGET', line, 'built', 'rebuilding')
local known = redis.call('HMGET', draw, 'key', 'held_ms')
if attempt ~= '' and (life[1] or life[2] ~= attempt) then return 0 end
if attempt == '' and (known[1] ~= key or known[2]) then return 0 end

for i = 4, #ARGV, 2 do
  local user_id, lane = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', lanes, user_id) or '0'
  -- Who takes part already has a lane; who stands in one, having joined anew, keeps it.
  if redis.call('ZADD', entrants, 'NX', joined_us, user_id) == 1 and not redis.call('ZSCORE', sets[before], user_id) then
    if lane == '0' then redis.call('HDEL', lanes, user_id) else redis.call('HSET', lanes, user_id, lane) end
  end
end
return 1
