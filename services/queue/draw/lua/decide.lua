--[[ decide: a draw has one outcome, the first that is written; whoever comes later learns whether it is theirs.
KEYS
  1 draw            hash: how far the draw is
  2 line            hash: whether the line is built, and by which attempt it is being rebuilt
ARGV
  1 closed_ms       when the list was closed, ms
  2 entrant_count   how many took part
  3 list_digest     SHA-256 of the list
  4 key             what gives everyone a place
  5 seed            the seed
  6 attempt         the one that rebuilds the line: nobody is to be given a place any more, people come back; or ""
RETURNS
  1  this is the outcome
  0  another one is, or another attempt rebuilds the line
COMPLEXITY O(1)
]]
local draw, line = KEYS[1], KEYS[2]
local closed_ms, entrant_count, list_digest, key, seed, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local time = redis.call('TIME')

local life = redis.call('HMGET', line, 'built', 'rebuilding')
if attempt ~= '' and (life[1] or life[2] ~= attempt) then return 0 end
local known = redis.call('HGET', draw, 'key')
if known and known ~= key then return 0 end
if not known then
  redis.call('HSET', draw, 'closed_ms', closed_ms, 'entrant_count', entrant_count, 'list_digest', list_digest,
    'key', key, 'seed', seed)
end
if attempt ~= '' then
  redis.call('HSETNX', draw, 'held_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
end
return 1
