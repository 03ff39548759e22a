#!lua
-- Sets credits aside from a wallet's grants in burn order.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 wallet, 3 amount (micros), 4 least amount that will do (micros), 5 digest (16 hex), 6 ttl (ms), 7 rules (packed as
--       <BBBdd: overage 0-3, expiry 1-3, replay only 0 or 1, open holds at most, outbox length at most), 8 terms (JSON), 9 deadline member,
--       10 what it says to limits (SAID of limits.lua)
-- Returns {code, …}:
--   RESERVED amount created_ms available held seq slices is_unlimited | as the answer to a repeat: HELD 1 "wallet amount created_ms expires_ms
--   reported available held seq slices overage" terms, or SETTLED … as commit
--   DENIED code available required limit held seq, with code 5 also used resets_ms, with code 6 also the limits without room; then `limit`
--   is the code of what the wallet lacks too, or 0
--   ASK | CONFLICT state wallet terms | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | BROKEN
local epoch, old = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local now = now_ms()
if old then
  -- only here: replay_reserve
  return replay_reserve(old, ARGV[5], KEYS[2], now)
end
local overage, expiry, is_replay_only, holds_max, outbox_max = struct.unpack('<BBBdd', ARGV[7])
if is_replay_only == 1 then return {'ASK'} end
local amount, least, ttl = whole(ARGV[3]), whole(ARGV[4]), whole(ARGV[6])
if not amount then return {'BADARG', '3'} end
if not least or least > amount then return {'BADARG', '4'} end
if not ttl or ttl == 0 then return {'BADARG', '6'} end
local a, w, defined = read_account(KEYS[2], ARGV[2])
if not a then return {'NOTLOADED'} end
local is_free, is_used_up = under_plan(a, now)
if not w and not is_free then
  -- only here: is_blocked
  if not is_blocked(KEYS[2], ARGV[2]) then return {'NOWALLET'} end
end
w = w or {0, 0}
local free = available(w, now)
local code = nil
if a[FROZEN] == 1 then code = 2
elseif a[HOLDS] >= holds_max then code = 3
elseif is_used_up then
  -- only here: denied_actions
  return denied_actions(a, now, free, amount, w[PINNED])
elseif not is_free and free < amount and (least == amount or free < least) then
  -- only here: is_blocked
  code = is_blocked(KEYS[2], ARGV[2]) and 4 or 1
end
if code == 2 or code == 3 then return {'DENIED', code, free, amount, code == 3 and holds_max or 0, w[PINNED], a[SEQ]} end
local required, exceeded, counters, entries = amount, nil, nil, ''
if is_free then amount = 0
elseif free < amount and not code then amount = free end
if defined then
  -- only here: limited
  local said = {struct.unpack(SAID, ARGV[10])}
  said[WANTED_CREDITS], said[WANTED_HOLDS] = amount, 1
  exceeded, counters, entries = limited(defined, KEYS[6], now, now + ttl + REMEMBERED, said, true)
  if exceeded then return {'DENIED', 6, free, required, code or 0, w[PINNED], a[SEQ], exceeded} end
end
if code then return {'DENIED', code, free, required, 0, w[PINNED], a[SEQ]} end
if call('XLEN', KEYS[3]) >= outbox_max then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = {}
take(w, now, amount, slices, true)
w[PINNED] = w[PINNED] + amount
a[WORTH], a[HELD], a[HOLDS], a[ACTIONS] = a[WORTH] - amount, a[HELD] + amount, a[HOLDS] + 1, a[ACTIONS] + 1
local hold = {'1', ARGV[5], ARGV[2], ARGV[8], '', amount, now, now + ttl, 0, is_free and 5 or overage, expiry, entries, slices}
local account, wallet, packed = packed_account(a), packed_wallet(w), packed_hold(hold)
-- checks above, writes below
call('ZADD', KEYS[4], format('%d', now + ttl), ARGV[9])
call('HSET', KEYS[2], 'c', account, 'w:' .. ARGV[2], wallet)
call('SET', KEYS[5], packed)
if counters then call('HSET', KEYS[6], unpack(counters)) end
return {'RESERVED', amount, now, free - amount, w[PINNED], a[SEQ], listed(slices), is_free and 1 or 0}
