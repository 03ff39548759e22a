-- Shared by all verbs; the loader puts it in front of each. No redis.call that writes stands here, except in `record`.
--
-- wallet  = {debt, held, grant, …} in burn order, packed with cmsgpack in the account's field "w:" .. name
-- grant   = {id (32 hex), available, held, expires_ms (0: never), effective_ms, priority, category, number, revoked (0 or 1)}
-- hold    = {1, digest, wallet, amount, slices, created_ms, expires_ms, overage, expiry, terms, reported, reported detail}
-- ended   = {state (2-5 as in the proto, 6: a charge), reserve digest, commit digest, charged, returned, uncollected, forfeited,
--            at_ms, draws, wallet, seq, available, held, amount [, overage, terms, created_ms, expires_ms: while a late Commit may come]}
-- slices, draws = {grant id, amount, grant id, amount, …}
-- All amounts are whole micro-credits within ±(2^53 − 1), which doubles hold exactly.
local MAX = 9007199254740991

local call = redis.call

local format = string.format

-- Exact decimal text of a whole number: %d takes it as a 64-bit integer. tostring and .. would give 14 digits.
local function text(n) return format('%d', n) end

-- A whole number ≥ 0 from text, or nil: tonumber alone takes nan, inf, 0x10 and 1e3.
local function whole(s)
  if #s > 16 or not string.find(s, '^%d+$') then return nil end
  local n = tonumber(s)
  return n <= MAX and n or nil
end


local function listed(draws)
  if not draws or #draws == 0 then return '-' end
  local out = format('%s:%d', draws[1], draws[2])
  for i = 3, #draws, 2 do out = format('%s,%s:%d', out, draws[i], draws[i + 1]) end
  return out
end

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function is_active(g, now) return g[9] == 0 and g[5] <= now and (g[4] == 0 or g[4] > now) end

local function available(w, now)
  local sum = -w[1]
  for i = 3, #w do
    if is_active(w[i], now) then sum = sum + w[i][2] end
  end
  return sum
end

-- Σ available of all grants − debt: what the account's field b sums up, whether a grant is active or not.
local function worth(w)
  local sum = -w[1]
  for i = 3, #w do sum = sum + w[i][2] end
  return sum
end

-- Takes up to `want` from active grants in burn order into `draws`; answers what it took.
local function take(w, now, want, draws)
  local left = want
  for i = 3, #w do
    if left <= 0 then break end
    local g = w[i]
    if g[2] > 0 and is_active(g, now) then
      local part = math.min(g[2], left)
      g[2] = g[2] - part
      left = left - part
      draws[#draws + 1] = g[1]
      draws[#draws + 1] = part
    end
  end
  return want - left
end

-- Adds draws to those of the same grant.
local function merge(into, draws)
  for i = 1, #draws, 2 do
    local at = nil
    for j = 1, #into, 2 do
      if into[j] == draws[i] then at = j + 1 end
    end
    if at then into[at] = into[at] + draws[i + 1]
    else into[#into + 1] = draws[i]; into[#into + 1] = draws[i + 1] end
  end
end

-- Grants with nothing left and nothing held leave the wallet.
local function prune(w)
  local is_full = true
  for i = 3, #w do
    if w[i][2] == 0 and w[i][3] == 0 then is_full = false end
  end
  if is_full then return w end
  local kept = {w[1], w[2]}
  for i = 3, #w do
    if w[i][2] > 0 or w[i][3] > 0 then kept[#kept + 1] = w[i] end
  end
  return kept
end

-- Ends the slices of a hold: the first `charge` micros are spent, the rest goes back to its grants, or is forfeited where a grant
-- has expired, or revoked where it was revoked. Answers spent draws, returned, forfeited draws, revoked draws.
local function unhold(w, slices, charge, now)
  local spent, back, forfeited, revoked = {}, 0, {}, {}
  local by_id = {}
  for i = 3, #w do by_id[w[i][1]] = w[i] end
  for i = 1, #slices, 2 do
    local id, amount = slices[i], slices[i + 1]
    local g = by_id[id]
    local part = math.min(amount, charge)
    charge = charge - part
    g[3] = g[3] - amount
    w[2] = w[2] - amount
    if part > 0 then spent[#spent + 1] = id; spent[#spent + 1] = part end
    local rest = amount - part
    if rest > 0 then
      if g[9] == 1 then revoked[#revoked + 1] = id; revoked[#revoked + 1] = rest
      elseif g[4] ~= 0 and g[4] <= now then forfeited[#forfeited + 1] = id; forfeited[#forfeited + 1] = rest
      else g[2] = g[2] + rest; back = back + rest end
    end
  end
  return spent, back, forfeited, revoked
end

local function sum(draws)
  local total = 0
  for i = 2, #draws, 2 do total = total + draws[i] end
  return total
end

-- What a charge beyond its hold may still take by policy (1 CAP, 2 DRAW, 3 OVERDRAFT). Changes the wallet; answers taken draws
-- and the overdraft.
local function beyond(w, now, want, policy, overdraft_limit)
  local draws, debt = {}, 0
  if policy ~= 1 and want > 0 then
    local room = available(w, now)
    local taken = 0
    if room > 0 then taken = take(w, now, math.min(want, room), draws) end
    if policy == 3 then
      debt = math.max(0, math.min(want - taken, overdraft_limit - w[1]))
      w[1] = w[1] + debt
    end
  end
  return draws, debt
end

-- Places in a packed account. The sums obey: granted = worth + held + spent + expired + revoked.
local TENANT, ID, SEQ, TXN, CHANGE, GRANTED, WORTH, HELD = 1, 2, 3, 4, 5, 6, 7, 8
local SPENT, EXPIRED, REVOKED, HOLDS, POLICY, OVERDRAFT, STRICT, FROZEN = 9, 10, 11, 12, 13, 14, 15, 16

-- The account and one of its wallets, unpacked; nil where the account is not loaded, or has no such wallet.
local function read_account(key, wallet)
  local f = call('HMGET', key, 'c', 'w:' .. wallet)
  if not f[1] then return nil, nil end
  return cmsgpack.unpack(f[1]), f[2] and cmsgpack.unpack(f[2])
end

-- Raises before the first write what a later one would raise: the outbox or the zset is of another type.
local function check_types(keys)
  call('XLEN', keys[3])
  if keys[4] then call('ZCARD', keys[4]) end
end

-- Asked in every script before its first write.
local function is_conserved(a)
  return a[GRANTED] == a[WORTH] + a[HELD] + a[SPENT] + a[EXPIRED] + a[REVOKED]
end

local RECORD = '%s %s %s %s %s %d %d %s %d %d %d %d %d %d %d %s %s %s %d %d %d %d %d %s %d'

-- Writes the account, its wallet and one outbox record. `r` has the record's own fields; see core.ledger.Record for their order.
local function record(keys, a, w, epoch, now, r)
  local previous = a[TXN]
  a[SEQ] = a[SEQ] + 1
  a[TXN] = r.kind .. r.txn
  if w then call('HSET', keys[2], 'c', cmsgpack.pack(a), 'w:' .. r.wallet, cmsgpack.pack(prune(w)))
  else call('HSET', keys[2], 'c', cmsgpack.pack(a)) end
  w = w or {0, 0}
  call('XADD', keys[3], '*', 'r', format(RECORD, r.kind, r.txn, previous == '' and '-' or previous, r.address, string.match(epoch, '^%d+'),
    a[SEQ], now, r.wallet or '-', r.amount or 0, r.granted or 0, r.charged or 0, r.returned or 0, r.uncollected or 0, r.expired or 0,
    r.revoked or 0, listed(r.drawn), listed(r.forfeits), listed(r.revocations), worth(w), w[1], w[2], a[HELD], r.change or 0,
    r.digest or '-', r.policy or 0), 'm', r.terms or '', 'j', r.detail or '')
end

-- Whole numbers go back as integer replies, exactly; every amount lies within ±(2^53 − 1).
local function held_reply(hold, replayed, free, wallet_held, seq)
  return {'HELD', replayed, hold[3], hold[4], hold[6], hold[7], hold[5], hold[10], free, wallet_held, seq, hold[11]}
end

local KINDS = {'', 'C', 'L', 'R', 'E', 'H'}

local function settled_reply(ended, replayed)
  return {'SETTLED', replayed, KINDS[ended[1]], ended[4], ended[5], ended[6], ended[7], ended[8], ended[9], ended[10], ended[12],
    ended[13], ended[11], ended[14]}
end

-- The answer to a Reserve whose hold id is known already.
local function replay_reserve(hold, digest, key, now)
  if hold[2] ~= digest then
    if hold[1] == 1 then return {'CONFLICT', 1, hold[3], hold[10]} end
    return {'CONFLICT', hold[1], hold[10], ''}
  end
  if hold[1] ~= 1 then return settled_reply(hold, 1) end
  local a, w = read_account(key, hold[3])
  if not a then return {'NOTLOADED'} end
  return held_reply(hold, 1, available(w, now), w[2], a[SEQ])
end

-- Burn order: priority, then soonest expiry, then promotional kinds before paid ones (category 1), then the oldest.
local function burns_before(x, y)
  if x[6] ~= y[6] then return x[6] < y[6] end
  if x[4] ~= y[4] then return x[4] ~= 0 and (y[4] == 0 or x[4] < y[4]) end
  if (x[7] == 1) ~= (y[7] == 1) then return y[7] == 1 end
  return x[8] < y[8]
end
