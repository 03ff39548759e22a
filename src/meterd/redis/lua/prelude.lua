-- Shared by all verbs. The loader gives each what it needs of this: a function marked `in place` where it is called, others in front of the verb,
-- and names of places as the numbers they stand for.
-- No redis.call that writes stands here, except in `record`.
--
-- All amounts are whole micro-credits within ±(2^53 − 1), which doubles hold exactly; they are packed as doubles, and go into text by
-- string.format's %d, which takes them as 64-bit integers: `..` and tostring would give 14 digits. Text goes together by `..`, since %s copies it
-- letter by letter.
-- Slices and draws are rows: {grant id, amount, grant id, amount, …}, nil for none. A row is made with its first values in it: a table that
-- grows from nothing is made anew for each of them.
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
local STATE, DIGEST, WALLET, TERMS, AMOUNT, CREATED, DEADLINE = 1, 2, 3, 4, 5, 6, 7
-- ENTRIES: what it was counted as by limits (see limits.lua), in one text.
local REPORTED, OVERAGE, EXPIRY, DETAIL, ENTRIES, SLICES = 8, 9, 10, 11, 12, 13
-- Words of an ending; state and digest have the same places as in an open hold.
local COMMIT_DIGEST, ENDED_WALLET, ENDED_AMOUNT, ENDED_CHARGED = 3, 8, 9, 11

-- A whole number ≥ 0 from text, or nil: tonumber alone takes nan, inf, 0x10 and 1e3.
local function whole(s)
  if #s > 16 or not string.find(s, '^%d+$') then return nil end
  local n = tonumber(s)
  return n <= MAX and n or nil
end

-- in place
local function listed(draws)
  local out = '-'
  if draws then
    out = draws[1] .. format(':%d', draws[2])
    for i = 3, #draws, 2 do out = out .. ',' .. draws[i] .. format(':%d', draws[i + 1]) end
  end
  return out
end

-- in place
local function now_ms()
  local t = call('TIME')
  local part = t[2] + 0
  return t[1] * 1000 + (part - part % 1000) / 1000
end

-- in place
local function is_active(w, g, now)
  return w[g + VOID] == 0 and w[g + SINCE] <= now and (w[g + UNTIL] == 0 or w[g + UNTIL] > now)
end

-- in place
local function available(w, now)
  local total = -w[DEBT]
  for g = FIRST, #w, NEXT do
    if is_active(w, g, now) then total = total + w[g + LEFT] end
  end
  return total
end

-- Σ available of all grants − debt: what the account's worth sums up, whether a grant is active or not.
-- in place
local function worth(w)
  local total = -w[DEBT]
  for g = FIRST, #w, NEXT do total = total + w[g + LEFT] end
  return total
end

-- Takes up to `want` from active grants in burn order, and where `is_held` into what they hold; answers the draws and how much they are.
-- in place
local function take(w, now, want, is_held)
  local left, rows = want, nil
  for g = FIRST, #w, NEXT do
    if left <= 0 then break end
    local part = w[g + LEFT]
    if part > left then part = left end
    if part > 0 and is_active(w, g, now) then
      w[g + LEFT] = w[g + LEFT] - part
      if is_held then w[g + OPEN] = w[g + OPEN] + part end
      left = left - part
      if rows then rows[#rows + 1] = w[g]; rows[#rows + 1] = part
      else rows = {w[g], part} end
    end
  end
  return rows, want - left
end

-- Begins a new day's count if need be; answers whether the plan makes the call free of charge, and whether the day's actions are used up.
-- in place
local function under_plan(a, now)
  local day = (now - now % 86400000) / 86400000
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

-- Draws with more of them, which are added to those of the same grant.
local function merge(into, draws)
  if not into then return draws end
  for i = 1, #(draws or ''), 2 do
    local at = nil
    for j = 1, #into, 2 do
      if into[j] == draws[i] then at = j + 1 end
    end
    if at then into[at] = into[at] + draws[i + 1]
    else into[#into + 1] = draws[i]; into[#into + 1] = draws[i + 1] end
  end
  return into
end

-- How a wallet of so many grants is packed. Those of few are written out, since making text costs more than all of their numbers.
-- in place
local function wallet_format(count)
  return count == 1 and '<ddc32ddddiBdB' or count == 2 and '<ddc32ddddiBdBc32ddddiBdB' or '<dd' .. string.rep('c32ddddiBdB', count)
end

-- The wallet packed. Grants with nothing left and nothing held leave it.
-- in place
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
-- in place
local function unhold(w, slices, charge, now)
  local drawn, given, lost, voided = nil, 0, nil, nil
  for i = 1, #slices, 2 do
    local id, amount, g = slices[i], slices[i + 1], FIRST
    while w[g] ~= id do g = g + NEXT end
    local part = amount < charge and amount or charge
    charge = charge - part
    w[g + OPEN] = w[g + OPEN] - amount
    w[PINNED] = w[PINNED] - amount
    if part > 0 then
      if drawn then drawn[#drawn + 1] = id; drawn[#drawn + 1] = part
      else drawn = {id, part} end
    end
    local rest = amount - part
    if rest > 0 then
      if w[g + VOID] == 1 then voided = voided or {}; voided[#voided + 1] = id; voided[#voided + 1] = rest
      elseif w[g + UNTIL] ~= 0 and w[g + UNTIL] <= now then lost = lost or {}; lost[#lost + 1] = id; lost[#lost + 1] = rest
      else w[g + LEFT] = w[g + LEFT] + rest; given = given + rest end
    end
  end
  return drawn, given, lost, voided
end

-- in place
local function sum(draws)
  local total = 0
  if draws then
    for i = 2, #draws, 2 do total = total + draws[i] end
  end
  return total
end

-- What became of a hold, "amount 0 charged returned uncollected expired revoked drawn forfeits revocations", and what expired and was revoked.
-- in place
local function amounts_of(amount, charged, back, uncollected, spent, forfeits, revocations)
  local lapsed = sum(forfeits)
  local voided = sum(revocations)
  local text = nil
  if spent and #spent == 2 and uncollected + lapsed + voided == 0 then
    -- As it nearly always is, in one go.
    text = format('%d 0 %d %d 0 0 0 %s:%d - -', amount, charged, back, spent[1], spent[2])
  else
    local drawn = listed(spent)
    local lost = listed(forfeits)
    local withdrawn = listed(revocations)
    text = format('%d 0 %d %d %d %d %d ', amount, charged, back, uncollected, lapsed, voided) .. drawn .. ' ' .. lost .. ' ' .. withdrawn
  end
  return text, lapsed, voided
end

-- What a charge beyond its hold may still take by policy (1 CAP, 2 DRAW, 3 OVERDRAFT). Changes the wallet; answers the draws, and how much
-- it took with the overdraft. Policy 5 is that of an unlimited plan's holds: nothing is ever due for them.
local function beyond(w, now, want, policy, overdraft_limit)
  local draws, taken, debt = nil, 0, 0
  if policy ~= 1 and want > 0 then
    local room = available(w, now)
    if room > 0 then
      draws, taken = take(w, now, math.min(want, room), false)
    end
    if policy == 3 then
      debt = math.max(0, math.min(want - taken, overdraft_limit - w[DEBT]))
      w[DEBT] = w[DEBT] + debt
    end
  end
  return draws, taken + debt
end

-- in place
local function packed_account(a)
  return struct.pack('<Hc0Hc0Hc0ddddddddIBdBBdBdII', #a[TENANT], a[TENANT], #a[ID], a[ID], #a[TXN], a[TXN], unpack(a, SEQ, ACTIONS))
end

-- An account's values, and behind them, as struct.unpack has it, where it stopped.
-- in place
local function unpacked_account(s)
  return {struct.unpack('<Hc0Hc0Hc0ddddddddIBdBBdBdII', s)}
end

-- in place
local function unpacked_wallet(s)
  local rows = {struct.unpack(wallet_format((#s - 16) / 78), s)}
  rows[#rows] = nil
  return rows
end

-- The account and one of its wallets, unpacked; false where the account is not loaded, or has no such wallet. Then its limits, packed, or false.
-- in place
local function read_account(key, wallet)
  local f = call('HMGET', key, 'c', 'w:' .. wallet, 'l')
  local row, grants = f[1], f[2]
  row = row and unpacked_account(row)
  if grants then
    grants = unpacked_wallet(grants)
  end
  return row, grants, f[3]
end

-- Asked in every script before its first write.
-- in place
local function is_conserved(a)
  return a[GRANTED] == a[WORTH] + a[HELD] + a[SPENT] + a[EXPIRED] + a[REVOKED]
end

-- The part of a hold behind its head.
-- in place
local function packed_body(amount, created, deadline, reported, overage, expiry, detail, entries, slices)
  slices = slices or {}
  local layout = #slices == 2 and '<ddddBBIc0Ic0c32d' or '<ddddBBIc0Ic0' .. string.rep('c32d', #slices / 2)
  return struct.pack(layout, amount, created, deadline, reported, overage, expiry, #detail, detail, #entries, entries, unpack(slices))
end

local function packed_hold(h)
  return struct.pack('<c1Hc0Hc0Ic0', h[STATE], #h[DIGEST], h[DIGEST], #h[WALLET], h[WALLET], #h[TERMS], h[TERMS])
    .. packed_body(h[AMOUNT], h[CREATED], h[DEADLINE], h[REPORTED], h[OVERAGE], h[EXPIRY], h[DETAIL], h[ENTRIES], h[SLICES])
end

-- What the key of a hold keeps (false: nothing): the hold if it is open (its first letter is 1), otherwise nil and the words of its ending. A charge is no hold.
-- in place
local function hold_in(packed)
  local found, words = nil, nil
  if packed and string.byte(packed) == 49 then
    found = {struct.unpack('<c1Hc0Hc0Ic0ddddBBIc0Ic0', packed)}
    local at = found[SLICES]
    local count = (#packed - at + 1) / 40
    local rows = {struct.unpack(count == 1 and '<c32d' or '<' .. string.rep('c32d', count), packed, at)}
    rows[#rows] = nil
    found[SLICES] = rows
  elseif packed then
    words = {}
    for word in string.gmatch(string.match(packed, '^[^\n]*'), '%S+') do words[#words + 1] = word end
    if words[1] == '6' then words = nil end
  end
  return found, words
end

-- Writes one outbox record, the account and its wallet (false: none), and takes `member` (nil: none) out of the zset; core.ledger.Record names
-- the record's fields. `amounts` has those from the amount to the revocations. Answers what an ending repeats of it: "seq at_ms wallet
-- amounts". The outbox comes first: its type alone is not known from reading it, and an error leaves everything as it was. So does the zset's
-- last: where it is no zset, there is nothing to take out of it.
-- in place
local function record(keys, a, w, epoch, now, kind, txn, address, wallet, amounts, change, digest, policy, terms, detail, member)
  local previous, row, grants, left = a[TXN] == '' and '-' or a[TXN], nil, nil, 0
  a[SEQ] = a[SEQ] + 1
  a[TXN] = kind .. txn
  row = packed_account(a)
  if w then
    grants = packed_wallet(w)
  end
  w = w or {0, 0}
  left = worth(w)
  local ending, balance = format('%d %d ', a[SEQ], now) .. wallet .. ' ' .. amounts, nil
  if w[DEBT] + change == 0 then balance = format(' %d 0 %d %d 0 %s %d', left, w[PINNED], a[HELD], digest, policy)
  else balance = format(' %d %d %d %d %d %s %d', left, w[DEBT], w[PINNED], a[HELD], change, digest, policy) end
  local line = kind .. ' ' .. txn .. ' ' .. previous .. ' ' .. address .. ' ' .. string.match(epoch, '^%d+')
    .. ' ' .. ending .. balance
  call('XADD', keys[3], '*', 'r', line, 'm', terms, 'j', detail)
  if grants then call('HSET', keys[2], 'c', row, 'w:' .. wallet, grants)
  else call('HSET', keys[2], 'c', row) end
  if member then redis.pcall('ZREM', keys[4], member) end
  return ending
end

-- "wallet amount created_ms expires_ms reported available held seq slices overage" and the terms.
local function held_reply(hold, replayed, free, wallet_held, seq)
  return {'HELD', replayed, format('%s %d %d %d %d %d %d %d %s %d', hold[WALLET], hold[AMOUNT], hold[CREATED], hold[DEADLINE], hold[REPORTED],
    free, wallet_held, seq, listed(hold[SLICES][1] and hold[SLICES]), hold[OVERAGE]), hold[TERMS]}
end

-- The answer to a Reserve whose hold id is known already; `head` as the script got it.
local function replay_reserve(packed, head, key, now)
  local hold, past = hold_in(packed)
  local _, digest = struct.unpack('<c1Hc0', head)
  if past then
    if past[DIGEST] ~= digest then return {'CONFLICT', past[STATE], past[ENDED_WALLET], ''} end
    return {'SETTLED', packed}
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
