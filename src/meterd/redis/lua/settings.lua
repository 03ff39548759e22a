#!lua flags=allow-oom
-- Brings an account's settings up to a change that was born in Postgres.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream)
-- ARGV: 1 epoch, 2 change number, 3 change id (32 hex), 4 overage (1-3), 5 overdraft limit (micros), 6 strict (0 or 1), 7 frozen (0 or 1),
--       8 address
-- Returns {code, …}: APPLIED | ALREADY | NOTLOADED | FENCED | BADARG n
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number = whole(ARGV[2])
if not number then return {'BADARG', '2'} end
if not whole(ARGV[5]) then return {'BADARG', '5'} end
local a = read_account(KEYS[2], '')
if not a then return {'NOTLOADED'} end
if number <= a[CHANGE] then return {'ALREADY'} end
a[CHANGE], a[POLICY], a[OVERDRAFT] = number, tonumber(ARGV[4]), tonumber(ARGV[5])
a[STRICT], a[FROZEN] = tonumber(ARGV[6]), tonumber(ARGV[7])
check_outbox(KEYS)
-- checks above, writes below
record(KEYS, a, nil, epoch, now_ms(), 'S', ARGV[3], ARGV[8], '-', '0 0 0 0 0 0 0 - - -', number, '-', 0, '', '')
return {'APPLIED'}
