-- Limits: shared by verbs as the prelude is; core/limits.py says what they mean. No redis.call that writes stands here.
--
-- Definitions: the field "l" of the account, row after row of cap, length_ms, anchor_ms, subject (1 account, 2 user, 3 team, 4 key,
-- 5 feature, 6 model), metric (1 credits, 2 micro-USD, 3 actions, 4 tokens, 5 open holds), kind of window (1 fixed, 2 months, 3 rolling,
-- 4 lifetime, 5 operation), slots, is_observed, name of the window, "number:", id, value.
local LIMIT = '<dddBBBBBBBc0Bc0Bc0'

-- A counter: a field of the counters' hash, "number:value", for an operation "number:value\0operation". Doubles: {at, over, used}; of a
-- rolling window {slot, over, used in that slot, used in the one before, …}; of an operation `at` is until when it is remembered.
--
-- What a hold remembers of a counter: at, amount, metric, kind, field.
local ENTRY = '<ddBBHc0'

-- What a call wants and says: by metric credits, cost, actions, tokens and open holds, then user, team, key, feature, model and operation.
-- What it does not say is ''.
local SAID = '<dddddHc0Hc0Hc0Hc0Hc0Hc0'

local WANTED_CREDITS, WANTED_HOLDS, SUBJECTS, MODEL, OPERATION = 1, 5, 4, 10, 11

-- An operation is remembered for this long (ms) after the last of its holds would have expired.
local REMEMBERED = 3600000

-- What only some limits and calls need, in one: a call without them shall not pay for the closures. Answers `month_at`, `rolled` and
-- `resets_at`.
local function rare()
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
  -- A rolling window's counter (nil: none) as it counts in the slot `start`, and not before: a clock that went back changes nothing.
  local function rolled(packed, start, slots)
    local row = packed and {struct.unpack('<' .. string.rep('d', #packed / 8), packed)}
    if row then row[#row] = nil end
    if not row or row[1] < start - slots then
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
    if kind == 1 then return anchor + (math.floor((now - anchor) / length) + 1) * length end
    if kind == 2 then return select(2, month_at(anchor, now)) end
    if kind ~= 3 then return 0 end
    local freed = 0
    for back = slots, 1, -1 do
      freed = freed + row[3 + back]
      if freed >= surplus then return (row[1] - back + slots + 1) * (length / slots) end
    end
    return (row[1] + slots + 1) * (length / slots)
  end
  return month_at, rolled, resets_at
end

-- The start of the window that `now` lies in; of a rolling one the number of its slot, 0 of those that have none.
local function window_at(kind, length, anchor, slots, now)
  if kind == 1 then return anchor + math.floor((now - anchor) / length) * length end
  if kind == 3 then return math.floor(now / (length / slots)) end
  if kind ~= 2 then return 0 end
  if anchor ~= 0 then
    local start = rare()(anchor, now)
    return start
  end
  -- The calendar month, in one go: how far the day lies into its year from March on, and then into its month.
  local day = math.floor(now / 86400000)
  local of_era = (day + 719468) % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - 365 * year - math.floor(year / 4) + math.floor(year / 100)
  return (day - of_year + math.floor((153 * math.floor((5 * of_year + 2) / 153) + 2) / 5)) * 86400000
end

-- What a call that says `said` does to the limits `defined`; `is_new` is false for more of an open hold. Answers the limits that have no
-- room, each {id, subject, value, metric, window, cap, used, resets_ms}, or nil, the changed counters as HSET takes them, or nil, and what
-- the hold is to remember.
local function limited(defined, key, now, until_ms, said, is_new)
  local exceeded, changed, entries, at = nil, nil, '', 1
  while at <= #defined do
    local cap, length, anchor, subject, metric, kind, slots, observed, window, number, id, value, after = struct.unpack(LIMIT, defined, at)
    local mine, amount = subject == 1 and '' or said[SUBJECTS + subject], said[metric]
    at = after
    if (subject == 1 or mine ~= '') and (value == '' or value == mine)
      and (amount > 0 or kind == 5 or is_new and said[MODEL] ~= '' and (metric == 2 or metric == 4)) then
      local field, old, row = number .. mine, nil, nil
      if kind == 5 then field = said[OPERATION] ~= '' and field .. '\0' .. said[OPERATION] end
      if field then old = call('HGET', key, field) end
      local start, over, used = window_at(kind, length, anchor, slots, now), 0, 0
      if kind == 3 then
        row = select(2, rare())(old, start, slots)
        start, over = row[1], row[2]
        for slot = 3, #row do used = used + row[slot] end
      elseif old then
        local since, was_over, was_used = struct.unpack('<ddd', old)
        if kind == 5 and since > now or kind ~= 5 and since >= start then start, over, used = since, was_over, was_used end
      end
      if amount > 0 and used + amount > cap then
        if observed == 1 then over = over + 1
        else
          local _, _, resets_at = rare()
          exceeded = exceeded or {}
          exceeded[#exceeded + 1] = {id, subject, mine, metric, window, cap, used,
            resets_at(row, kind, length, anchor, slots, now, used + amount - cap)}
        end
      end
      if field then
        if kind == 5 then start = math.max(start, until_ms) end
        changed = changed or {}
        changed[#changed + 1] = field
        if row then
          row[2], row[3] = over, math.min(MAX, row[3] + amount)
          changed[#changed + 1] = struct.pack('<' .. string.rep('d', #row), unpack(row))
        else changed[#changed + 1] = struct.pack('<ddd', start, over, math.min(MAX, used + amount)) end
        if amount > 0 or is_new then
          entries = entries .. struct.pack(ENTRY, kind == 5 and 0 or start, amount, metric, kind, #field, field)
        end
      end
    end
  end
  return exceeded, changed, entries
end

-- An exact USD amount in micro-USD, rounded up.
local function usd_micros(usd)
  local units, part = string.match(usd, '^(%d+)%.?(%d*)$')
  return tonumber(units) * 1000000 + tonumber(string.sub(part .. '000000', 1, 6)) + (string.find(part, '[1-9]', 7) and 1 or 0)
end

-- What `settled` is to know of a hold's end by its detail.
local function spent_by(detail)
  local d = detail ~= '' and cjson.decode(detail) or {}
  return struct.pack('<dd', d.cost and usd_micros(d.cost) or -1,
    d.usage and (d.usage.input_tokens or 0) + (d.usage.output_tokens or 0) or -1)
end

-- SAID of a call by its terms and detail. `holds`: 1 for one that is to be open, 0 for one that is none, nil for more credits of an
-- open one. A `share` below 1 is what is left of a call that was charged in part before.
local function said_by(terms, detail, credits, holds, share)
  local t, d = terms ~= '' and cjson.decode(terms) or {}, detail ~= '' and cjson.decode(detail) or {}
  local feature, cost, tokens = string.match(t.item or '', '^feature:(.*)$'), d.cost or t.cost, nil
  if d.usage then tokens = (d.usage.input_tokens or 0) + (d.usage.output_tokens or 0)
  else tokens = (t['in'] or 0) + (t.out or 0) + (t.extra and t.extra.input_tokens or 0) end
  local said = {credits, cost and math.ceil(usd_micros(cost) * share) or 0, share < 1 and 0 or feature and tonumber(t.qty) or 1,
    math.ceil(tokens * share), holds or 0, t.user or '', t.team or '', t.key or '', feature or '', t.model or '', t.op or ''}
  if not holds then said[2], said[3], said[4] = 0, 0, 0 end
  return said
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
-- it ends without a trace. `spent`, needed otherwise, is its cost in micro-USD and its tokens, each a double; what is below 0 is not known,
-- and stays as it was estimated. A window that has turned keeps what was counted in it.
local function settled(entries, key, held, charged, spent)
  local list, rows, left, changed, at = {}, {}, {}, nil, 1
  local cost, tokens = -1, -1
  if charged then cost, tokens = struct.unpack('<dd', spent) end
  while at <= #entries do
    local entry = {struct.unpack(ENTRY, entries, at)}
    at = entry[6]
    list[#list + 1] = entry
  end
  -- A counter may be there twice, of the hold and of its extension: what came last goes first.
  for i = #list, 1, -1 do
    local start, amount, metric, kind, field = unpack(list[i], 1, 5)
    local part = 0
    if not charged or metric == 5 then part = -amount
    elseif metric == 1 then
      local of = left[field] or charged - held
      part = math.max(of, -amount)
      left[field] = of - part
    elseif metric == 2 and cost >= 0 then part = cost - amount
    elseif metric == 4 and tokens >= 0 then part = tokens - amount end
    if part ~= 0 then
      local row, place = rows[field], nil
      if not row then
        local packed = call('HGET', key, field)
        row = packed and {struct.unpack('<' .. string.rep('d', #packed / 8), packed)} or {}
        row[#row] = nil
        rows[field] = row
      end
      if row[1] and (kind == 5 or kind ~= 3 and row[1] == start) then place = 3
      elseif row[1] and kind == 3 and start <= row[1] and row[1] - start < #row - 2 then place = 3 + row[1] - start end
      if place then
        row[place] = math.max(0, math.min(MAX, row[place] + part))
        if not row.at then
          changed = changed or {}
          changed[#changed + 1] = field
          changed[#changed + 1] = ''
          row.at = #changed
        end
        changed[row.at] = struct.pack('<' .. string.rep('d', #row), unpack(row))
      end
    end
  end
  return changed
end

-- The counters, as HSET takes them, that a late Commit changes; of it `already` was charged when the hold expired. What it charges now is
-- counted now, and nothing is denied.
local function counted_late(defined, key, now, terms, charged, detail, already)
  local said = said_by(terms, detail, charged, 0, already == 0 and 1 or charged / (already + charged))
  return (select(2, limited(defined, key, now, now + REMEMBERED, said, true)))
end
