#!lua flags=allow-oom
-- Ends a hold with a charge. Draws the hold's slices, goes beyond them by policy, returns the rest.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 tenant, 3 what it comes to (packed as <ddd: amount in micros, not a number for all that is held, cost in micro-USD and
--       tokens, each below 0 if not known), 4 digest (16 hex), 5 detail (JSON), 6 tombstone ttl (ms), 7 deadline member,
--       8 hold uuid (32 hex), 9 address, and for a late Commit that only Postgres remembers: 10 wallet, 11 overage, 12 terms,
--       13 held amount (micros), 14 charged at expiry (micros)
-- Returns what became of the hold, as text (see the prelude), or {code, …}:
--   SETTLED and that text, as the answer to a repeat
--   NOHOLD | CONFLICT state | STATE state | STRICT | NOTLOADED | FENCED | BADARG n | RANGE | BROKEN
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local charge, cost, tokens = struct.unpack('<ddd', ARGV[3])
local is_all = charge ~= charge
if not is_all and not (charge >= 0 and charge <= MAX and charge % 1 == 0) then return {'BADARG', '3'} end
if not packed and not ARGV[10] then return {'NOHOLD'} end
local hold, past = hold_in(packed)
local wallet, amount, terms, policy, already
if hold then wallet, amount, terms, policy, already = hold[WALLET], hold[AMOUNT], hold[TERMS], hold[OVERAGE], 0
elseif past then
  policy, terms = string.match(packed, '\n(%d) %d+ %d+ (.*)$')
  wallet, amount, policy, already = past[ENDED_WALLET], tonumber(past[ENDED_AMOUNT]), tonumber(policy), tonumber(past[ENDED_CHARGED])
elseif packed then return {'NOHOLD'}
else wallet, policy, terms, amount, already = ARGV[10], tonumber(ARGV[11]), ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14]) end
local a, w, defined = read_account(KEYS[2], wallet)
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past and (past[STATE] == '2' or past[STATE] == '3') then
  if past[COMMIT_DIGEST] ~= ARGV[4] then return {'CONFLICT', past[STATE]} end
  return {'SETTLED', packed}
end
if past and past[STATE] == '4' then return {'STATE', 4} end
local now = now_ms()
if a[STRICT] == 1 and (not hold or now >= hold[DEADLINE]) then return {'STRICT'} end
if not is_conserved(a) then return {'BROKEN'} end
if policy == 0 then policy = a[POLICY] end
charge = policy == 5 and 0 or is_all and amount or charge
local owed = charge > already and charge - already or 0
local due, late_policy, spent, back, forfeits, revocations = owed, policy, nil, 0, nil, nil
if hold then
  spent, back, forfeits, revocations = unhold(w, hold[SLICES], owed, now)
  due = owed > amount and owed - amount or 0
elseif policy == 1 then due, late_policy = math.min(owed, math.max(0, amount - already)), 2 end
local kept = sum(spent)
local charged = kept
if due > 0 then
  -- only here: beyond, merge
  local more, beside = beyond(w, now, due, late_policy, a[OVERDRAFT])
  charged, spent = kept + beside, merge(spent, more)
end
if a[SPENT] + charged > MAX then return {'RANGE'} end
local amounts, expired, revoked = amounts_of(amount, charged, back, owed - charged, spent, forfeits, revocations)
if hold then a[HELD], a[HOLDS] = a[HELD] - amount, a[HOLDS] - 1 end
a[WORTH] = a[WORTH] + back - (charged - kept)
a[SPENT], a[EXPIRED], a[REVOKED] = a[SPENT] + charged, a[EXPIRED] + expired, a[REVOKED] + revoked
if not is_conserved(a) then return {'BROKEN'} end
local counters = nil
if hold and hold[ENTRIES] ~= '' then
  -- only here: settled
  counters = settled(hold[ENTRIES], KEYS[6], amount, charged, cost, tokens)
elseif not hold and defined then
  -- only here: counted_late
  counters = counted_late(defined, KEYS[6], now, terms, charged, ARGV[5], already)
end
-- checks above, writes below
local core = record(KEYS, a, w, epoch, now, hold and 'C' or 'L', ARGV[8], ARGV[9], wallet, amounts, 0, ARGV[4], policy, terms, ARGV[5],
  hold and ARGV[7])
local reserved = hold and hold[DIGEST] or past and past[DIGEST] or '-'
local free = available(w, now)
local ended = (hold and '2 ' or '3 ') .. reserved .. ' ' .. ARGV[4] .. format(' %d %d ', free, w[PINNED]) .. core
call('SET', KEYS[5], ended, 'PX', ARGV[6])
if counters then call('HSET', KEYS[6], unpack(counters)) end
return ended
