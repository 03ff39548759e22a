-- Limits: shared by verbs as the prelude is; core/limits.py says what they mean. No redis.call that writes stands here.
--
-- Definitions: the field "l" of the account, row after row of number, cap, length_ms, anchor_ms, subject (1 account, 2 user, 3 team, 4 key,
-- 5 feature, 6 model), metric (1 credits, 2 micro-USD, 3 actions, 4 tokens, 5 open holds), kind of window (1 fixed, 2 months, 3 rolling,
-- 4 lifetime, 5 operation), slots, is_observed, name of the window, id, value.
local LIMIT = '<ddddBBBBBBBc0Bc0'

-- A counter: a field of the counters' hash, "number:value", for an operation "number:value\0operation". Doubles: {at, over, used}; of a
-- rolling window {slot, over, used in that slot, used in the one before, …}; of an operation `at` is until when it is remembered.
--
-- What a hold remembers of a counter: at, amount, metric, kind, field.
local ENTRY = '<ddBBHc0'

-- An operation is remembered for this long (ms) after the last of its holds would have expired.
local REMEMBERED = 3600000

-- All that there is to limits, in one: an account without any shall not pay for closures that it does not use. Answers `limited`,
-- `settled`, `merged`, `window_at` and `unpacked_counter`, each of which says below what it does.
local function limit_tools()
  -- An exact USD amount in micro-USD, rounded up.
  local function usd_micros(usd)
    local units, part = string.match(usd, '^(%d+)%.?(%d*)$')
    return tonumber(units) * 1000000 + tonumber(string.sub(part .. '000000', 1, 6)) + (string.find(part, '[1-9]', 7) and 1 or 0)
  end
  local function unpacked_counter(packed)
    if #packed == 24 then
      local at, over, used = struct.unpack('<ddd', packed)
      return {at, over, used}
    end
    local row = {struct.unpack('<' .. string.rep('d', #packed / 8), packed)}
    row[#row] = nil
    return row
  end
  local function packed_counter(row)
    if #row == 3 then return struct.pack('<ddd', row[1], row[2], row[3]) end
    return struct.pack('<' .. string.rep('d', #row), unpack(row))
  end
  -- Start and end of the month that `now` lies in, counted from the anchor's day and time.
  local function month_at(anchor, now)
    -- Months are counted from March of the year 0, so that a leap day is the last of its year; days from 1970.
    local function first_day(month)
      local year = math.floor(month / 12)
      return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
        + math.floor((153 * (month % 12) + 2) / 5) - 719468
    end
    local function month_of(day)
      local month = math.floor((day + 719468) / 30.436875)
      while first_day(month) > day do month = month - 1 end
      while first_day(month + 1) <= day do month = month + 1 end
      return month
    end
    local anchor_day = math.floor(anchor / 86400000)
    local into, time = anchor_day - first_day(month_of(anchor_day)), anchor % 86400000
    local function start_of(month)
      local first = first_day(month)
      return (first + math.min(into, first_day(month + 1) - first - 1)) * 86400000 + time
    end
    local month = month_of(math.floor(now / 86400000))
    if start_of(month) > now then month = month - 1 end
    return start_of(month), start_of(month + 1)
  end
  -- The start of the window that `now` lies in; of a rolling one the number of its slot, 0 of those that have none.
  local function window_at(kind, length, anchor, slots, now)
    if kind == 1 then return anchor + math.floor((now - anchor) / length) * length end
    if kind == 3 then return math.floor(now / (length / slots)) end
    if kind ~= 2 then return 0 end
    if anchor ~= 0 then
      local start = month_at(anchor, now)
      return start
    end
    -- The calendar month, in one go: how far the day lies into its year from March on, and then into its month.
    local day = math.floor(now / 86400000)
    local of_era = (day + 719468) % 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - 365 * year - math.floor(year / 4) + math.floor(year / 100)
    return (day - of_year + math.floor((153 * math.floor((5 * of_year + 2) / 153) + 2) / 5)) * 86400000
  end
  -- A counter (nil: none) as it counts in the window that begins at `start`, and not before: a clock that went back changes nothing.
  local function current(row, kind, start, slots, now)
    if kind == 5 then return row and row[1] > now and row or {0, 0, 0} end
    if not row or row[1] < start - slots or slots == 0 and row[1] < start then
      row = {start, 0}
      for i = 0, slots do row[3 + i] = 0 end
    end
    for _ = row[1] + 1, start do
      table.insert(row, 3, 0)
      row[#row] = nil
    end
    row[1] = math.max(row[1], start)
    return row
  end
  -- When `surplus` of a counter will count no more (ms; 0: not by itself).
  local function resets_at(row, kind, length, anchor, slots, now, surplus)
    if kind == 1 then return window_at(kind, length, anchor, slots, now) + length end
    if kind == 2 then return select(2, month_at(anchor, now)) end
    if kind ~= 3 then return 0 end
    local freed = 0
    for back = slots, 1, -1 do
      freed = freed + row[3 + back]
      if freed >= surplus then return (row[1] - back + slots + 1) * (length / slots) end
    end
    return (row[1] + slots + 1) * (length / slots)
  end
  -- What a call does to the limits `defined`. `holds`: 1 for one that is to be open, 0 for one that is none, nil for more credits of an
  -- open one. A `share` below 1 is what is left of a call that was charged in part before. Answers the limits that have no room, each {id,
  -- subject, value, metric, window, cap, used, resets_ms}, the changed counters as HSET takes them, and what the hold is to remember.
  local function limited(defined, key, now, until_ms, terms, detail, credits, holds, share)
    local t, d, want = terms ~= '' and cjson.decode(terms) or {}, detail ~= '' and cjson.decode(detail) or {}, {credits}
    local feature = string.match(t.item or '', '^feature:(.*)$')
    local function wanted(metric)
      local usage, cost = d.usage, d.cost or t.cost
      if not holds then return 0 end
      if metric == 2 then return cost and math.ceil(usd_micros(cost) * share) or 0 end
      if metric == 3 then return share < 1 and 0 or feature and tonumber(t.qty) or 1 end
      if metric == 5 then return holds end
      if usage then return math.ceil(((usage.input_tokens or 0) + (usage.output_tokens or 0)) * share) end
      return math.ceil(((t['in'] or 0) + (t.out or 0) + (t.extra and t.extra.input_tokens or 0)) * share)
    end
    local values, found, fields, at = {'', t.user, t.team, t.key, feature, t.model}, {}, {}, 1
    while at <= #defined do
      local row = {struct.unpack(LIMIT, defined, at)}
      local value, metric, kind = values[row[5]], row[6], row[7]
      at = row[13]
      if value and (row[12] == '' or row[12] == value) then
        want[metric] = want[metric] or wanted(metric)
        if kind == 5 or want[metric] > 0 or holds and t.model and (metric == 2 or metric == 4) then
          found[#found + 1] = row
          row[12], row[13] = value, nil
          if kind ~= 5 then row[13] = format('%d:', row[1]) .. value
          elseif t.op then row[13] = format('%d:', row[1]) .. value .. '\0' .. t.op end
          fields[#fields + 1] = row[13]
        end
      end
    end
    local rows, which, exceeded, changed, entries = fields[1] and call('HMGET', key, unpack(fields)), 0, {}, {}, ''
    for i = 1, #found do
      local limit = found[i]
      local cap, length, metric, kind, slots, field, old = limit[2], limit[3], limit[6], limit[7], limit[8], limit[13], nil
      if field then
        which = which + 1
        old = rows[which] and unpacked_counter(rows[which])
      end
      local row, amount = current(old, kind, window_at(kind, length, limit[4], slots, now), slots, now), want[metric]
      local used = row[3]
      for slot = 4, #row do used = used + row[slot] end
      if amount > 0 and used + amount > cap then
        if limit[9] == 1 then row[2] = row[2] + 1
        else
          exceeded[#exceeded + 1] = {limit[11], limit[5], limit[12], metric, limit[10], cap, used,
            resets_at(row, kind, length, limit[4], slots, now, used + amount - cap)}
        end
      end
      if field then
        row[3] = math.min(MAX, row[3] + amount)
        if kind == 5 then row[1] = math.max(row[1], until_ms) end
        changed[#changed + 1] = field
        changed[#changed + 1] = packed_counter(row)
        if amount > 0 or holds then
          entries = entries .. struct.pack(ENTRY, kind == 5 and 0 or row[1], amount, metric, kind, #field, field)
        end
      end
    end
    return exceeded, changed[1] and changed, entries
  end
  -- The entries of a hold with those of its extension: amounts of the same window are added up, and what can change no more is left out.
  local function merged(old, new)
    local places, out, at = {}, {}, 1
    local text = old .. new
    while at <= #text do
      local start, amount, metric, kind, field, after = struct.unpack(ENTRY, text, at)
      local is_new = at > #old
      at = after
      local place = places[field]
      if place and place[1] == start then place[2] = place[2] + amount
      elseif place and is_new and kind ~= 3 then place[1], place[2] = start, amount
      else
        place = {start, amount, metric, kind, field}
        places[field] = place
        out[#out + 1] = place
      end
    end
    local kept = {}
    for _, place in ipairs(out) do
      -- No rolling window has more than 30 slots before the present one.
      if place[4] ~= 3 or places[place[5]][1] - place[1] <= 30 then
        kept[#kept + 1] = struct.pack(ENTRY, place[1], place[2], place[3], place[4], #place[5], place[5])
      end
    end
    return table.concat(kept)
  end
  -- What the end of a hold of `held` micros changes of the counters that it was counted in, as HSET takes it; nil: nothing. `charged` nil:
  -- it ends without a trace. What the detail does not say is as it was estimated. A window that has turned keeps what was counted in it.
  local function settled(entries, key, held, charged, detail)
    local list, fields, at, d = {}, {}, 1, nil
    while at <= #entries do
      local entry = {struct.unpack(ENTRY, entries, at)}
      at = entry[6]
      list[#list + 1] = entry
      fields[#fields + 1] = entry[5]
      -- Only these two ask what the call cost.
      if not d and (entry[3] == 2 or entry[3] == 4) then d = charged and detail ~= '' and cjson.decode(detail) or {} end
    end
    local found, rows, left, is_changed, changed = call('HMGET', key, unpack(fields)), {}, {}, {}, {}
    for i = 1, #fields do
      local field = fields[i]
      if found[i] and not rows[field] then rows[field] = unpacked_counter(found[i]) end
    end
    for i = #list, 1, -1 do
      local start, amount, metric, kind, field = unpack(list[i], 1, 5)
      local row, part = rows[field], 0
      if not charged or metric == 5 then part = -amount
      elseif metric == 1 then
        left[field] = left[field] or charged - held
        part = math.max(left[field], -amount)
        left[field] = left[field] - part
      elseif metric == 2 and d.cost then part = usd_micros(d.cost) - amount
      elseif metric == 4 and d.usage then part = (d.usage.input_tokens or 0) + (d.usage.output_tokens or 0) - amount end
      local place = nil
      if row and (kind == 5 or kind ~= 3 and row[1] == start) then place = 3
      elseif row and kind == 3 and start <= row[1] and row[1] - start < #row - 2 then place = 3 + row[1] - start end
      if place and part ~= 0 then
        row[place] = math.max(0, math.min(MAX, row[place] + part))
        is_changed[field] = true
      end
    end
    for _, field in ipairs(fields) do
      if is_changed[field] then
        is_changed[field] = nil
        changed[#changed + 1] = field
        changed[#changed + 1] = packed_counter(rows[field])
      end
    end
    return changed[1] and changed
  end
  return limited, settled, merged, window_at, unpacked_counter
end

-- What the end of a hold changes of the counters, as HSET takes it; false or nil: nothing. `hold` nil is a late Commit, of which `already`
-- was charged when the hold expired: what it charges now is counted now, and nothing is denied.
local function counted_end(hold, defined, key, now, terms, charged, detail, already)
  if hold then return hold[ENTRIES] ~= '' and select(2, limit_tools())(hold[ENTRIES], key, hold[AMOUNT], charged, detail) end
  local share = already == 0 and 1 or charged / (already + charged)
  return defined and select(2, limit_tools()(defined, key, now, now + REMEMBERED, terms, detail, charged, 0, share))
end
