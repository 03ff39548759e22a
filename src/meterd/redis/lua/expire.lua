#!lua flags=allow-oom
-- Ends a hold whose time is up, by its expiry policy: 1 release, 2 charge what was reported, 3 charge all of it.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tombstone ttl (ms), 3 deadline member, 4 hold uuid (32 hex), 5 address
-- Returns {code, …}: SETTLED … as commit | EARLY expires_ms | GONE (its deadline is removed) | NOTLOADED | FENCED | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local packed = call('GET', KEYS[5])
local hold = packed and cmsgpack.unpack(packed)
if not hold or hold[1] ~= 1 then
  call('ZREM', KEYS[4], ARGV[3])
  return {'GONE'}
end
local now = now_ms()
if now < hold[7] then return {'EARLY', hold[7]} end
local a, w = read_account(KEYS[2], hold[3])
if not a then return {'NOTLOADED'} end
if not is_conserved(a) then return {'BROKEN'} end
local wallet, amount, charge, detail = hold[3], hold[4], 0, ''
if hold[9] == 2 then charge, detail = math.min(hold[11], amount), hold[12] end
if hold[9] == 3 then charge = amount end
local spent, back, forfeits, revocations = unhold(w, hold[5], charge, now)
local owed = hold[9] == 2 and hold[11] - charge or 0
local r = {kind = 'E', txn = ARGV[4], address = ARGV[5], wallet = wallet, amount = amount, charged = charge, returned = back,
  uncollected = owed, expired = sum(forfeits), revoked = sum(revocations), drawn = spent, forfeits = forfeits, revocations = revocations,
  policy = hold[8], terms = hold[10], detail = detail}
a[HELD], a[HOLDS], a[WORTH], a[SPENT] = a[HELD] - amount, a[HOLDS] - 1, a[WORTH] + back, a[SPENT] + charge
a[EXPIRED], a[REVOKED] = a[EXPIRED] + r.expired, a[REVOKED] + r.revoked
if not is_conserved(a) then return {'BROKEN'} end
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
call('ZREM', KEYS[4], ARGV[3])
local ended = {5, hold[2], '', charge, back, owed, r.expired, now, spent, wallet, a[SEQ], available(w, now), w[2], amount,
  hold[8], hold[10], hold[6], hold[7]}
call('SET', KEYS[5], cmsgpack.pack(ended), 'PX', ARGV[2])
return settled_reply(ended, 0)
