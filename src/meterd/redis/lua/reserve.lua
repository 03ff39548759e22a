#!lua
-- Sets credits aside from a wallet's grants in burn order.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 wallet, 3 what it wants (packed as <dddBBBdd: amount and least amount that will do, in micros, ttl in ms, overage 0-3,
--       expiry 1-3, replay only 0 or 1, open holds at most, outbox length at most; then what it says to limits, SAID of limits.lua),
--       4 head of the hold (packed: state 1, digest as 16 hex, wallet, terms as JSON), 5 deadline member
-- Returns <ddd of available, held and seq, and behind them the body of the hold, or {code, …}:
--   as the answer to a repeat: HELD 1 "wallet amount created_ms expires_ms reported available held seq slices overage" terms, or SETTLED … as
--   commit
--   DENIED code available required limit held seq, with code 5 also used resets_ms, with code 6 also the limits without room; then `limit`
--   is the code of what the wallet lacks too, or 0
--   ASK | CONFLICT state wallet terms | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | BROKEN
local epoch, old = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local now = now_ms()
if old then
  -- only here: replay_reserve
  return replay_reserve(old, ARGV[4], KEYS[2], now)
end
local amount, least, ttl, overage, expiry, is_replay_only, holds_max, outbox_max, said_at = struct.unpack('<dddBBBdd', ARGV[3])
if is_replay_only == 1 then return {'ASK'} end
if not (least >= 0 and least % 1 == 0 and least <= amount and amount <= MAX and amount % 1 == 0 and ttl > 0 and ttl <= MAX and ttl % 1 == 0) then return {'BADARG', '3'} end
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
  local said = {struct.unpack(SAID, ARGV[3], said_at)}
  said[WANTED_CREDITS], said[WANTED_HOLDS] = amount, 1
  exceeded, counters, entries = limited(defined, KEYS[6], now, now + ttl + REMEMBERED, said, true)
  if exceeded then return {'DENIED', 6, free, required, code or 0, w[PINNED], a[SEQ], exceeded} end
end
if code then return {'DENIED', code, free, required, 0, w[PINNED], a[SEQ]} end
if call('XLEN', KEYS[3]) >= outbox_max then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = take(w, now, amount, true)
w[PINNED] = w[PINNED] + amount
a[WORTH], a[HELD], a[HOLDS], a[ACTIONS] = a[WORTH] - amount, a[HELD] + amount, a[HOLDS] + 1, a[ACTIONS] + 1
local body = packed_body(amount, now, now + ttl, 0, is_free and 5 or overage, expiry, '', entries, slices)
local wallet = packed_wallet(w)
local account, packed = packed_account(a), ARGV[4] .. body
-- checks above, writes below
call('ZADD', KEYS[4], now + ttl, ARGV[5])
call('HSET', KEYS[2], 'c', account, 'w:' .. ARGV[2], wallet)
call('SET', KEYS[5], packed)
if counters then call('HSET', KEYS[6], unpack(counters)) end
return struct.pack('<ddd', free - amount, w[PINNED], a[SEQ]) .. body
