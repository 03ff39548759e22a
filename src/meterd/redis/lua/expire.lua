#!lua flags=allow-oom
-- Ends a hold whose time is up, by its expiry policy: 1 release, 2 charge what was reported, 3 charge all of it.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 tombstone ttl (ms), 3 deadline member, 4 hold uuid (32 hex), 5 address
-- Returns as commit or {code, …}: EARLY expires_ms | GONE (its deadline is removed) | NOTLOADED | FENCED | BROKEN
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local hold = hold_in(packed)
if not hold then
  call('ZREM', KEYS[4], ARGV[3])
  return {'GONE'}
end
local now = now_ms()
if now < hold[DEADLINE] then return {'EARLY', hold[DEADLINE]} end
local a, w = read_account(KEYS[2], hold[WALLET])
if not a then return {'NOTLOADED'} end
if not is_conserved(a) then return {'BROKEN'} end
local wallet, amount, charge, detail = hold[WALLET], hold[AMOUNT], 0, ''
if hold[EXPIRY] == 2 then charge, detail = math.min(hold[REPORTED], amount), hold[DETAIL] end
if hold[EXPIRY] == 3 then charge = amount end
local spent, back, forfeits, revocations = unhold(w, hold[SLICES], charge, now)
local owed = hold[EXPIRY] == 2 and hold[OVERAGE] ~= 5 and hold[REPORTED] - charge or 0
local amounts, expired, revoked = amounts_of(amount, charge, back, owed, spent, forfeits, revocations)
a[HELD], a[HOLDS], a[WORTH], a[SPENT] = a[HELD] - amount, a[HOLDS] - 1, a[WORTH] + back, a[SPENT] + charge
a[EXPIRED], a[REVOKED] = a[EXPIRED] + expired, a[REVOKED] + revoked
if not is_conserved(a) then return {'BROKEN'} end
local is_undone = hold[EXPIRY] == 1 or hold[EXPIRY] == 2 and detail == ''
local counters = nil
if hold[ENTRIES] ~= '' then
  -- only here: settled, spent_by
  counters = settled(hold[ENTRIES], KEYS[6], amount, not is_undone and charge or nil, spent_by(detail))
end
-- checks above, writes below
local core = record(KEYS, a, w, epoch, now, 'E', ARGV[4], ARGV[5], wallet, amounts, 0, '-', hold[OVERAGE], hold[TERMS], detail, ARGV[3])
local ended = '5 ' .. hold[DIGEST] .. format(' - %d %d ', available(w, now), w[PINNED]) .. core
  .. format('\n%d %d %d ', hold[OVERAGE], hold[CREATED], hold[DEADLINE]) .. hold[TERMS]
call('SET', KEYS[5], ended, 'PX', ARGV[2])
if counters then call('HSET', KEYS[6], unpack(counters)) end
return ended
