#!lua flags=allow-oom
-- Ends a hold with a charge. Draws the hold's slices, goes beyond them by policy, returns the rest.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 tenant, 3 amount (micros, "" for what is held), 4 digest (16 hex), 5 detail (JSON), 6 tombstone ttl (ms),
--       7 deadline member, 8 hold uuid (32 hex), 9 address, 10 cost and tokens as `settled` of limits.lua takes them, and for a late
--       Commit that only Postgres remembers: 11 wallet, 12 overage, 13 terms, 14 held amount (micros), 15 charged at expiry (micros)
-- Returns {code, …}:
--   SETTLED replayed ended (text: see the prelude)
--   NOHOLD | CONFLICT state | STATE state | STRICT | NOTLOADED | FENCED | BADARG n | RANGE | BROKEN
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local charge = ARGV[3] == '' and 0 or whole(ARGV[3])
if not charge then return {'BADARG', '3'} end
if not packed and not ARGV[11] then return {'NOHOLD'} end
local hold, past
if packed then hold, past = hold_in(packed) end
local wallet, amount, terms, policy, already
if hold then wallet, amount, terms, policy, already = hold[WALLET], hold[AMOUNT], hold[TERMS], hold[OVERAGE], 0
elseif past then
  policy, terms = string.match(packed, '\n(%d) %d+ %d+ (.*)$')
  wallet, amount, policy, already = past[ENDED_WALLET], tonumber(past[ENDED_AMOUNT]), tonumber(policy), tonumber(past[ENDED_CHARGED])
elseif packed then return {'NOHOLD'}
else wallet, policy, terms, amount, already = ARGV[11], tonumber(ARGV[12]), ARGV[13], tonumber(ARGV[14]), tonumber(ARGV[15]) end
local a, w, defined = read_account(KEYS[2], wallet)
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past and (past[STATE] == '2' or past[STATE] == '3') then
  if past[COMMIT_DIGEST] ~= ARGV[4] then return {'CONFLICT', past[STATE]} end
  return {'SETTLED', 1, packed}
end
if past and past[STATE] == '4' then return {'STATE', 4} end
local now = now_ms()
if a[STRICT] == 1 and (not hold or now >= hold[DEADLINE]) then return {'STRICT'} end
if not is_conserved(a) then return {'BROKEN'} end
if policy == 0 then policy = a[POLICY] end
charge = policy == 5 and 0 or ARGV[3] == '' and amount or charge
local owed = math.max(0, charge - already)
local due, late_policy, spent, back, forfeits, revocations, more, debt = owed, policy, {}, 0, {}, {}, {}, 0
if hold then
  spent, back, forfeits, revocations = unhold(w, hold[SLICES], owed, now)
  due = math.max(0, owed - amount)
elseif policy == 1 then due, late_policy = math.min(owed, math.max(0, amount - already)), 2 end
if due > 0 then
  -- only here: beyond, merge
  more, debt = beyond(w, now, due, late_policy, a[OVERDRAFT])
  merge(spent, more)
end
local charged, counters = sum(spent) + debt, nil
if a[SPENT] + charged > MAX then return {'RANGE'} end
local expired, revoked = sum(forfeits), sum(revocations)
local amounts = format('%d 0 %d %d %d %d %d ', amount, charged, back, owed - charged, expired, revoked)
  .. listed(spent) .. ' ' .. listed(forfeits) .. ' ' .. listed(revocations)
if hold then a[HELD], a[HOLDS] = a[HELD] - amount, a[HOLDS] - 1 end
a[WORTH] = a[WORTH] + back - sum(more) - debt
a[SPENT], a[EXPIRED], a[REVOKED] = a[SPENT] + charged, a[EXPIRED] + expired, a[REVOKED] + revoked
if not is_conserved(a) then return {'BROKEN'} end
check_outbox(KEYS)
if hold and hold[ENTRIES] ~= '' then
  -- only here: settled
  counters = settled(hold[ENTRIES], KEYS[6], amount, charged, ARGV[10])
elseif not hold and defined then
  -- only here: counted_late
  counters = counted_late(defined, KEYS[6], now, terms, charged, ARGV[5], already)
end
-- checks above, writes below
local core = record(KEYS, a, w, epoch, now, hold and 'C' or 'L', ARGV[8], ARGV[9], wallet, amounts, 0, ARGV[4], policy, terms, ARGV[5],
  hold and ARGV[7])
local reserved = hold and hold[DIGEST] or past and past[DIGEST] or '-'
local ended = (hold and '2 ' or '3 ') .. reserved .. ' ' .. ARGV[4] .. format(' %d %d ', available(w, now), w[PINNED]) .. core
call('SET', KEYS[5], ended, 'PX', ARGV[6])
if counters then call('HSET', KEYS[6], unpack(counters)) end
return {'SETTLED', 0, ended}
