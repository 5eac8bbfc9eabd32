--[[ open_line: a line begins a life, whole; the first attempt that comes to this end wins.
KEYS
  1 line        hash: clock, pace and counters of the line
  2 policy      hash: what an operator changed
  3 rebuild     the lock of those who rebuild
ARGV
  1 attempt     the name given to begin_rebuild
  2 restoring   "1" when the line lived before: places come back, and nobody is called meanwhile
  3 grace_ms    how long nobody is called after a place came back, ms
  4 limit_ms    how long places that come back can hold calls up, ms
  5 last_score  no place stands behind this one
  6 called      people who were called in all
  7 mark_0      highest score that was called, lane 0
  8 mark_1      likewise, lane 1
  9 mark_2      likewise, lane 2
  10 mark_3     likewise, lane 3
  11 rules...   field and value of the policy, in turn
RETURNS
  1  done
  0  the line is built, or another attempt has begun: nothing was written
COMPLEXITY O(1)
]]
local line, policy, rebuild = KEYS[1], KEYS[2], KEYS[3]
local attempt, restoring, grace_ms, limit_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local last_score, called, mark_0, mark_1, mark_2, mark_3 = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local rules = {unpack(ARGV, 11)}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', line, 'built', 'rebuilding')
if known[1] or known[2] ~= attempt then return 0 end

-- What an operator has set since the loss is newer than what the log told.
for i = 1, #rules, 2 do redis.call('HSETNX', policy, rules[i], rules[i + 1]) end
redis.call('HSET', line, 'watermark:0', mark_0, 'watermark:1', mark_1, 'watermark:2', mark_2, 'watermark:3', mark_3)
redis.call('HSET', line, 'built', string.format('%d%06d', time[1], time[2]), 'last_score', last_score, 'called', called,
  'restoring_until_ms', restoring == '1' and now_ms + math.min(grace_ms, limit_ms) or 0, 'restoring_limit_ms', now_ms + limit_ms)
redis.call('HDEL', line, 'rebuilding')
redis.call('DEL', rebuild)
return 1
