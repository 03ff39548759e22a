#!lua
-- Sets credits aside from a wallet's grants in burn order.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 wallet, 3 amount (micros), 4 least amount that will do (micros), 5 digest (16 hex), 6 ttl (ms), 7 overage (0-3),
--       8 expiry (1-3), 9 terms (JSON), 10 replay only (0 or 1), 11 open holds at most, 12 outbox length at most, 13 deadline member
-- Returns {code, …}:
--   RESERVED amount created_ms available held seq slices | as the answer to a repeat: HELD 1 "wallet amount created_ms expires_ms reported
--   available held seq slices" terms, or SETTLED … as commit
--   DENIED code available required limit held seq | ASK | CONFLICT state wallet terms | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | BROKEN
local epoch, old = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local now = now_ms()
if old then return replay_reserve(old, ARGV[5], KEYS[2], now) end
if ARGV[10] == '1' then return {'ASK'} end
local amount, least, ttl = whole(ARGV[3]), whole(ARGV[4]), whole(ARGV[6])
if not amount then return {'BADARG', '3'} end
if not least or least > amount then return {'BADARG', '4'} end
if not ttl or ttl == 0 then return {'BADARG', '6'} end
local a, w = read_account(KEYS[2], ARGV[2])
if not a then return {'NOTLOADED'} end
if not w then return {'NOWALLET'} end
local free = available(w, now)
local code = nil
if a[FROZEN] == 1 then code = 2
elseif a[HOLDS] >= tonumber(ARGV[11]) then code = 3
elseif free < amount and (least == amount or free < least) then code = 1 end
if code then return {'DENIED', code, free, amount, code == 3 and tonumber(ARGV[11]) or 0, w[PINNED], a[SEQ]} end
if free < amount then amount = free end
if call('XLEN', KEYS[3]) >= tonumber(ARGV[12]) then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = {}
take(w, now, amount, slices, true)
w[PINNED] = w[PINNED] + amount
a[WORTH], a[HELD], a[HOLDS] = a[WORTH] - amount, a[HELD] + amount, a[HOLDS] + 1
local hold = {'1', ARGV[5], ARGV[2], ARGV[9], '', amount, now, now + ttl, 0, tonumber(ARGV[7]), tonumber(ARGV[8]), slices}
local account, wallet, packed = packed_account(a), packed_wallet(w), packed_hold(hold)
-- checks above, writes below
call('ZADD', KEYS[4], format('%d', now + ttl), ARGV[13])
call('HSET', KEYS[2], 'c', account, 'w:' .. ARGV[2], wallet)
call('SET', KEYS[5], packed)
return {'RESERVED', amount, now, free - amount, w[PINNED], a[SEQ], listed(slices)}
