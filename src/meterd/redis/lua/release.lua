#!lua flags=allow-oom
-- Ends a hold without a charge. Slices of grants that expired meanwhile are forfeited, of revoked ones taken back.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tenant, 3 detail (JSON), 4 tombstone ttl (ms), 5 deadline member, 6 hold uuid (32 hex), 7 address
-- Returns {code, …}: SETTLED … as commit | NOHOLD | STATE state | NOTLOADED | FENCED | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local packed = call('GET', KEYS[5])
if not packed then return {'NOHOLD'} end
local hold = cmsgpack.unpack(packed)
local open = hold[1] == 1
local a, w = read_account(KEYS[2], open and hold[3] or hold[10])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if hold[1] == 4 then return settled_reply(hold, 1) end
if not open then return {'STATE', hold[1]} end
if not is_conserved(a) then return {'BROKEN'} end
local now, wallet, amount = now_ms(), hold[3], hold[4]
local _, back, forfeits, revocations = unhold(w, hold[5], 0, now)
local r = {kind = 'R', txn = ARGV[6], address = ARGV[7], wallet = wallet, amount = amount, returned = back, expired = sum(forfeits),
  revoked = sum(revocations), forfeits = forfeits, revocations = revocations, policy = hold[8], terms = hold[10], detail = ARGV[3]}
a[HELD], a[HOLDS], a[WORTH] = a[HELD] - amount, a[HOLDS] - 1, a[WORTH] + back
a[EXPIRED], a[REVOKED] = a[EXPIRED] + r.expired, a[REVOKED] + r.revoked
if not is_conserved(a) then return {'BROKEN'} end
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
call('ZREM', KEYS[4], ARGV[5])
local ended = {4, hold[2], '', 0, back, 0, r.expired, now, {}, wallet, a[SEQ], available(w, now), w[2], amount}
call('SET', KEYS[5], cmsgpack.pack(ended), 'PX', ARGV[4])
return settled_reply(ended, 0)
