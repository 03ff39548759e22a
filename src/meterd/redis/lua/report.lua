#!lua
-- Remembers the largest cumulative usage of an open hold.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash; not read)
-- ARGV: 1 epoch, 2 tenant, 3 used so far (micros), 4 detail (JSON)
-- Returns {code, …}: HELD … as reserve | NOHOLD | STATE state | NOTLOADED | FENCED | BADARG n
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local used = whole(ARGV[3])
if not used then return {'BADARG', '3'} end
if not packed then return {'NOHOLD'} end
local hold, past = hold_in(packed)
if not hold and not past then return {'NOHOLD'} end
local a, w = read_account(KEYS[2], hold and hold[WALLET] or past[ENDED_WALLET])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past then return {'STATE', tonumber(past[STATE])} end
local is_larger = used >= hold[REPORTED]
if is_larger then hold[REPORTED], hold[DETAIL] = used, ARGV[4] end
-- checks above, writes below
if is_larger then call('SET', KEYS[5], packed_hold(hold)) end
return held_reply(hold, 0, available(w, now_ms()), w[PINNED], a[SEQ])
