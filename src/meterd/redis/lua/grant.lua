#!lua flags=allow-oom
-- Adds a grant that was born in Postgres. What the wallet owes is paid off from it at once.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 grant expiries (zset)
-- ARGV: 1 epoch, 2 change number, 3 grant id (32 hex), 4 wallet, 5 amount (micros), 6 category, 7 priority, 8 effective (ms),
--       9 expires (ms, 0: never), 10 address, 11 grants at most
-- Returns {code, …}: APPLIED amount available held seq | ALREADY available held seq | NOTLOADED | FULL | FENCED | BADARG n | RANGE | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number, amount, effective, expires = whole(ARGV[2]), whole(ARGV[5]), whole(ARGV[8]), whole(ARGV[9])
local category, priority = whole(ARGV[6]), tonumber(ARGV[7])
if not number then return {'BADARG', '2'} end
if not amount or amount == 0 then return {'BADARG', '5'} end
if not category or not priority then return {'BADARG', '6'} end
if not effective or not expires then return {'BADARG', '8'} end
local a, w = read_account(KEYS[2], ARGV[4])
if not a then return {'NOTLOADED'} end
local now = now_ms()
w = w or {0, 0}
if number <= a[CHANGE] then return {'ALREADY', available(w, now), w[PINNED], a[SEQ]} end
if (#w - 2) / NEXT >= tonumber(ARGV[11]) then return {'FULL'} end
if a[GRANTED] + amount > MAX then return {'RANGE'} end
if not is_conserved(a) then return {'BROKEN'} end
local grant = {ARGV[3], amount, 0, expires, effective, priority, category, number, 0}
local paid = nil
if w[DEBT] > 0 and is_active(grant, 1, now) then
  local part = math.min(w[DEBT], amount)
  grant[1 + LEFT], w[DEBT], paid = amount - part, w[DEBT] - part, {ARGV[3], part}
end
local at = FIRST
while w[at] and not burns_before(grant, 1, w, at) do at = at + NEXT end
for i = NEXT, 1, -1 do table.insert(w, at, grant[i]) end
a[CHANGE], a[GRANTED], a[WORTH] = number, a[GRANTED] + amount, a[WORTH] + amount
local amounts = format('0 %d 0 0 0 0 0 %s - -', amount, listed(paid))
-- Its type is not known yet, and it will not be the first to be written.
call('XLEN', KEYS[3])
-- checks above, writes below
if expires > 0 then call('ZADD', KEYS[4], 'LT', ARGV[9], ARGV[10]) end
record(KEYS, a, w, epoch, now, 'G', ARGV[3], ARGV[10], ARGV[4], amounts, number, '-', 0, '', '')
return {'APPLIED', amount, available(w, now), w[PINNED], a[SEQ]}
