#!lua
-- Charges without a hold.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 tombstone of the charge (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 wallet, 3 amount (micros), 4 digest (16 hex), 5 overage (1-3; 4: all or nothing; 6: as 4, for a transfer), 6 terms (JSON), 7 detail (JSON),
--       8 tombstone ttl (ms), 9 replay only (0 or 1), 10 outbox length at most, 11 charge uuid (32 hex), 12 address
-- Returns as commit or {code, …}:
--   SETTLED … as commit | DENIED … as reserve | ASK | CONFLICT state | NOTLOADED | NOWALLET | FULL | FENCED | BADARG n | RANGE | BROKEN
local epoch, old = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
if old then
  if string.match(old, '^6 (%x+) ') ~= ARGV[4] then return {'CONFLICT', '6'} end
  return {'SETTLED', old}
end
if ARGV[9] == '1' then return {'ASK'} end
local charge = whole(ARGV[3])
if not charge then return {'BADARG', '3'} end
local a, w, defined = read_account(KEYS[2], ARGV[2])
if not a then return {'NOTLOADED'} end
local now, policy = now_ms(), tonumber(ARGV[5])
local is_free, is_used_up = under_plan(a, now)
if policy == 6 then is_free, is_used_up = false, false end
if not w and not is_free then
  -- only here: is_blocked
  if not is_blocked(KEYS[2], ARGV[2]) then return {'NOWALLET'} end
end
w = w or {0, 0}
local free = available(w, now)
if a[FROZEN] == 1 then return {'DENIED', 2, free, charge, 0, w[PINNED], a[SEQ]} end
if is_used_up then
  -- only here: denied_actions
  return denied_actions(a, now, free, charge, w[PINNED])
end
local required, code, counters = charge, 0, nil
if is_free then charge, policy = 0, 5 end
if (policy == 4 or policy == 6) and free < charge then
  -- only here: is_blocked
  code = is_blocked(KEYS[2], ARGV[2]) and 4 or 1
end
local spent, charged = beyond(w, now, charge, policy > 3 and 2 or policy, a[OVERDRAFT])
if defined and policy ~= 6 then
  -- only here: limited, said_by
  local exceeded = nil
  local said = said_by(ARGV[6], ARGV[7], code == 0 and charged or charge, 0, 1)
  exceeded, counters = limited(defined, KEYS[6], now, now + REMEMBERED, said, true)
  if exceeded then return {'DENIED', 6, free, required, code, w[PINNED], a[SEQ], exceeded} end
end
if code > 0 then return {'DENIED', code, free, charge, 0, w[PINNED], a[SEQ]} end
if call('XLEN', KEYS[3]) >= tonumber(ARGV[10]) then return {'FULL'} end
if not is_conserved(a) then return {'BROKEN'} end
if a[SPENT] + charged > MAX then return {'RANGE'} end
a[WORTH], a[SPENT] = a[WORTH] - charged, a[SPENT] + charged
local amounts = format('0 0 %d 0 %d 0 0 ', charged, charge - charged) .. listed(spent) .. ' - -'
if policy == 4 then policy = 2 end
if policy ~= 6 then a[ACTIONS] = a[ACTIONS] + 1 end
-- checks above, writes below
local core = record(KEYS, a, w, epoch, now, 'H', ARGV[11], ARGV[12], ARGV[2], amounts, 0, ARGV[4], policy, ARGV[6], ARGV[7])
local ended = '6 ' .. ARGV[4] .. format(' - %d %d ', available(w, now), w[PINNED]) .. core
call('SET', KEYS[5], ended, 'PX', ARGV[8])
if counters then call('HSET', KEYS[6], unpack(counters)) end
return ended
