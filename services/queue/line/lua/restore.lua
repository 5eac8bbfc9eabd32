--[[ restore: a place that was proven stands again, in its order, where the line has lost it; no place is lived twice.
KEYS
  1 users         sorted set of those who wait in lane 0: user id by score
  2 lane_1        likewise of lane 1
  3 lane_2        likewise of lane 2
  4 lane_3        likewise of lane 3
  5 lanes         hash: lanes of those who are not in lane 0
  6 entrants      sorted set of those who take part in the draw: user id by time of joining, µs
  7 places        hash of places that left the line: user id to "state:score:until_ms:since_ms:calls", and
                  "user id:replaced" to the score of a place that an earlier one of the same account took the stead of
  8 changed       sorted set: whose places changed otherwise than by a call, by when, ms
  9 line          hash: clock, pace and counters of the line
 10 sale          hash: progress of the sale
 11 draw          hash: how far the draw is
ARGV
  1 close_ms      end of the sale, ms
  2 quiet_ms      how long nobody is called after a place came back to a line that was lost
  3 drawn_key     the key of the draw that drawn scores were computed with
  4 proofs...     each "user_id:score:join_us:lane:drawn" of a verified place; score 0: it was in the draw; drawn is 1
                  where the score was computed from the draw; join_us is 0, and lane "", where they are not known
RETURNS
  {1, draw_key, outcome...}  draw_key is "" until the draw is held; each outcome is "restored"; "found" where it took the
      stead of a later place; "PLAIN" where it gives nothing, so that its owner joins like everyone else; "DRAWN": repeat
      it with the score that was drawn; "DRAWING": try again when the draw is held; SALE_CLOSED, SOLD_OUT
  {0, "NOT_BUILT"}           the line is not there, or was lost; nothing was done
COMPLEXITY O(m log n) for m places and n who wait
]]
local users, lane_1, lane_2, lane_3, lanes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entrants, places, changed, line, sale, draw = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local close_ms, quiet_ms, drawn_key = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local sets = {[0] = users, lane_1, lane_2, lane_3}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local built, until_ms, limit_ms, last = unpack(redis.call('HMGET', line, 'built', 'restoring_until_ms',
  'restoring_limit_ms', 'last_score'))
if not built then return {0, 'NOT_BUILT'} end
until_ms, limit_ms, last = tonumber(until_ms or 0), tonumber(limit_ms or 0), tonumber(last or 0)
local closed, held, key, count = unpack(redis.call('HMGET', draw, 'closed_ms', 'held_ms', 'key', 'entrant_count'))
local refusal = now_ms >= close_ms and 'SALE_CLOSED' or redis.call('HGET', sale, 'sold_out') == '1' and 'SOLD_OUT'

local function stand(place, lane, set, score, join_us)
  local user_id, standing = place.user_id, place.standing
  if refusal and not standing then return refusal end
  if standing then -- after Redis was lost, a device without the proof may have joined anew before the one that has it
    redis.call('HSET', places, user_id .. ':replaced', string.format('%.0f', math.max(standing, place.replaced)))
    redis.call('ZREM', sets[place.lane], user_id)
    redis.call('ZADD', changed, now_ms, user_id)
  end
  if lane == 0 then redis.call('HDEL', lanes, user_id) else redis.call('HSET', lanes, user_id, lane) end
  redis.call('ZADD', set, string.format('%.0f', score), user_id)
  last = math.max(last, score)
  redis.call('HINCRBY', line, 'restored', 1)
  -- Only a line that was lost has places that are older than itself. Once it goes on, a straggler does not stop it again.
  local prolongs = join_us < tonumber(built) and (until_ms == 0 or now_ms < until_ms) and now_ms < limit_ms
  if prolongs then until_ms = math.min(limit_ms, now_ms + quiet_ms) end
  return standing and 'found' or 'restored'
end

local function restore(user_id, score, join_us, lane, drawn)
  local known = redis.call('HMGET', places, user_id, user_id .. ':replaced')
  local state, ended = string.match(known[1] or '', '^(%a):(%d+):')
  local before, replaced = tonumber(redis.call('HGET', lanes, user_id) or 0), tonumber(known[2] or 0)
  local standing = tonumber(redis.call('ZSCORE', sets[before], user_id) or nil)
  local entered = redis.call('ZSCORE', entrants, user_id)
  local place = {user_id = user_id, lane = before, standing = standing, replaced = replaced}
  lane = lane or before
  if drawn or score == 0 then
    -- The closed list decides who was in the draw; where it was lost, a signed place does. Who gave up has a 0 on record.
    if ended == '0' or (not held and (entered or state or (closed and standing))) then return 'PLAIN' end
    if not held then return closed and 'DRAWING' or stand(place, lane, entrants, join_us, join_us) end
    if not entered and redis.call('ZCARD', entrants) == tonumber(count or 0) then
      -- Came back when the list of a lost line was closed: stands behind the drawn, before those who joined later.
      if state or join_us == 0 or join_us >= tonumber(built) then return 'PLAIN' end
      score = join_us
    elseif not drawn or key ~= drawn_key then return 'DRAWN'
    elseif entered then
      lane = before -- that of the list, whatever was told before it was closed
      redis.call('ZADD', entrants, 'XX', join_us > 0 and string.format('%.0f', join_us) or entered, user_id)
    end
  end
  -- A place that came to its end already, or was replaced by an earlier one in a life before, is not lived again.
  local spent = math.max(tonumber(ended or 0), (not standing or standing > replaced) and replaced or 0)
  local is_called = string.find('RAM', state or '-', 1, true)
  if score <= spent or is_called or (standing and standing <= score) then return 'PLAIN' end
  return stand(place, lane, sets[lane], score, join_us)
end

local answer = {1, held and key or ''}
for i = 4, #ARGV do
  local user_id, score, join_us, lane, drawn = string.match(ARGV[i], '^(%d+):(%d+):(%d+):(%d?):(%d)$')
  answer[#answer + 1] = restore(user_id, tonumber(score), tonumber(join_us), tonumber(lane), drawn == '1')
end
redis.call('HSET', line, 'last_score', string.format('%.0f', last), 'restoring_until_ms', string.format('%.0f', until_ms))
return answer
