--[[ digest_lane: a lane in short: the first people one by one, those behind them by samples, all of the same instant.
KEYS
  1 lane         sorted set of those who wait in this lane
  2 line         hash: clock, pace and counters of the line
ARGV
  1 watermark    field of `line` that holds the highest score called from this lane
  2 front_size   people told one by one
  3 sample_count most samples of those behind
RETURNS
  {waiting, watermark, front, step, samples}  front and samples are scores in one text, separated by commas, ascending.
      Every `step`th person behind the front is in the samples, and the last one
COMPLEXITY O((front_size + sample_count) log n) for n who wait: the same for any length but for the logarithm
]]
local lane, line = KEYS[1], KEYS[2]
local watermark, front_size, sample_count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local waiting = redis.call('ZCARD', lane)
local step = math.max(1, math.ceil((waiting - front_size) / sample_count))
local front, samples = redis.call('ZRANGE', lane, 0, front_size - 1, 'WITHSCORES'), {}
for rank = front_size + step - 1, waiting - 2, step do
  samples[#samples + 1] = redis.call('ZRANGE', lane, rank, rank, 'WITHSCORES')[2]
end
if waiting > front_size then samples[#samples + 1] = redis.call('ZRANGE', lane, -1, -1, 'WITHSCORES')[2] end
-- Members are a third of the bytes, and nobody needs them.
local scores = {}
for i = 2, #front, 2 do scores[#scores + 1] = front[i] end
return {waiting, redis.call('HGET', line, watermark) or '0', table.concat(scores, ','), step,
  table.concat(samples, ',')}
