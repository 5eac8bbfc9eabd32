--[[ open_line: a line begins a life, whole; the first attempt that comes to this end wins.
KEYS
  1 line        hash: clock, pace and counters of the line
  2 policy      hash: what an operator changed
  3 rebuild     the lock of those who rebuild
  4 outbox      stream of facts, until they are published
ARGV
  1 attempt     the name given to begin_rebuild
  2 restoring   "1" when the line lived before: places come back, and nobody is called meanwhile
  3 grace_ms    how long nobody is called after a place came back, ms
  4 limit_ms    how long places that come back can hold calls up, ms
  5 last_score  no place stands behind this one
  6 called      people who were called in all
  7 last_fact   the entry of the newest fact that the log knows, or "0-0"
  8 mark_0      highest score that was called, lane 0
  9 mark_1      likewise, lane 1
  10 mark_2     likewise, lane 2
  11 mark_3     likewise, lane 3
  12 rules...   field and value of the policy, in turn
RETURNS
  1  done
  0  the line is built, or another attempt has begun: nothing was written
COMPLEXITY O(1)
]]
local line, policy, rebuild, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local attempt, restoring, grace_ms, limit_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local last_score, called, last_fact = ARGV[5], ARGV[6], ARGV[7]
local mark_0, mark_1, mark_2, mark_3 = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local rules = {unpack(ARGV, 12)}
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', line, 'built', 'rebuilding')
if known[1] or known[2] ~= attempt then return 0 end

-- What an operator has set since the loss is newer than what the log told.
for i = 1, #rules, 2 do redis.call('HSETNX', policy, rules[i], rules[i + 1]) end
redis.call('HSET', line, 'watermark:0', mark_0, 'watermark:1', mark_1, 'watermark:2', mark_2, 'watermark:3', mark_3)
redis.call('HSET', line, 'built', string.format('%d%06d', time[1], time[2]), 'last_score', last_score, 'called', called,
  'restoring_until_ms', restoring == '1' and now_ms + math.min(grace_ms, limit_ms) or 0, 'restoring_limit_ms', now_ms + limit_ms)
-- What happens from now on is newer than what the log knows, even when this clock is behind the one before: entries of a
-- stream only grow. It is refused where the stream was not lost, and grows already.
local entry = last_fact ~= '0-0' and redis.pcall('XADD', outbox, last_fact, 'kind', 'last')
if type(entry) == 'string' then redis.call('XDEL', outbox, entry) end
redis.call('HDEL', line, 'rebuilding')
redis.call('DEL', rebuild)
return 1
