#!lua flags=no-writes
-- Some of the counters of an account's limits.
-- KEYS: 1 sentinel (string), 2 account (hash), 3 counters of limits (hash)
-- ARGV: 1 epoch, 2 cursor, 3 about how many
-- Returns {code, …}: USES now_ms limits (packed as in limits.lua) cursor {name, row, …} | NOTLOADED | FENCED
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local a, _, defined = read_account(KEYS[2], '')
if not a then return {'NOTLOADED'} end
local page = call('HSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3])
return {'USES', now_ms(), defined or '', page[1], page[2]}
