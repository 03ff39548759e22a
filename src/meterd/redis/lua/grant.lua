#!lua flags=allow-oom
-- Adds a grant that was born in Postgres. What the wallet owes is paid off from it at once.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 grant expiries (zset)
-- ARGV: 1 epoch, 2 change number, 3 grant id (32 hex), 4 wallet, 5 amount (micros), 6 category, 7 priority, 8 effective (ms),
--       9 expires (ms, 0: never), 10 address, 11 grants at most
-- Returns {code, …}: APPLIED amount available held seq | ALREADY available held seq | NOTLOADED | FULL | FENCED | BADARG n | RANGE | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number, amount, effective, expires = whole(ARGV[2]), whole(ARGV[5]), whole(ARGV[8]), whole(ARGV[9])
if not amount or amount == 0 then return {'BADARG', '5'} end
local a, w = read_account(KEYS[2], ARGV[4])
if not a then return {'NOTLOADED'} end
local now = now_ms()
w = w or {0, 0}
if number <= a[CHANGE] then return {'ALREADY', available(w, now), w[2], a[SEQ]} end
if #w - 2 >= tonumber(ARGV[11]) then return {'FULL'} end
if a[GRANTED] + amount > MAX then return {'RANGE'} end
if not is_conserved(a) then return {'BROKEN'} end
local g = {ARGV[3], amount, 0, expires, effective, tonumber(ARGV[7]), tonumber(ARGV[6]), number, 0}
local paid = {}
if w[1] > 0 and is_active(g, now) then
  local part = math.min(w[1], amount)
  g[2], w[1], paid = amount - part, w[1] - part, {g[1], part}
end
local at = #w + 1
for i = #w, 3, -1 do
  if burns_before(g, w[i]) then at = i end
end
table.insert(w, at, g)
a[CHANGE], a[GRANTED], a[WORTH] = number, a[GRANTED] + amount, a[WORTH] + amount
local r = {kind = 'G', txn = ARGV[3], address = ARGV[10], wallet = ARGV[4], granted = amount, drawn = paid, change = number}
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
if expires > 0 then call('ZADD', KEYS[4], 'LT', ARGV[9], ARGV[10]) end
return {'APPLIED', amount, available(w, now), w[2], a[SEQ]}
