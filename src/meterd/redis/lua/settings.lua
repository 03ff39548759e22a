#!lua flags=allow-oom
-- Brings an account's settings up to a change that was born in Postgres.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 counters of limits (hash)
-- ARGV: 1 epoch, 2 change number, 3 change id (32 hex), 4 overage (1-3), 5 overdraft limit (micros), 6 strict (0 or 1), 7 frozen (0 or 1),
--       8 address, 9 until when the plan counts (ms), 10 unlimited (0 or 1), 11 actions a day (0: no limit),
--       12 wallets that the plan gives nothing, each between spaces, 13 limits (packed as in limits.lua; "-": as they are)
-- Returns {code, …}: APPLIED | ALREADY | NOTLOADED | FENCED | BADARG n
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number = whole(ARGV[2])
if not number then return {'BADARG', '2'} end
if not whole(ARGV[5]) then return {'BADARG', '5'} end
if not whole(ARGV[9]) or not whole(ARGV[11]) then return {'BADARG', '9'} end
local a = read_account(KEYS[2], '')
if not a then return {'NOTLOADED'} end
if number <= a[CHANGE] then return {'ALREADY'} end
a[CHANGE], a[POLICY], a[OVERDRAFT] = number, tonumber(ARGV[4]), tonumber(ARGV[5])
a[STRICT], a[FROZEN] = tonumber(ARGV[6]), tonumber(ARGV[7])
a[PLANNED], a[UNLIMITED], a[DAILY] = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local at = 1
while ARGV[13] ~= '-' and at <= #ARGV[13] do
  local size, after = select(12, struct.unpack(LIMIT, ARGV[13], at))
  at = after + size
end
if ARGV[13] ~= '-' and at ~= #ARGV[13] + 1 then return {'BADARG', '13'} end
local now = now_ms()
-- checks above, writes below
record(KEYS, a, nil, epoch, now, 'S', ARGV[3], ARGV[8], '-', '0 0 0 0 0 0 0 - - -', number, '-', 0, '', '')
call('HSET', KEYS[2], 'b', ARGV[12])
if ARGV[13] == '' then
  call('HDEL', KEYS[2], 'l')
  call('UNLINK', KEYS[4])
elseif ARGV[13] ~= '-' then call('HSET', KEYS[2], 'l', ARGV[13]) end
return {'APPLIED'}
