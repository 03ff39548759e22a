#!lua
-- Remembers the largest cumulative usage of an open hold.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tenant, 3 used so far (micros), 4 detail (JSON)
-- Returns {code, …}: HELD … as reserve | NOHOLD | STATE state | NOTLOADED | FENCED | BADARG n
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local used = whole(ARGV[3])
if not used then return {'BADARG', '3'} end
local packed = call('GET', KEYS[5])
if not packed then return {'NOHOLD'} end
local hold = cmsgpack.unpack(packed)
local a, w = read_account(KEYS[2], hold[1] == 1 and hold[3] or hold[10])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if hold[1] ~= 1 then return {'STATE', hold[1]} end
local is_larger = used >= hold[11]
if is_larger then hold[11], hold[12] = used, ARGV[4] end
-- checks above, writes below
if is_larger then call('SET', KEYS[5], cmsgpack.pack(hold)) end
return held_reply(hold, 0, available(w, now_ms()), w[2], a[SEQ])
