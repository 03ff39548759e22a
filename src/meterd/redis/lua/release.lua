#!lua flags=allow-oom
-- Ends a hold without a charge. Slices of grants that expired meanwhile are forfeited, of revoked ones taken back. It was no action, if
-- its day is not over.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 tenant, 3 detail (JSON), 4 tombstone ttl (ms), 5 deadline member, 6 hold uuid (32 hex), 7 address
-- Returns as commit or {code, …}: SETTLED … as commit | NOHOLD | STATE state | NOTLOADED | FENCED | BROKEN
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
if not packed then return {'NOHOLD'} end
local hold, past = hold_in(packed)
if not hold and not past then return {'NOHOLD'} end
local a, w = read_account(KEYS[2], hold and hold[WALLET] or past[ENDED_WALLET])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past and past[STATE] == '4' then return {'SETTLED', packed} end
if past then return {'STATE', tonumber(past[STATE])} end
if not is_conserved(a) then return {'BROKEN'} end
local now, wallet, amount = now_ms(), hold[WALLET], hold[AMOUNT]
local _, back, forfeits, revocations = unhold(w, hold[SLICES], 0, now)
local amounts, expired, revoked = amounts_of(amount, 0, back, 0, nil, forfeits, revocations)
a[HELD], a[HOLDS], a[WORTH] = a[HELD] - amount, a[HOLDS] - 1, a[WORTH] + back
a[EXPIRED], a[REVOKED] = a[EXPIRED] + expired, a[REVOKED] + revoked
if a[DAY] == math.floor(hold[CREATED] / 86400000) then a[ACTIONS] = math.max(0, a[ACTIONS] - 1) end
if not is_conserved(a) then return {'BROKEN'} end
local counters = nil
if hold[ENTRIES] ~= '' then
  -- only here: settled
  counters = settled(hold[ENTRIES], KEYS[6], amount)
end
-- checks above, writes below
local core = record(KEYS, a, w, epoch, now, 'R', ARGV[6], ARGV[7], wallet, amounts, 0, '-', hold[OVERAGE], hold[TERMS], ARGV[3], ARGV[5])
local ended = '4 ' .. hold[DIGEST] .. format(' - %d %d ', available(w, now), w[PINNED]) .. core
call('SET', KEYS[5], ended, 'PX', ARGV[4])
if counters then call('HSET', KEYS[6], unpack(counters)) end
return ended
