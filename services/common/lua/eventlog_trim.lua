--[[ eventlog_trim: old entries leave a stream, but none that an existing group has not committed.
KEYS
  1 stream         the partition's entries
ARGV
  1 retention_ms   entries younger than this stay
RETURNS
  n   number of entries trimmed
COMPLEXITY O(groups + entries trimmed)
]]
local stream = KEYS[1]
local retention_ms = ARGV[1]

if redis.call('EXISTS', stream) == 0 then return 0 end

local time = redis.call('TIME')
local bound = time[1] * 1000 + math.floor(time[2] / 1000) - retention_ms
for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  for index = 1, #group, 2 do
    if group[index] == 'last-delivered-id' then
      bound = math.min(bound, tonumber(string.match(group[index + 1], '^%d+')))
    end
  end
end
if bound <= 0 then return 0 end
return redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f', bound))
