--[[ set_policy: some rules of a line are changed together, and the caller learns exactly what was there before.
KEYS
  1 users      sorted set of those who wait in lane 0
  2 lane_1     likewise of lane 1
  3 lane_2     likewise of lane 2
  4 lane_3     likewise of lane 3
  5 lanes      hash: lanes of those who are not in lane 0
  6 policy     hash: what an operator changed
  7 line       hash: pace of the line
  8 draw       hash: how far the draw is
ARGV
  1 kept       the lanes that stay in use, as digits, or "" when lanes are not changed
  2 changes... field and value, in turn
RETURNS
  {1, version, field, value, ...}  what an operator had set before; version is that of the policy now
  {0, "LANE_IN_USE"}      a lane that would go has people; nothing was changed
COMPLEXITY O(1); when lanes change before the draw is held, O(n) of those in priority lanes
]]
local users, lane_1, lane_2, lane_3 = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lanes, policy, line, draw = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local kept = ARGV[1]
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')

local people = {}
for lane = 0, 3 do people[lane] = redis.call('ZCARD', sets[lane]) end
if kept ~= '' and redis.call('HEXISTS', draw, 'held_ms') == 0 then
  for _, lane in ipairs(redis.call('HVALS', lanes)) do people[tonumber(lane)] = 1 end
end
for lane = 0, 3 do
  if kept ~= '' and people[lane] > 0 and not string.find(kept, lane, 1, true) then return {0, 'LANE_IN_USE'} end
end

local before = redis.call('HGETALL', policy)
-- Higher than before, and than those of a life that was lost: the log is told of changes in any order.
local version = math.max(tonumber(redis.call('HGET', policy, 'version') or 0) + 1, time[1] * 1000000 + time[2])
redis.call('HSET', policy, 'version', string.format('%.0f', version), unpack(ARGV, 2))
for i = 2, #ARGV, 2 do
  -- What was observed under another rate says nothing about the next minute.
  if ARGV[i] == 'rate' then redis.call('HDEL', line, 'observed_rate') end
end
return {1, version, unpack(before)}
