#!lua flags=no-writes
-- All that Redis knows of an account, but for its holds.
-- KEYS: 1 sentinel (string), 2 account (hash)
-- ARGV: 1 epoch
-- Returns {code, …}: ACCOUNT now_ms account wallets | NOTLOADED | FENCED; account as packed (see the prelude); a wallet = {name, debt, held, grants};
--   a grant = {id (32 hex), available, held, expires_ms, effective_ms, priority, category, number, revoked}
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local all = call('HGETALL', KEYS[2])
if #all == 0 then return {'NOTLOADED'} end
local account, wallets
for i = 1, #all, 2 do
  local value = cmsgpack.unpack(all[i + 1])
  if all[i] == 'c' then account = value
  else
    local grants = {}
    for j = 3, #value do grants[j - 2] = value[j] end
    wallets = wallets or {}
    wallets[#wallets + 1] = {string.sub(all[i], 3), value[1], value[2], grants}
  end
end
return {'ACCOUNT', now_ms(), account, wallets or {}}
