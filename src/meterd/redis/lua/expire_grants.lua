#!lua flags=allow-oom
-- Forfeits what is left of grants whose time is up, one record a grant, in one wallet.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 outbox (stream), 4 grant expiries (zset)
-- ARGV: 1 epoch, 2 address, 3 wallet, 4 records at most
-- Returns {code, …}: EXPIRED count next_ms (0: none left in this wallet) | NOTLOADED | FENCED | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local a, w = read_account(KEYS[2], ARGV[3])
if not a then return {'NOTLOADED'} end
if not w then return {'EXPIRED', '0', '0'} end
if not is_conserved(a) then return {'BROKEN'} end
local now, due, soonest = now_ms(), {}, 0
for i = 3, #w do
  local g = w[i]
  if g[4] > 0 and g[4] <= now and g[2] > 0 and #due < tonumber(ARGV[4]) then due[#due + 1] = g
  elseif g[4] > 0 and g[2] + g[3] > 0 and (soonest == 0 or g[4] < soonest) and (g[4] > now or g[2] > 0) then soonest = g[4] end
end
check_types(KEYS)
-- checks above, writes below
for _, g in ipairs(due) do
  local amount = g[2]
  g[2] = 0
  a[WORTH], a[EXPIRED] = a[WORTH] - amount, a[EXPIRED] + amount
  record(KEYS, a, w, epoch, now, {kind = 'X', txn = g[1], address = ARGV[2], wallet = ARGV[3], expired = amount, forfeits = {g[1], amount}})
end
return {'EXPIRED', #due, soonest}
