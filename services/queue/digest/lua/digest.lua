--[[ digest: what concerns a line as a whole, of one instant.
It keeps, now and then, how many are inside: that tells how long people stay, and so how soon slots come back.
KEYS
  1 line        hash: clock, pace and counters of the line
  2 sale        hash: progress of the sale
  3 draw        hash: how far the draw is
  4 entrants    sorted set of those who take part in the draw
  5 ready       sorted set of those who are called
  6 admitted    sorted set of those who are admitted
  7 missed      sorted set of those who missed a call and are called again
  8 changed     sorted set: whose places changed otherwise than by a call, by when, ms
  9 stays       list, newest first, of "ms:called:inside"
ARGV
  1 recent_ms     how long a change is told
  2 forget_ms     how long it is kept
  3 max_changed   most changes told, the newest
  4 sample_ms     how far apart the entries of `stays` are, at least
  5 max_samples   how many of them are kept
RETURNS
  {now_ms, figures, inside, missed, entrants, changed, stays}  figures are fields of `line`, of `sale` and of `draw`, in
      the order in which they are read below, "" where unset; inside is how many are called or admitted; changed are
      user ids in one text, separated by commas; stays is the list, likewise
COMPLEXITY O(max_changed + max_samples + log n), and O(1) for each change that is forgotten, once
]]
local line, sale, draw, entrants = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ready, admitted, missed, changed, stays = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local recent_ms, forget_ms, max_changed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local sample_ms, max_samples = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local figures = {}
local function read(key, ...)
  for _, value in ipairs(redis.call('HMGET', key, ...)) do figures[#figures + 1] = value or '' end
end
read(line, 'built', 'restoring_until_ms', 'observed_rate', 'called')
read(sale, 'sold_out', 'seats_left', 'seats_total')
read(draw, 'held_ms', 'key', 'entered')
local inside = redis.call('ZCARD', ready) + redis.call('ZCARD', admitted)
local told = redis.call('ZRANGE', changed, '+inf', now_ms - recent_ms, 'BYSCORE', 'REV', 'LIMIT', 0, max_changed)

redis.call('ZREMRANGEBYSCORE', changed, '-inf', now_ms - forget_ms)
local called = figures[4]
local newest = redis.call('LINDEX', stays, 0)
-- A line that is to be forgotten must not get a key that stays.
if called ~= '' and redis.call('PTTL', line) == -1 and now_ms - tonumber(string.match(newest or '0:', '^%d+')) >= sample_ms then
  redis.call('LPUSH', stays, now_ms .. ':' .. called .. ':' .. inside)
  redis.call('LTRIM', stays, 0, max_samples - 1)
end
return {now_ms, figures, inside, redis.call('ZCARD', missed), redis.call('ZCARD', entrants),
  table.concat(told, ','), table.concat(redis.call('LRANGE', stays, 0, -1), ',')}
