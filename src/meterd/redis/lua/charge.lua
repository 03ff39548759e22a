#!lua
-- Charges without a hold.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 tombstone of the charge (string)
-- ARGV: 1 epoch, 2 wallet, 3 amount (micros), 4 digest (16 hex), 5 overage (1-3; 4: all or nothing), 6 terms (JSON), 7 detail (JSON),
--       8 tombstone ttl (ms), 9 replay only (0 or 1), 10 outbox length at most, 11 charge uuid (32 hex), 12 address
-- Returns {code, …}:
--   SETTLED … as commit | DENIED … as reserve | ASK | CONFLICT state | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | RANGE | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local old = call('GET', KEYS[5])
if old then
  local ended = cmsgpack.unpack(old)
  if ended[1] ~= 6 or ended[2] ~= ARGV[4] then return {'CONFLICT', ended[1]} end
  return settled_reply(ended, 1)
end
if ARGV[9] == '1' then return {'ASK'} end
local charge = whole(ARGV[3])
if not charge then return {'BADARG', '3'} end
local a, w = read_account(KEYS[2], ARGV[2])
if not a then return {'NOTLOADED'} end
if not w then return {'NOWALLET'} end
local now = now_ms()
local free = available(w, now)
if a[FROZEN] == 1 then return {'DENIED', 2, free, charge, 0, w[2], a[SEQ]} end
local policy = tonumber(ARGV[5])
if policy == 4 and free < charge then return {'DENIED', 1, free, charge, 0, w[2], a[SEQ]} end
if call('XLEN', KEYS[3]) >= tonumber(ARGV[10]) then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
local spent, debt = beyond(w, now, charge, policy == 4 and 2 or policy, a[OVERDRAFT])
local charged = sum(spent) + debt
if a[SPENT] + charged > MAX then return {'RANGE'} end
a[WORTH], a[SPENT] = a[WORTH] - charged, a[SPENT] + charged
local r = {kind = 'H', txn = ARGV[11], address = ARGV[12], wallet = ARGV[2], charged = charged, uncollected = charge - charged,
  drawn = spent, digest = ARGV[4], policy = policy == 4 and 2 or policy, terms = ARGV[6], detail = ARGV[7]}
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
local ended = {6, ARGV[4], '', charged, 0, charge - charged, 0, now, spent, ARGV[2], a[SEQ], available(w, now), w[2], 0}
call('SET', KEYS[5], cmsgpack.pack(ended), 'PX', ARGV[8])
return settled_reply(ended, 0)
