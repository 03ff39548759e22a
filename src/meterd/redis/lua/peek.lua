#!lua flags=no-writes
-- What is known of a hold; changes nothing.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string), 6 counters of limits (hash; not read)
-- ARGV: 1 epoch, 2 tenant
-- Returns {code, …}: HELD … as reserve | SETTLED … as commit | NOHOLD | NOTLOADED | FENCED
local epoch, packed = unpack(call('MGET', KEYS[1], KEYS[5]))
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
if not packed then return {'NOHOLD'} end
local hold, past = hold_in(packed)
if not hold and not past then return {'NOHOLD'} end
local a, w = read_account(KEYS[2], hold and hold[WALLET] or past[ENDED_WALLET])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if past then return {'SETTLED', packed} end
return held_reply(hold, 1, available(w, now_ms()), w[PINNED], a[SEQ])
