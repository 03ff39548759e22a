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
if number <= a[CHANGE] then return {'ALREADY', available(w, now), w[2], a[SEQ]} end
if not is_conserved(a) then return {'BROKEN'} end
local taken = {}
for i = 3, #w do
  local g = w[i]
  if g[1] == ARGV[5] then
    if g[2] > 0 then taken = {g[1], g[2]} end
    g[2], g[9] = 0, 1
  end
end
local amount = sum(taken)
a[CHANGE], a[WORTH], a[REVOKED] = number, a[WORTH] - amount, a[REVOKED] + amount
local r = {kind = 'V', txn = ARGV[3], address = ARGV[6], wallet = ARGV[4], revoked = amount, revocations = taken, change = number}
check_types(KEYS)
-- checks above, writes below
record(KEYS, a, w, epoch, now, r)
return {'APPLIED', amount, available(w, now), w[2], a[SEQ]}
