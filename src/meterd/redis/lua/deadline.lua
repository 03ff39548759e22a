#!lua flags=allow-oom
-- Sets an account's next grant expiry after a sweep, unless the account changed since it was read.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 grant expiries (zset)
-- ARGV: 1 epoch, 2 address, 3 next expiry (ms, 0: none), 4 the account's change number as read
-- Returns {code, …}: SET | CHANGED | FENCED
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local a = read_account(KEYS[2], '')
if not a or a[CHANGE] ~= tonumber(ARGV[4]) then return {'CHANGED'} end
call('ZCARD', KEYS[3])
-- checks above, writes below
if ARGV[3] == '0' then call('ZREM', KEYS[3], ARGV[2])
else call('ZADD', KEYS[3], ARGV[3], ARGV[2]) end
return {'SET'}
