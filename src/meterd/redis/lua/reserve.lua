#!lua
-- Sets credits aside from a wallet's grants in burn order.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 wallet, 3 amount (micros), 4 least amount that will do (micros), 5 digest (16 hex), 6 ttl (ms), 7 overage (0-3),
--       8 expiry (1-3), 9 terms (JSON), 10 replay only (0 or 1), 11 open holds at most, 12 outbox length at most, 13 deadline member
-- Returns {code, …}:
--   HELD replayed wallet amount created_ms expires_ms slices terms available held seq | ENDED … as commit's SETTLED
--   DENIED code available required limit held seq | ASK | CONFLICT state wallet terms | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local old = call('GET', KEYS[5])
local now = now_ms()
if old then return replay_reserve(cmsgpack.unpack(old), ARGV[5], KEYS[2], now) end
if ARGV[10] == '1' then return {'ASK'} end
local amount, least, ttl = whole(ARGV[3]), whole(ARGV[4]), whole(ARGV[6])
if not amount then return {'BADARG', '3'} end
if not least or least > amount then return {'BADARG', '4'} end
if not ttl or ttl == 0 then return {'BADARG', '6'} end
local a, w = read_account(KEYS[2], ARGV[2])
if not a then return {'NOTLOADED'} end
if not w then return {'NOWALLET'} end
local free = available(w, now)
local function denied(code, limit)
  return {'DENIED', code, free, amount, limit, w[2], a[SEQ]}
end
if a[FROZEN] == 1 then return denied(2, 0) end
if a[HOLDS] >= tonumber(ARGV[11]) then return denied(3, tonumber(ARGV[11])) end
if free < amount then
  if least == amount or free < least then return denied(1, 0) end
  amount = free
end
if call('XLEN', KEYS[3]) >= tonumber(ARGV[12]) then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = {}
take(w, now, amount, slices)
local i = 1
for g = 3, #w do
  if w[g][1] == slices[i] then w[g][3] = w[g][3] + slices[i + 1]; i = i + 2 end
end
w[2] = w[2] + amount
a[WORTH], a[HELD], a[HOLDS] = a[WORTH] - amount, a[HELD] + amount, a[HOLDS] + 1
local hold = {1, ARGV[5], ARGV[2], amount, slices, now, now + ttl, tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], 0, ''}
check_types(KEYS)
-- checks above, writes below
call('HSET', KEYS[2], 'c', cmsgpack.pack(a), 'w:' .. ARGV[2], cmsgpack.pack(w))
call('SET', KEYS[5], cmsgpack.pack(hold))
call('ZADD', KEYS[4], text(now + ttl), ARGV[13])
return held_reply(hold, 0, available(w, now), w[2], a[SEQ])
