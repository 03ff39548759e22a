-- Limits: shared by verbs as the prelude is; core/limits.py says what they mean. No redis.call that writes stands here.
--
-- Definitions: the field "l" of the account, row after row of cap, length_ms, anchor_ms, subject (1 account, 2 user, 3 team, 4 key,
-- 5 feature, 6 model), metric (1 credits, 2 micro-USD, 3 actions, 4 tokens, 5 open holds), kind of window (1 fixed, 2 months, 3 rolling,
-- 4 lifetime, 5 operation), slots, is_observed, name of the window, "number:", value, and, behind the size of it, the id, which only a
-- denial needs.
local LIMIT = '<dddBBBBBBBc0Bc0B'

-- A counter: a field of the counters' hash, "number:value", for an operation "number:value\0operation". Doubles: {at, over, used}; of a
-- rolling window {slot, over, used in that slot, used in the one before, …}; of an operation `at` is until when it is remembered.
--
-- What a hold remembers of a counter: at, amount, metric, kind, field, and how many bytes all of this is, so that it can be read from its end.
local ENTRY = '<ddBBHc0H'

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
-- in place
local function window_at(kind, length, anchor, slots, now)
  local begins = 0
  if kind == 1 then begins = now - (now - anchor) % length
  elseif kind == 3 then begins = math.floor(now / (length / slots))
  elseif kind == 2 and anchor ~= 0 then
    -- only here: rare
    begins = rare()(anchor, now)
  elseif kind == 2 then
    -- The calendar month, in one go: how far the day lies into its year from March on, and then into its month. x - x % 1 is floor(x).
    local day = (now - now % 86400000) / 86400000
    local of_era = (day + 719468) % 146097
    local years = (of_era - (of_era - of_era % 1460) / 1460 + (of_era - of_era % 36524) / 36524 - (of_era - of_era % 146096) / 146096) / 365
    local year = years - years % 1
    local of_year = of_era - 365 * year - (year - year % 4) / 4 + (year - year % 100) / 100
    local months = (5 * of_year + 2) / 153
    local days = (153 * (months - months % 1) + 2) / 5
    begins = (day - of_year + days - days % 1) * 86400000
  end
  return begins
end

-- What a call that says `said` does to the limits `defined`; `is_new` is false for more of an open hold. Answers the limits that have no
-- room, each {id, subject, value, metric, window, cap, used, resets_ms}, or nil, the changed counters as HSET takes them, or nil, and what
-- the hold is to remember.
-- in place
local function limited(defined, key, now, until_ms, said, is_new)
  local failing, changed, counted, at = nil, nil, '', 1
  while at <= #defined do
    local cap, length, anchor, subject, metric, kind, slots, observed, window, number, value, size, after = struct.unpack(LIMIT, defined, at)
    local mine, amount = subject == 1 and '' or said[SUBJECTS + subject], said[metric]
    at = after + size
    if (subject == 1 or mine ~= '') and (value == '' or value == mine)
      and (amount > 0 or kind == 5 or is_new and said[MODEL] ~= '' and (metric == 2 or metric == 4)) then
      local field, old, row = number .. mine, nil, nil
      if kind == 5 then field = said[OPERATION] ~= '' and field .. '\0' .. said[OPERATION] end
      if field then old = call('HGET', key, field) end
      local start = window_at(kind, length, anchor, slots, now)
      local over, used = 0, 0
      if kind == 3 then
        -- only here: rare
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
          -- only here: rare
          local _, _, resets_at = rare()
          failing = failing or {}
          failing[#failing + 1] = {string.sub(defined, after, at - 1), subject, mine, metric, window, cap, used,
            resets_at(row, kind, length, anchor, slots, now, used + amount - cap)}
        end
      end
      if field then
        if kind == 5 and until_ms > start then start = until_ms end
        local packed = nil
        if row then
          row[2], row[3] = over, math.min(MAX, row[3] + amount)
          packed = struct.pack('<' .. string.rep('d', #row), unpack(row))
        else
          used = used + amount
          packed = struct.pack('<ddd', start, over, used < MAX and used or MAX)
        end
        if changed then changed[#changed + 1] = field; changed[#changed + 1] = packed
        else changed = {field, packed} end
        if amount > 0 or is_new then
          counted = counted .. struct.pack(ENTRY, kind == 5 and 0 or start, amount, metric, kind, #field, field, #field + 22)
        end
      end
    end
  end
  return failing, changed, counted
end

-- An exact USD amount in micro-USD, rounded up.
local function usd_micros(usd)
  local units, part = string.match(usd, '^(%d+)%.?(%d*)$')
  return tonumber(units) * 1000000 + tonumber(string.sub(part .. '000000', 1, 6)) + (string.find(part, '[1-9]', 7) and 1 or 0)
end

-- Cost in micro-USD and tokens of a hold's end by its detail, as `settled` takes them.
local function spent_by(detail)
  local d = detail ~= '' and cjson.decode(detail) or {}
  return d.cost and usd_micros(d.cost) or -1, d.usage and (d.usage.input_tokens or 0) + (d.usage.output_tokens or 0) or -1
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
    local start, amount, metric, kind, field, _, after = struct.unpack(ENTRY, text, at)
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
      kept[#kept + 1] = struct.pack(ENTRY, place[1], place[2], place[3], place[4], #place[5], place[5], #place[5] + 22)
    end
  end
  return table.concat(kept)
end

-- What the end of a hold of `held` micros changes of the counters that it was counted in, as HSET takes it; nil: nothing. `charged` nil:
-- it ends without a trace. Otherwise `cost` is in micro-USD; where it or `tokens` is below 0, it is not known, and stays as it was estimated.
-- A window that has turned keeps what was counted in it.
-- in place
local function settled(entries, key, held, charged, cost, tokens)
  local changed, left, at = nil, nil, #entries + 1
  -- A counter may be there twice, of the hold and of its extension: what came last goes first.
  while at > 1 do
    at = at - struct.unpack('<H', entries, at - 2)
    local start, amount, metric, kind, field = struct.unpack(ENTRY, entries, at)
    local part = 0
    if not charged or metric == 5 then part = -amount
    elseif metric == 1 then
      local of = left and left[field] or charged - held
      part = of > -amount and of or -amount
      if left then left[field] = of - part
      else left = {[field] = of - part} end
    elseif metric == 2 and cost >= 0 then part = cost - amount
    elseif metric == 4 and tokens >= 0 then part = tokens - amount end
    if part ~= 0 then
      local known, place = 0, nil
      for i = 1, #(changed or ''), 2 do
        if changed[i] == field then known = i end
      end
      local packed = known > 0 and changed[known + 1] or call('HGET', key, field)
      local row = packed and {struct.unpack(#packed == 24 and '<ddd' or '<' .. string.rep('d', #packed / 8), packed)} or {}
      row[#row] = nil
      if row[1] and (kind == 5 or kind ~= 3 and row[1] == start) then place = 3
      elseif row[1] and kind == 3 and start <= row[1] and row[1] - start < #row - 2 then place = 3 + row[1] - start end
      if place then
        local used = row[place] + part
        row[place] = used < 0 and 0 or used > MAX and MAX or used
        packed = struct.pack(#row == 3 and '<ddd' or '<' .. string.rep('d', #row), unpack(row))
        if known > 0 then changed[known + 1] = packed
        elseif changed then changed[#changed + 1] = field; changed[#changed + 1] = packed
        else changed = {field, packed} end
      end
    end
  end
  return changed
end

-- The counters, as HSET takes them, that a late Commit changes; of it `already` was charged when the hold expired. What it charges now is
-- counted now, and nothing is denied.
local function counted_late(defined, key, now, terms, charged, detail, already)
  local said = said_by(terms, detail, charged, 0, already == 0 and 1 or charged / (already + charged))
  local _, counters = limited(defined, key, now, now + REMEMBERED, said, true)
  return counters
end
