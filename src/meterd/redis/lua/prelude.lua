-- Shared by all verbs; the loader puts in front of each what it needs of this, with names of places as the numbers they stand for.
-- No redis.call that writes stands here, except in `record`.
--
-- All amounts are whole micro-credits within ±(2^53 − 1), which doubles hold exactly; they are packed as doubles, and go into text by
-- string.format's %d, which takes them as 64-bit integers: `..` and tostring would give 14 digits. Text goes together by `..`, since %s copies it
-- letter by letter.
-- Slices and draws are rows: {grant id, amount, grant id, amount, …}
local MAX = 9007199254740991

local call = redis.call

local format = string.format

-- An account: the field "c" of its hash. The sums obey: granted = worth + held + spent + expired + revoked.
local TENANT, ID, TXN, SEQ, CHANGE, GRANTED, WORTH, HELD = 1, 2, 3, 4, 5, 6, 7, 8
local SPENT, EXPIRED, REVOKED, HOLDS, POLICY, OVERDRAFT, STRICT, FROZEN = 9, 10, 11, 12, 13, 14, 15, 16
-- Until when the plan counts (ms), whether it is unlimited, its actions a day (0: no limit), and the actions of the UTC day of that number.
-- The field "b" has the names of the wallets that the plan gives nothing, each between spaces.
local PLANNED, UNLIMITED, DAILY, DAY, ACTIONS = 17, 18, 19, 20, 21

-- A wallet: the field "w:" .. name. Its debt, what open holds have of it, and its grants in burn order, all in one row:
-- {debt, held, id (32 hex), available, held, expires_ms (0: never), effective_ms, priority, category, number, revoked (0 or 1), id, …}
local DEBT, PINNED, FIRST = 1, 2, 3
-- Places from a grant's id on; the next grant begins at NEXT.
local LEFT, OPEN, UNTIL, SINCE, PRIORITY, CATEGORY, NUMBER, VOID, NEXT = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- An open hold. The key of an ended one keeps text instead, which is also the answer to its end: "state reserve-digest commit-digest
-- available held seq at_ms wallet amount granted charged returned uncollected expired revoked drawn forfeits revocations"; state is 2-5
-- as in the proto, 6 for a charge; "-" is an empty one. While a late Commit may come, a second line: "overage created_ms expires_ms terms".
local STATE, DIGEST, WALLET, TERMS, DETAIL, AMOUNT, CREATED, DEADLINE = 1, 2, 3, 4, 5, 6, 7, 8
-- ENTRIES: what it was counted as by limits (see limits.lua), in one text.
local REPORTED, OVERAGE, EXPIRY, ENTRIES, SLICES = 9, 10, 11, 12, 13
-- Words of an ending; state and digest have the same places as in an open hold.
local COMMIT_DIGEST, ENDED_WALLET, ENDED_AMOUNT, ENDED_CHARGED = 3, 8, 9, 11

-- A whole number ≥ 0 from text, or nil: tonumber alone takes nan, inf, 0x10 and 1e3.
local function whole(s)
  if #s > 16 or not string.find(s, '^%d+$') then return nil end
  local n = tonumber(s)
  return n <= MAX and n or nil
end

local function listed(draws)
  if not draws[1] then return '-' end
  local out = draws[1] .. format(':%d', draws[2])
  for i = 3, #draws, 2 do out = out .. ',' .. draws[i] .. format(':%d', draws[i + 1]) end
  return out
end

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function is_active(w, g, now)
  local ends = w[g + UNTIL]
  return w[g + VOID] == 0 and w[g + SINCE] <= now and (ends == 0 or ends > now)
end

local function available(w, now)
  local sum = -w[DEBT]
  for g = FIRST, #w, NEXT do
    if is_active(w, g, now) then sum = sum + w[g + LEFT] end
  end
  return sum
end

-- Σ available of all grants − debt: what the account's worth sums up, whether a grant is active or not.
local function worth(w)
  local sum = -w[DEBT]
  for g = FIRST, #w, NEXT do sum = sum + w[g + LEFT] end
  return sum
end

-- Takes up to `want` from active grants in burn order into `draws`, and where `is_held` into what they hold; answers what it took.
local function take(w, now, want, draws, is_held)
  local left = want
  for g = FIRST, #w, NEXT do
    if left <= 0 then break end
    local part = math.min(w[g + LEFT], left)
    if part > 0 and is_active(w, g, now) then
      w[g + LEFT] = w[g + LEFT] - part
      if is_held then w[g + OPEN] = w[g + OPEN] + part end
      left = left - part
      draws[#draws + 1] = w[g]
      draws[#draws + 1] = part
    end
  end
  return want - left
end

-- Begins a new day's count if need be; answers whether the plan makes the call free of charge, and whether the day's actions are used up.
local function under_plan(a, now)
  local day = math.floor(now / 86400000)
  if a[DAY] ~= day then a[DAY], a[ACTIONS] = day, 0 end
  local is_on = now < a[PLANNED]
  return is_on and a[UNLIMITED] == 1, is_on and a[DAILY] > 0 and a[ACTIONS] >= a[DAILY]
end

-- Whether the plan gives the wallet nothing; asked only when a call is denied.
local function is_blocked(key, wallet)
  return string.find(call('HGET', key, 'b') or '', ' ' .. wallet .. ' ', 1, true) ~= nil
end

-- The answer to a call whose day's actions are used up.
local function denied_actions(a, now, free, required, held)
  return {'DENIED', 5, free, required, a[DAILY], held, a[SEQ], a[ACTIONS], (math.floor(now / 86400000) + 1) * 86400000}
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

-- How a wallet of so many grants is packed. Those of few are written out, since making text costs more than all of their numbers.
local function wallet_format(count)
  if count == 1 then return '<ddc32dddddddd' end
  if count == 2 then return '<ddc32ddddddddc32dddddddd' end
  return '<dd' .. string.rep('c32dddddddd', count)
end

-- The wallet packed. Grants with nothing left and nothing held leave it.
local function packed_wallet(w)
  for g = #w - NEXT + 1, FIRST, -NEXT do
    if w[g + LEFT] == 0 and w[g + OPEN] == 0 then
      for _ = 1, NEXT do table.remove(w, g) end
    end
  end
  return struct.pack(wallet_format((#w - 2) / NEXT), unpack(w))
end

-- Ends the slices of a hold: the first `charge` micros are spent, the rest goes back to its grants, or is forfeited where a grant
-- has expired, or revoked where it was revoked. Answers spent draws, returned, forfeited draws, revoked draws.
local function unhold(w, slices, charge, now)
  local spent, back, forfeited, revoked = {}, 0, {}, {}
  for i = 1, #slices, 2 do
    local id, amount, g = slices[i], slices[i + 1], FIRST
    while w[g] ~= id do g = g + NEXT end
    local part = math.min(amount, charge)
    charge = charge - part
    w[g + OPEN] = w[g + OPEN] - amount
    w[PINNED] = w[PINNED] - amount
    if part > 0 then spent[#spent + 1] = id; spent[#spent + 1] = part end
    local rest = amount - part
    if rest > 0 then
      if w[g + VOID] == 1 then revoked[#revoked + 1] = id; revoked[#revoked + 1] = rest
      elseif w[g + UNTIL] ~= 0 and w[g + UNTIL] <= now then forfeited[#forfeited + 1] = id; forfeited[#forfeited + 1] = rest
      else w[g + LEFT] = w[g + LEFT] + rest; back = back + rest end
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
-- and the overdraft. Policy 5 is that of an unlimited plan's holds: nothing is ever due for them.
local function beyond(w, now, want, policy, overdraft_limit)
  local draws, debt = {}, 0
  if policy ~= 1 and want > 0 then
    local room = available(w, now)
    local taken = 0
    if room > 0 then taken = take(w, now, math.min(want, room), draws, false) end
    if policy == 3 then
      debt = math.max(0, math.min(want - taken, overdraft_limit - w[DEBT]))
      w[DEBT] = w[DEBT] + debt
    end
  end
  return draws, debt
end

local function packed_account(a)
  return struct.pack('<Hc0Hc0Hc0dddddddddddddddddd', #a[TENANT], a[TENANT], #a[ID], a[ID], #a[TXN], a[TXN], unpack(a, SEQ, ACTIONS))
end

local function unpacked_account(s)
  local a = {struct.unpack('<Hc0Hc0Hc0dddddddddddddddddd', s)}
  a[#a] = nil
  return a
end

-- struct.unpack answers where it stopped as well: one value too many for a list.
local function unpacked_wallet(s)
  local w = {struct.unpack(wallet_format((#s - 16) / 96), s)}
  w[#w] = nil
  return w
end

-- The account and one of its wallets, unpacked; nil where the account is not loaded, or has no such wallet. Then its limits, packed, or false.
local function read_account(key, wallet)
  local f = call('HMGET', key, 'c', 'w:' .. wallet, 'l')
  if not f[1] then return nil, nil end
  return unpacked_account(f[1]), f[2] and unpacked_wallet(f[2]), f[3]
end

-- Asked in every script before its first write.
local function is_conserved(a)
  return a[GRANTED] == a[WORTH] + a[HELD] + a[SPENT] + a[EXPIRED] + a[REVOKED]
end

local function packed_hold(h)
  local slices = h[SLICES]
  local layout = #slices == 2 and '<c1Hc0Hc0Ic0Ic0ddddBBIc0c32d' or '<c1Hc0Hc0Ic0Ic0ddddBBIc0' .. string.rep('c32d', #slices / 2)
  return struct.pack(layout, h[STATE], #h[DIGEST], h[DIGEST], #h[WALLET], h[WALLET],
    #h[TERMS], h[TERMS], #h[DETAIL], h[DETAIL], h[AMOUNT], h[CREATED], h[DEADLINE], h[REPORTED], h[OVERAGE], h[EXPIRY], #h[ENTRIES], h[ENTRIES],
    unpack(slices))
end

-- What the key of a hold keeps: the hold if it is open (its first letter is 1), otherwise nil and the words of its ending. A charge is no hold.
local function hold_in(packed)
  if string.byte(packed) == 49 then
    local hold = {struct.unpack('<c1Hc0Hc0Ic0Ic0ddddBBIc0', packed)}
    local at = hold[SLICES]
    local count = (#packed - at + 1) / 40
    local slices = {struct.unpack(count == 1 and '<c32d' or '<' .. string.rep('c32d', count), packed, at)}
    slices[#slices] = nil
    hold[SLICES] = slices
    return hold, nil
  end
  local words = {}
  for word in string.gmatch(string.match(packed, '^[^\n]*'), '%S+') do words[#words + 1] = word end
  if words[1] == '6' then return nil, nil end
  return nil, words
end

-- Writes the account, its wallet (nil: none) and one outbox record, and takes `member` (nil: none) out of the zset; core.ledger.Record names
-- the record's fields. `amounts` has those from the amount to the revocations. Answers what an ending repeats of it: "seq at_ms wallet
-- amounts". Whatever could raise is done before the first write, and the zset comes first: only its type is not known yet.
local function record(keys, a, w, epoch, now, kind, txn, address, wallet, amounts, change, digest, policy, terms, detail, member)
  local previous = a[TXN]
  a[SEQ] = a[SEQ] + 1
  a[TXN] = kind .. txn
  local account, row = packed_account(a), w and packed_wallet(w)
  w = w or {0, 0}
  local core = format('%d %d ', a[SEQ], now) .. wallet .. ' ' .. amounts
  local line = kind .. ' ' .. txn .. ' ' .. (previous == '' and '-' or previous) .. ' ' .. address .. ' ' .. string.match(epoch, '^%d+')
    .. ' ' .. core .. format(' %d %d %d %d %d %s %d', worth(w), w[DEBT], w[PINNED], a[HELD], change, digest, policy)
  if member then call('ZREM', keys[4], member) end
  if row then call('HSET', keys[2], 'c', account, 'w:' .. wallet, row)
  else call('HSET', keys[2], 'c', account) end
  call('XADD', keys[3], '*', 'r', line, 'm', terms, 'j', detail)
  return core
end

-- Raises before the first write what XADD would raise after it: the outbox is of another type. A zset's type need not be asked for, since
-- a write to it stands first; the types of the other keys are known from reading them.
local function check_outbox(keys) call('XLEN', keys[3]) end

-- "wallet amount created_ms expires_ms reported available held seq slices overage" and the terms.
local function held_reply(hold, replayed, free, wallet_held, seq)
  return {'HELD', replayed, format('%s %d %d %d %d %d %d %d %s %d', hold[WALLET], hold[AMOUNT], hold[CREATED], hold[DEADLINE], hold[REPORTED],
    free, wallet_held, seq, listed(hold[SLICES]), hold[OVERAGE]), hold[TERMS]}
end

-- The answer to a Reserve whose hold id is known already.
local function replay_reserve(packed, digest, key, now)
  local hold, past = hold_in(packed)
  if past then
    if past[DIGEST] ~= digest then return {'CONFLICT', past[STATE], past[ENDED_WALLET], ''} end
    return {'SETTLED', 1, packed}
  end
  if not hold then return {'CONFLICT', '6'} end
  if hold[DIGEST] ~= digest then return {'CONFLICT', '1', hold[WALLET], hold[TERMS]} end
  local a, w = read_account(key, hold[WALLET])
  if not a then return {'NOTLOADED'} end
  return held_reply(hold, 1, available(w, now), w[PINNED], a[SEQ])
end

-- Burn order: priority, then soonest expiry, then promotional kinds before paid ones (category 1), then the oldest. Whether the grant at
-- `x` of one wallet burns before that at `y` of another.
local function burns_before(v, x, w, y)
  if v[x + PRIORITY] ~= w[y + PRIORITY] then return v[x + PRIORITY] < w[y + PRIORITY] end
  local first, second = v[x + UNTIL], w[y + UNTIL]
  if first ~= second then return first ~= 0 and (second == 0 or first < second) end
  local is_paid = w[y + CATEGORY] == 1
  if (v[x + CATEGORY] == 1) ~= is_paid then return is_paid end
  return v[x + NUMBER] < w[y + NUMBER]
end
