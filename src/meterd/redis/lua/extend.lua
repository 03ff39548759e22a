#!lua
-- Gives an open hold more time and, if asked, more credits. Both are absolute; neither shrinks.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash)
-- ARGV: 1 epoch, 2 tenant, 3 ttl from now (ms), 4 new total (micros, 0: as it is), 5 deadline member
-- Returns {code, …}: HELD … and DENIED … as reserve | NOHOLD | STATE state | NOTLOADED | FENCED | BADARG n | BROKEN
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local ttl, total = whole(ARGV[3]), whole(ARGV[4])
if not ttl then return {'BADARG', '3'} end
if not total then return {'BADARG', '4'} end
if not packed then return {'NOHOLD'} end
local hold, past = hold_in(packed)
if not hold and not past then return {'NOHOLD'} end
local a, w, defined = read_account(KEYS[2], hold and hold[WALLET] or past[ENDED_WALLET])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past then return {'STATE', tonumber(past[STATE])} end
local now, more = now_ms(), math.max(0, total - hold[AMOUNT])
if hold[OVERAGE] == 5 then more = 0 end
local free = available(w, now)
if more > 0 and a[FROZEN] == 1 then return {'DENIED', 2, free, more, 0, w[PINNED], a[SEQ]} end
local code, deadline, exceeded, counters = more > free and more > 0 and 1 or 0, math.max(hold[DEADLINE], now + ttl), nil, nil
if defined then
  -- only here: limited, said_by, merged
  local entries = nil
  exceeded, counters, entries = limited(defined, KEYS[6], now, deadline + REMEMBERED, said_by(hold[TERMS], '', more, nil, 1), false)
  if exceeded then return {'DENIED', 6, free, more, code, w[PINNED], a[SEQ], exceeded} end
  hold[ENTRIES] = merged(hold[ENTRIES], entries)
end
if code > 0 then return {'DENIED', code, free, more, 0, w[PINNED], a[SEQ]} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = take(w, now, more, true)
hold[SLICES] = merge(hold[SLICES], slices)
w[PINNED] = w[PINNED] + more
hold[AMOUNT] = hold[AMOUNT] + more
a[WORTH], a[HELD] = a[WORTH] - more, a[HELD] + more
hold[DEADLINE] = deadline
local account, wallet, extended = packed_account(a), packed_wallet(w), packed_hold(hold)
-- checks above, writes below
call('ZADD', KEYS[4], hold[DEADLINE], ARGV[5])
if more > 0 then call('HSET', KEYS[2], 'c', account, 'w:' .. hold[WALLET], wallet) end
call('SET', KEYS[5], extended)
if counters then call('HSET', KEYS[6], unpack(counters)) end
return held_reply(hold, 0, available(w, now), w[PINNED], a[SEQ])
