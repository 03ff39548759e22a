#!lua flags=allow-oom
-- Takes an amount back from a wallet: first from the named grants, in the order of their names, unless they have expired; then from active grants
-- in burn order; and what they lack as debt, without a bound but that of numbers.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 grant expiries (zset)
-- ARGV: 1 epoch, 2 change number, 3 claw-back id (32 hex), 4 wallet, 5 amount (micros), 6 address, 7 grant ids (32 hex each, '': none)
-- Returns {code, …}: APPLIED amount available held seq | ALREADY available held seq | NOTLOADED | FENCED | BADARG n | RANGE | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number, amount = whole(ARGV[2]), whole(ARGV[5])
if not number then return {'BADARG', '2'} end
if not amount or amount == 0 then return {'BADARG', '5'} end
if #ARGV[7] % 32 ~= 0 then return {'BADARG', '7'} end
local a, w = read_account(KEYS[2], ARGV[4])
if not a then return {'NOTLOADED'} end
local now = now_ms()
w = w or {0, 0}
if number <= a[CHANGE] then return {'ALREADY', available(w, now), w[PINNED], a[SEQ]} end
if a[REVOKED] + amount > MAX or w[DEBT] + amount > MAX or a[WORTH] - amount < -MAX then return {'RANGE'} end
if not is_conserved(a) then return {'BROKEN'} end
local taken, left = nil, amount
for id in string.gmatch(ARGV[7], string.rep('%x', 32)) do
  for g = FIRST, #w, NEXT do
    local part = math.min(w[g + LEFT], left)
    if w[g] == id and part > 0 and (w[g + UNTIL] == 0 or w[g + UNTIL] > now) then
      w[g + LEFT], left = w[g + LEFT] - part, left - part
      taken = merge(taken, {id, part})
    end
  end
end
local others, covered = take(w, now, math.min(left, math.max(0, available(w, now))), false)
taken, left = merge(taken, others), left - covered
w[DEBT] = w[DEBT] + left
a[CHANGE], a[WORTH], a[REVOKED] = number, a[WORTH] - amount, a[REVOKED] + amount
local amounts = format('0 0 0 0 0 0 %d - - %s', amount, listed(taken))
-- checks above, writes below
record(KEYS, a, w, epoch, now, 'B', ARGV[3], ARGV[6], ARGV[4], amounts, number, '-', 0, '', '')
return {'APPLIED', amount, available(w, now), w[PINNED], a[SEQ]}
