#!lua flags=allow-oom
-- Removes counters that say no more than missing ones: of limits that are gone, of windows that have passed, of holds that have all ended.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 counters of limits (hash)
-- ARGV: 1 epoch, 2 cursor, 3 about how many to look at
-- Returns {code, …}: TIDIED removed cursor | NOTLOADED | FENCED
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local a, _, defined = read_account(KEYS[2], '')
if not a then return {'NOTLOADED'} end
local now, earliest, at = now_ms(), {}, 1
while at <= #(defined or '') do
  local _, length, anchor, _, metric, kind, slots, _, _, number, _, size, after = struct.unpack(LIMIT, defined, at)
  -- The earliest window that still counts; of open holds none is too early, and an operation's time lies ahead.
  earliest[number] = metric == 5 and 'holds' or kind == 5 and now + 1 or window_at(kind, length, anchor, slots, now) - slots
  at = after + size
end
local page, stale = call('HSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3]), {}
for i = 1, #page[2], 2 do
  local since, last, _, used = earliest[string.match(page[2][i], '^%d+:')], struct.unpack('<ddd', page[2][i + 1])
  if not since or since == 'holds' and used == 0 or since ~= 'holds' and last < since then stale[#stale + 1] = page[2][i] end
end
-- checks above, writes below
for i = 1, #stale, 500 do call('HDEL', KEYS[3], unpack(stale, i, math.min(#stale, i + 499))) end
return {'TIDIED', #stale, page[1]}
