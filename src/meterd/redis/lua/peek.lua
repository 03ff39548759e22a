#!lua flags=no-writes
-- What is known of a hold; changes nothing.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 deadlines (zset), 5 hold (string)
-- ARGV: 1 epoch, 2 tenant
-- Returns {code, …}: HELD … as reserve | SETTLED … as commit, then terms (of an expired hold) | NOHOLD | NOTLOADED | FENCED
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local packed = call('GET', KEYS[5])
if not packed then return {'NOHOLD'} end
local hold = cmsgpack.unpack(packed)
local a, w = read_account(KEYS[2], hold[1] == 1 and hold[3] or hold[10])
if not a then return {'NOTLOADED'} end
if a[TENANT] ~= ARGV[2] then return {'NOHOLD'} end
if hold[1] ~= 1 then
  local reply = settled_reply(hold, 1)
  reply[15] = hold[16] or ''
  return reply
end
return held_reply(hold, 1, available(w, now_ms()), w[2], a[SEQ])
