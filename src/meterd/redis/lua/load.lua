#!lua
-- Puts an account as Postgres knows it into Redis, if it is not there.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 grant expiries (zset), 4 counters of limits (hash)
-- ARGV: 1 epoch, 2 tenant, 3 account id, 4 seq, 5 last txn, 6 change number, 7 granted, 8 spent, 9 expired, 10 revoked (micros),
--       11 overage (1-3), 12 overdraft limit (micros), 13 strict, 14 frozen, 15 address, 16 until when the plan counts (ms),
--       17 unlimited (0 or 1), 18 actions a day (0: no limit), 19 day of the actions, 20 actions, 21 wallets that the plan gives nothing, each
--       between spaces, 22 number of wallets, then a wallet: name, debt (micros), number of grants, then a grant in burn order:
--       id (32 hex), available (micros), expires (ms), effective (ms), priority, category, number, revoked (0 or 1); then the limits (packed as in
--       limits.lua) and of each counter its name and row
-- Returns {code, …}: LOADED | ALREADY | FENCED | BADARG n | BROKEN
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
if call('EXISTS', KEYS[2]) == 1 then return {'ALREADY'} end
for i = 7, 20 do
  if i ~= 15 and not whole(ARGV[i]) then return {'BADARG', format('%d', i)} end
end
local at, total, soonest, fields = 23, 0, 0, {}
for _ = 1, tonumber(ARGV[22]) do
  local w = {tonumber(ARGV[at + 1]), 0}
  local name, count = ARGV[at], tonumber(ARGV[at + 2])
  at = at + 3
  for _ = 1, count do
    local expires = tonumber(ARGV[at + 2])
    local grant = {ARGV[at], tonumber(ARGV[at + 1]), 0, expires, tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]),
      tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])}
    for i = 1, NEXT do w[#w + 1] = grant[i] end
    if expires > 0 and (soonest == 0 or expires < soonest) then soonest = expires end
    at = at + 8
  end
  total = total + worth(w)
  fields[#fields + 1] = 'w:' .. name
  fields[#fields + 1] = packed_wallet(w)
end
local granted = tonumber(ARGV[7])
if granted ~= total + tonumber(ARGV[8]) + tonumber(ARGV[9]) + tonumber(ARGV[10]) then return {'BROKEN'} end
local n = {}
for _, i in ipairs({4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20}) do n[i] = tonumber(ARGV[i]) end
local a = {ARGV[2], ARGV[3], ARGV[5], n[4], n[6], granted, total, 0, n[8], n[9], n[10], 0, n[11], n[12], n[13], n[14],
  n[16], n[17], n[18], n[19], n[20]}
if ARGV[at] ~= '' then
  fields[#fields + 1] = 'l'
  fields[#fields + 1] = ARGV[at]
end
call('ZCARD', KEYS[3])
-- checks above, writes below
call('HSET', KEYS[2], 'c', packed_account(a), 'b', ARGV[21], unpack(fields))
if soonest > 0 then call('ZADD', KEYS[3], soonest, ARGV[15]) end
call('UNLINK', KEYS[4])
for i = at + 1, #ARGV, 2 do call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
return {'LOADED'}
