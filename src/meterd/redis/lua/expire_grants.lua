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
for g = FIRST, #w, NEXT do
  local ends, left = w[g + UNTIL], w[g + LEFT]
  if ends > 0 and ends <= now and left > 0 and #due < tonumber(ARGV[4]) then due[#due + 1] = w[g]
  elseif ends > 0 and left + w[g + OPEN] > 0 and (soonest == 0 or ends < soonest) and (ends > now or left > 0) then soonest = ends end
end
-- checks above, writes below
for _, id in ipairs(due) do
  -- The record before this one may have taken a grant out.
  local g = FIRST
  while w[g] ~= id do g = g + NEXT end
  local amount = w[g + LEFT]
  w[g + LEFT] = 0
  a[WORTH], a[EXPIRED] = a[WORTH] - amount, a[EXPIRED] + amount
  local amounts = format('0 0 0 0 0 %d 0 - %s -', amount, listed({id, amount}))
  record(KEYS, a, w, epoch, now, 'X', id, ARGV[2], ARGV[3], amounts, 0, '-', 0, '', '')
end
return {'EXPIRED', #due, soonest}
