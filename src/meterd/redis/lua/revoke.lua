#!lua flags=allow-oom
-- Takes back what is left of a grant; slices in open holds are taken back when they are returned.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 grant expiries (zset)
-- ARGV: 1 epoch, 2 change number, 3 revocation id (32 hex), 4 wallet, 5 grant id (32 hex), 6 address
-- Returns {code, …}: APPLIED amount available held seq | ALREADY available held seq | NOTLOADED | FENCED | BADARG n | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local number = whole(ARGV[2])
if not number then return {'BADARG', '2'} end
local a, w = read_account(KEYS[2], ARGV[4])
if not a then return {'NOTLOADED'} end
local now = now_ms()
w = w or {0, 0}
if number <= a[CHANGE] then return {'ALREADY', available(w, now), w[PINNED], a[SEQ]} end
if not is_conserved(a) then return {'BROKEN'} end
local taken = nil
for g = FIRST, #w, NEXT do
  if w[g] == ARGV[5] then
    if w[g + LEFT] > 0 then taken = {w[g], w[g + LEFT]} end
    w[g + LEFT], w[g + VOID] = 0, 1
  end
end
local amount = sum(taken)
a[CHANGE], a[WORTH], a[REVOKED] = number, a[WORTH] - amount, a[REVOKED] + amount
local amounts = format('0 0 0 0 0 0 %d - - %s', amount, listed(taken))
-- checks above, writes below
record(KEYS, a, w, epoch, now, 'V', ARGV[3], ARGV[6], ARGV[4], amounts, number, '-', 0, '', '')
return {'APPLIED', amount, available(w, now), w[PINNED], a[SEQ]}
