--[[ eventlog_commit: the position of a group moves, unless the partition has gone to another reader since it was read.
KEYS
  1 owners    hash partition -> "reader/take"
  2 stream    the partition's entries
ARGV
  1 partition
  2 owner     as eventlog_share gave it
  3 group
  4 id        of the last entry that is done
  5 entries_read  number of entries up to and with that one, for the lag
RETURNS
  1   committed
  0   refused: somebody else owns the partition now
COMPLEXITY O(1)
]]
local owners, stream = KEYS[1], KEYS[2]
local partition, owner, group, id, entries_read = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call('HGET', owners, partition) ~= owner then return 0 end

redis.call('XGROUP', 'SETID', stream, group, id, 'ENTRIESREAD', entries_read)
return 1
