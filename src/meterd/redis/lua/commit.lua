#!lua flags=allow-oom
-- Ends a hold with a charge. Draws the hold's slices, goes beyond them by policy, returns the rest.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tenant, 3 amount (micros, "" for what is held), 4 digest (16 hex), 5 detail (JSON), 6 tombstone ttl (ms),
--       7 deadline member, 8 hold uuid (32 hex), 9 address, and for a late Commit that only Postgres remembers:
--       10 wallet, 11 overage, 12 terms, 13 held amount (micros), 14 charged at expiry (micros)
-- Returns {code, …}:
--   SETTLED replayed kind charged returned uncollected forfeited at_ms draws wallet available held seq amount
--   NOHOLD | CONFLICT state | STATE state | STRICT | NOTLOADED | FENCED | BADARG n | RANGE | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local charge = 0
if ARGV[3] ~= '' then charge = whole(ARGV[3]) end
if not charge then return {'BADARG', '3'} end
local packed = call('GET', KEYS[5])
local hold
if packed then hold = cmsgpack.unpack(packed)
elseif ARGV[10] then
  hold = {5, '', '', tonumber(ARGV[14]), 0, 0, 0, 0, {}, ARGV[10], 0, 0, 0, tonumber(ARGV[13]), tonumber(ARGV[11]), ARGV[12], 0, 0}
else return {'NOHOLD'} end
local open = hold[1] == 1
local a, w = read_account(KEYS[2], open and hold[3] or hold[10])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if hold[1] == 2 or hold[1] == 3 then
  if hold[3] ~= ARGV[4] then return {'CONFLICT', hold[1]} end
  return settled_reply(hold, 1)
end
if hold[1] == 4 then return {'STATE', 4} end
local now = now_ms()
if a[STRICT] == 1 and (not open or now >= hold[7]) then return {'STRICT'} end
if not is_conserved(a) then return {'BROKEN'} end
local wallet, amount, terms, policy, already = hold[3], hold[4], hold[10], hold[8], 0
if not open then wallet, amount, terms, policy, already = hold[10], hold[14], hold[16], hold[15], hold[4] end
if ARGV[3] == '' then charge = amount end
if policy == 0 then policy = a[POLICY] end
local due = math.max(0, charge - already)
local spent, back, forfeits, revocations = {}, 0, {}, {}
local reach = due
if open then
  spent, back, forfeits, revocations = unhold(w, hold[5], due, now)
  due = math.max(0, due - amount)
elseif policy == 1 then reach = math.min(due, math.max(0, amount - already)) end
local more, debt = beyond(w, now, open and due or reach, (not open and policy == 1) and 2 or policy, a[OVERDRAFT])
merge(spent, more)
local charged = sum(spent) + debt
if a[SPENT] + charged > MAX then return {'RANGE'} end
local r = {kind = open and 'C' or 'L', txn = ARGV[8], address = ARGV[9], wallet = wallet, amount = amount, charged = charged, returned = back,
  uncollected = math.max(0, charge - already) - charged, expired = sum(forfeits), revoked = sum(revocations), drawn = spent,
  forfeits = forfeits, revocations = revocations, digest = ARGV[4], policy = policy, terms = terms, detail = ARGV[5]}
if open then a[HELD], a[HOLDS] = a[HELD] - amount, a[HOLDS] - 1 end
a[WORTH] = a[WORTH] + back - sum(more) - debt
a[SPENT], a[EXPIRED], a[REVOKED] = a[SPENT] + charged, a[EXPIRED] + r.expired, a[REVOKED] + r.revoked
if not is_conserved(a) then return {'BROKEN'} end
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
if open then call('ZREM', KEYS[4], ARGV[7]) end
local ended = {open and 2 or 3, hold[2], ARGV[4], charged, back, r.uncollected, r.expired, now, spent, wallet, a[SEQ], available(w, now), w[2], amount}
call('SET', KEYS[5], cmsgpack.pack(ended), 'PX', ARGV[6])
return settled_reply(ended, 0)
