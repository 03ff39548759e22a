#!lua
-- Gives an open hold more time and, if asked, more credits. Both are absolute; neither shrinks.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tenant, 3 ttl from now (ms), 4 new total (micros, 0: as it is), 5 deadline member
-- Returns {code, …}: HELD … and DENIED … as reserve | NOHOLD | STATE state | NOTLOADED | FENCED | BADARG n | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local ttl, total = whole(ARGV[3]), whole(ARGV[4])
if not ttl then return {'BADARG', '3'} end
if not total then return {'BADARG', '4'} end
local packed = call('GET', KEYS[5])
if not packed then return {'NOHOLD'} end
local hold = cmsgpack.unpack(packed)
local a, w = read_account(KEYS[2], hold[1] == 1 and hold[3] or hold[10])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if hold[1] ~= 1 then return {'STATE', hold[1]} end
local now, more = now_ms(), math.max(0, total - hold[4])
local free = available(w, now)
if more > 0 and a[FROZEN] == 1 then return {'DENIED', 2, free, more, 0, w[2], a[SEQ]} end
if more > free and more > 0 then return {'DENIED', 1, free, more, 0, w[2], a[SEQ]} end
if not is_conserved(a) then return {'BROKEN'} end
local slices = {}
take(w, now, more, slices)
for i = 1, #slices, 2 do
  for g = 3, #w do
    if w[g][1] == slices[i] then w[g][3] = w[g][3] + slices[i + 1] end
  end
end
merge(hold[5], slices)
w[2] = w[2] + more
hold[4] = hold[4] + more
a[WORTH], a[HELD] = a[WORTH] - more, a[HELD] + more
hold[7] = math.max(hold[7], now + ttl)
check_types(KEYS)
-- checks above, writes below
if more > 0 then
  call('HSET', KEYS[2], 'c', cmsgpack.pack(a), 'w:' .. hold[3], cmsgpack.pack(w))
end
call('SET', KEYS[5], cmsgpack.pack(hold))
call('ZADD', KEYS[4], text(hold[7]), ARGV[5])
return held_reply(hold, 0, available(w, now), w[2], a[SEQ])
