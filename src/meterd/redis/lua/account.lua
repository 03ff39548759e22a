#!lua flags=no-writes
-- All that Redis knows of an account, but for its holds.
-- KEYS: 1 sentinel (string), 2 account (hash)
-- ARGV: 1 epoch
-- Returns {code, …}: ACCOUNT now_ms account wallets blocked (names between spaces) limits (packed as in limits.lua) | NOTLOADED | FENCED; account as packed (see the prelude);
--   a wallet = {name, debt, held, grants};
--   a grant = {id (32 hex), available, held, expires_ms, effective_ms, priority, category, number, revoked}
local epoch = call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'FENCED', epoch or ''} end
local all = call('HGETALL', KEYS[2])
if #all == 0 then return {'NOTLOADED'} end
local account, wallets, blocked, defined = nil, {}, '', ''
for i = 1, #all, 2 do
  if all[i] == 'c' then
    account = unpacked_account(all[i + 1])
    account[#account] = nil
  elseif all[i] == 'b' then
    blocked = all[i + 1]
  elseif all[i] == 'l' then
    defined = all[i + 1]
  else
    local w, grants = unpacked_wallet(all[i + 1]), {}
    for g = FIRST, #w, NEXT do grants[#grants + 1] = {unpack(w, g, g + NEXT - 1)} end
    wallets[#wallets + 1] = {string.sub(all[i], 3), w[DEBT], w[PINNED], grants}
  end
end
return {'ACCOUNT', now_ms(), account, wallets, blocked, defined}
