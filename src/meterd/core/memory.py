"""The ledger in memory: the same verbs with exact integers and a clock that the caller sets.

For tests and simulations, and as the oracle that the Lua scripts are held against. Nothing survives the process. Tombstones never end.
"""

from __future__ import annotations

import copy
import dataclasses
import uuid
from collections.abc import Sequence

from meterd.core import errors, ledger, limits, memory_limits, memory_state, money


class MemoryLedger:
    """Implements core.ledger.Ledger. `now_ms` is its clock; records of what happened are in `kinds`."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self.kinds: list[tuple[str, ledger.Kind, uuid.UUID]] = []
        self._accounts: dict[str, memory_state.Account] = {}
        self._holds: dict[tuple[str, uuid.UUID], memory_state.Hold] = {}
        self._charges: dict[tuple[str, uuid.UUID], tuple[bytes, ledger.Settled]] = {}

    def _account(self, address: str, tenant_id: str | None = None) -> memory_state.Account:
        found = self._accounts.get(address)
        if found is None:
            raise errors.AccountNotLoadedError("account_id: not loaded")
        if tenant_id is not None and found.tenant_id != tenant_id:
            raise errors.NotFoundError("hold_id: no such hold")
        return found

    def _balance(self, account: memory_state.Account, name: str) -> ledger.Balance:
        wallet = account.wallets.get(name, memory_state.Wallet())
        free = wallet.available(self.now_ms)
        return ledger.Balance(wallet=name, available_micros=free, held_micros=wallet.held, seq=account.seq, epoch=1)

    def _record(self, address: str, account: memory_state.Account, kind: ledger.Kind, txn: uuid.UUID) -> None:
        assert account.is_conserved()
        account.seq += 1
        account.last_txn = f"{kind.value}{txn.hex}"
        self.kinds.append((address, kind, txn))
        for wallet in account.wallets.values():
            wallet.grants = [grant for grant in wallet.grants if grant.available or grant.held]

    def _denied(
        self, account: memory_state.Account, wallet: str, code: ledger.DenialCode, required: int, limit: int = 0
    ) -> ledger.Denied:
        balance = self._balance(account, wallet)
        return ledger.Denied(
            code=code, available_micros=balance.available_micros, required_micros=required, limit=limit, balance=balance
        )

    async def reserve(self, command: ledger.Reserve) -> ledger.ReserveOutcome:
        key = command.address, command.hold
        if (old := self._holds.get(key)) is not None:
            if old.command.digest != command.digest:
                raise errors.ConflictError(b"" if old.ended else old.command.terms)
            return self._held(old, replayed=True)
        if command.replay_only:
            return ledger.AskDurable()
        account = self._account(command.address)
        is_free = account.plan.is_unlimited(self.now_ms)
        wallet = self._wallet(account, command.wallet, is_free=is_free)
        amount, free = command.amount_micros, wallet.available(self.now_ms)
        if account.frozen:
            return self._denied(account, command.wallet, ledger.DenialCode.ACCOUNT_FROZEN, amount)
        if account.holds_open >= ledger.HOLDS_PER_ACCOUNT_MAX:
            limit = ledger.HOLDS_PER_ACCOUNT_MAX
            return self._denied(account, command.wallet, ledger.DenialCode.TOO_MANY_HOLDS, amount, limit)
        if (used_up := self._used_up(account, command.wallet, amount)) is not None:
            return used_up
        short = None
        if is_free:
            amount = 0
        elif free < amount:
            if command.amount_min_micros == amount or free < command.amount_min_micros:
                short = self._short(account, command.wallet, amount)
            else:
                amount = free
        terms = limits.decoded(command.terms)
        want = limits.measured(terms, {}, amount, holds=1)
        until_ms = self.now_ms + command.ttl_ms + limits.OPERATION_MEMORY_MS
        looked = account.limits.look(terms, want, self.now_ms, until_ms)
        if looked.exceeded or short:
            return self._limited(account, command.wallet, command.amount_micros, looked, short)
        account.limits.counters |= looked.counters
        account.wallets[command.wallet] = wallet
        slices = self._take(wallet, amount)
        self._pin(wallet, slices)
        account.holds_open += 1
        account.begin_day(self.now_ms // ledger.DAY_MS)
        account.actions += 1
        hold = memory_state.Hold(
            command=command,
            amount=amount,
            slices=slices,
            created_ms=self.now_ms,
            expires_ms=self.now_ms + command.ttl_ms,
            free=is_free,
            entries=list(looked.entries),
        )
        self._holds[key] = hold
        return self._held(hold, replayed=False)

    def _wallet(self, account: memory_state.Account, name: str, *, is_free: bool) -> memory_state.Wallet:
        """The account's wallet; an empty one where the plan pays, or denies."""
        wallet = account.wallets.get(name)
        if wallet is None and not is_free and name not in account.plan.blocked_wallets:
            raise errors.NotFoundError("wallet: no such wallet")
        return wallet or memory_state.Wallet()

    def _used_up(self, account: memory_state.Account, wallet: str, required: int) -> ledger.Denied | None:
        plan, day = account.plan, self.now_ms // ledger.DAY_MS
        used = account.actions if account.actions_day == day else 0
        if self.now_ms >= plan.until_ms or not 0 < plan.actions_per_day <= used:
            return None
        denied = self._denied(account, wallet, ledger.DenialCode.ACTIONS_PER_DAY, required, plan.actions_per_day)
        return dataclasses.replace(denied, used=used, resets_ms=(day + 1) * ledger.DAY_MS)

    def _short(self, account: memory_state.Account, wallet: str, required: int) -> ledger.Denied:
        """The denial of what the wallet does not cover."""
        blocked = wallet in account.plan.blocked_wallets
        code = ledger.DenialCode.WALLET_BLOCKED if blocked else ledger.DenialCode.INSUFFICIENT_CREDITS
        return self._denied(account, wallet, code, required)

    def _limited(
        self,
        account: memory_state.Account,
        wallet: str,
        required: int,
        looked: memory_limits.Outcome,
        short: ledger.Denied | None,
    ) -> ledger.Denied:
        """The denial of what limits have no room for, or the wallet does not cover, or both."""
        if not looked.exceeded and short is not None:
            return short
        denied = self._denied(account, wallet, ledger.DenialCode.LIMIT_EXCEEDED, required)
        return dataclasses.replace(denied, exceeded=looked.exceeded, also=short.code if short else None)

    def _take(self, wallet: memory_state.Wallet, want: int) -> dict[uuid.UUID, int]:
        taken: dict[uuid.UUID, int] = {}
        for grant in sorted(wallet.grants, key=memory_state.Grant.burn_key):
            part = min(grant.available, want) if grant.is_active(self.now_ms) else 0
            if part > 0:
                grant.available -= part
                want -= part
                taken[grant.grant_id] = part
        return taken

    @staticmethod
    def _pin(wallet: memory_state.Wallet, slices: dict[uuid.UUID, int]) -> None:
        for grant in wallet.grants:
            grant.held += slices.get(grant.grant_id, 0)
        wallet.held += sum(slices.values())

    def _held(self, hold: memory_state.Hold, *, replayed: bool) -> ledger.Held:
        command, ended = hold.command, hold.ended
        account = self._accounts[command.address]
        return ledger.Held(
            hold=command.hold,
            address=command.address,
            wallet=command.wallet,
            amount_micros=hold.amount,
            state=ledger.STATES[ended.kind] if ended else ledger.State.OPEN,
            created_ms=hold.created_ms,
            expires_ms=hold.expires_ms,
            draws=() if ended else _draws(hold.slices),
            terms=b"" if ended else command.terms,
            replayed=replayed,
            balance=ended.balance if ended else self._balance(account, command.wallet),
            reported_micros=hold.reported,
            unlimited=hold.free and not ended,
        )

    def _unhold(self, wallet: memory_state.Wallet, hold: memory_state.Hold, charge: int) -> memory_state.Parts:
        spent: dict[uuid.UUID, int] = {}
        returned = forfeited = revoked = 0
        grants = {grant.grant_id: grant for grant in wallet.grants}
        for grant_id, amount in hold.slices.items():
            grant = grants[grant_id]
            part = min(amount, charge)
            charge -= part
            grant.held -= amount
            wallet.held -= amount
            if part:
                spent[grant_id] = part
            rest = amount - part
            if grant.revoked:
                revoked += rest
            elif grant.is_expired(self.now_ms):
                forfeited += rest
            else:
                grant.available += rest
                returned += rest
        return memory_state.Parts(spent=spent, returned=returned, forfeited=forfeited, revoked=revoked)

    def _beyond(
        self, account: memory_state.Account, wallet: memory_state.Wallet, want: int, policy: ledger.Overage
    ) -> tuple[dict[uuid.UUID, int], int]:
        if policy == ledger.Overage.CAP or want <= 0:
            return {}, 0
        taken = self._take(wallet, min(want, max(0, wallet.available(self.now_ms))))
        debt = 0
        if policy == ledger.Overage.OVERDRAFT:
            debt = max(0, min(want - sum(taken.values()), account.overdraft - wallet.debt))
            wallet.debt += debt
        return taken, debt

    def _chargeable(
        self, account: memory_state.Account, wallet: memory_state.Wallet, want: int, policy: ledger.Overage
    ) -> int:
        """What `_beyond` would come to."""
        spent, debt = self._beyond(account, copy.deepcopy(wallet), want, policy)
        return sum(spent.values()) + debt

    def _ended(
        self, key: tuple[str, uuid.UUID], tenant_id: str
    ) -> tuple[memory_state.Account, memory_state.Hold] | None:
        hold = self._holds.get(key)
        if hold is None:
            return None
        account = self._account(key[0])
        return (account, hold) if account.tenant_id == tenant_id else None

    async def commit(self, command: ledger.Commit) -> ledger.SettleOutcome:
        found = self._ended((command.address, command.hold), command.tenant_id)
        if found is None:
            return ledger.AskDurable()
        account, hold = found
        ended = hold.ended
        if ended is not None and ended.kind in (ledger.Kind.COMMIT, ledger.Kind.COMMIT_LATE):
            if hold.commit_digest != command.digest:
                raise errors.ConflictError(b"")
            return dataclasses.replace(ended, replayed=True)
        if ended is not None and ended.kind == ledger.Kind.RELEASE:
            raise errors.FailedPreconditionError("hold_id: the hold has ended as released")
        if account.strict and (ended is not None or self.now_ms >= hold.expires_ms):
            raise errors.FailedPreconditionError("hold_id: the hold has expired, and the account refuses late commits")
        hold.commit_digest = command.digest
        amount = hold.amount if command.amount_micros is None or hold.free else command.amount_micros
        return self._settle(account, hold, amount, ended.charged_micros if ended else 0, command.detail)

    def _settle(
        self, account: memory_state.Account, hold: memory_state.Hold, amount: int, already: int, detail: bytes
    ) -> ledger.Settled:
        command = hold.command
        wallet = account.wallets[command.wallet]
        policy = command.overage or account.overage
        due = max(0, amount - already)
        parts = memory_state.Parts(spent={}, returned=0, forfeited=0, revoked=0)
        reach, late_policy = due, policy
        if hold.ended is None:
            parts = self._unhold(wallet, hold, due)
            reach = max(0, due - hold.amount)
            account.holds_open -= 1
        elif policy == ledger.Overage.CAP:
            reach, late_policy = min(due, max(0, hold.amount - already)), ledger.Overage.DRAW
        more, debt = self._beyond(account, wallet, reach, late_policy)
        spent = dict(parts.spent)
        for grant_id, part in more.items():
            spent[grant_id] = spent.get(grant_id, 0) + part
        charged = sum(spent.values()) + debt
        account.spent += charged
        account.expired += parts.forfeited
        account.revoked += parts.revoked
        kind = ledger.Kind.COMMIT if hold.ended is None else ledger.Kind.COMMIT_LATE
        if hold.ended is None:
            account.limits.settle(hold.entries, hold.amount, charged, limits.decoded(detail))
        else:
            terms = limits.decoded(command.terms)
            share = limits.share_of(already, charged)
            want = limits.measured(terms, limits.decoded(detail), charged, holds=0, share=share)
            until_ms = self.now_ms + limits.OPERATION_MEMORY_MS
            account.limits.counters |= account.limits.look(terms, want, self.now_ms, until_ms).counters
        self._record(command.address, account, kind, command.hold)
        hold.ended = self._settled(account, hold, kind, charged, parts, due - charged, spent)
        return hold.ended

    def _settled(
        self,
        account: memory_state.Account,
        hold: memory_state.Hold,
        kind: ledger.Kind,
        charged: int,
        parts: memory_state.Parts,
        uncollected: int,
        spent: dict[uuid.UUID, int],
    ) -> ledger.Settled:
        return ledger.Settled(
            kind=kind,
            txn=hold.command.hold,
            charged_micros=charged,
            returned_micros=parts.returned,
            uncollected_micros=uncollected,
            forfeited_micros=parts.forfeited,
            at_ms=self.now_ms,
            draws=_draws(spent),
            replayed=False,
            balance=self._balance(account, hold.command.wallet),
        )

    async def commit_late(self, command: ledger.CommitLate) -> ledger.SettleOutcome:
        # Nothing is ever forgotten here, so that the hold is known.
        return await self.commit(command.commit)

    async def release(self, command: ledger.Release) -> ledger.SettleOutcome:
        found = self._ended((command.address, command.hold), command.tenant_id)
        if found is None:
            return ledger.AskDurable()
        account, hold = found
        if hold.ended is not None:
            if hold.ended.kind == ledger.Kind.RELEASE:
                return dataclasses.replace(hold.ended, replayed=True)
            state = ledger.STATES[hold.ended.kind].name.lower()
            raise errors.FailedPreconditionError(f"hold_id: the hold has ended as {state}")
        if account.actions_day == hold.created_ms // ledger.DAY_MS:
            account.actions = max(0, account.actions - 1)
        return self._end(account, hold, ledger.Kind.RELEASE, 0, 0)

    def _end(
        self, account: memory_state.Account, hold: memory_state.Hold, kind: ledger.Kind, charge: int, owed: int
    ) -> ledger.Settled:
        parts = self._unhold(account.wallets[hold.command.wallet], hold, charge)
        account.holds_open -= 1
        detail = hold.reported_detail if hold.command.expiry == ledger.Expiry.CHARGE_REPORTED else b""
        is_charged = hold.command.expiry == ledger.Expiry.CHARGE_ESTIMATE or detail != b""
        charged = charge if kind == ledger.Kind.EXPIRE and is_charged else None
        account.limits.settle(hold.entries, hold.amount, charged, limits.decoded(detail))
        account.spent += charge
        account.expired += parts.forfeited
        account.revoked += parts.revoked
        self._record(hold.command.address, account, kind, hold.command.hold)
        hold.ended = self._settled(account, hold, kind, charge, parts, owed, parts.spent)
        return hold.ended

    async def extend(self, command: ledger.Extend) -> ledger.Held | ledger.Denied:
        account, hold = self._open(command.tenant_id, command.address, command.hold)
        name = hold.command.wallet
        more = 0 if hold.free else max(0, command.amount_micros - hold.amount)
        if more and account.frozen:
            return self._denied(account, name, ledger.DenialCode.ACCOUNT_FROZEN, more)
        short = None
        if more > max(0, account.wallets[name].available(self.now_ms)):
            short = self._denied(account, name, ledger.DenialCode.INSUFFICIENT_CREDITS, more)
        expires_ms = max(hold.expires_ms, self.now_ms + command.ttl_ms)
        looked = account.limits.look(
            limits.decoded(hold.command.terms),
            {limits.Metric.CREDITS: more},
            self.now_ms,
            expires_ms + limits.OPERATION_MEMORY_MS,
            is_extension=True,
        )
        if looked.exceeded or short:
            return self._limited(account, name, more, looked, short)
        account.limits.counters |= looked.counters
        hold.entries += looked.entries
        slices = self._take(account.wallets[name], more)
        self._pin(account.wallets[name], slices)
        for grant_id, part in slices.items():
            hold.slices[grant_id] = hold.slices.get(grant_id, 0) + part
        hold.amount += more
        hold.expires_ms = expires_ms
        return self._held(hold, replayed=False)

    async def report(self, command: ledger.Report) -> ledger.Held:
        _, hold = self._open(command.tenant_id, command.address, command.hold)
        if command.used_micros >= hold.reported:
            hold.reported, hold.reported_detail = command.used_micros, command.detail
        return self._held(hold, replayed=False)

    def _open(
        self, tenant_id: str, address: str, hold_uuid: uuid.UUID
    ) -> tuple[memory_state.Account, memory_state.Hold]:
        found = self._ended((address, hold_uuid), tenant_id)
        if found is None:
            raise errors.NotFoundError("hold_id: no such hold")
        if found[1].ended is not None:
            state = ledger.STATES[found[1].ended.kind].name.lower()
            raise errors.FailedPreconditionError(f"hold_id: the hold has ended as {state}")
        return found

    async def charge(self, command: ledger.Charge) -> ledger.ChargeOutcome:
        key = command.address, command.charge
        if (old := self._charges.get(key)) is not None:
            if old[0] != command.digest:
                raise errors.ConflictError(b"")
            return dataclasses.replace(old[1], replayed=True)
        if command.replay_only:
            return ledger.AskDurable()
        account = self._account(command.address)
        is_transfer = command.overage == ledger.Overage.TRANSFER
        is_free = account.plan.is_unlimited(self.now_ms) and not is_transfer
        wallet = self._wallet(account, command.wallet, is_free=is_free)
        amount = command.amount_micros
        if account.frozen:
            return self._denied(account, command.wallet, ledger.DenialCode.ACCOUNT_FROZEN, amount)
        if not is_transfer and (used_up := self._used_up(account, command.wallet, amount)) is not None:
            return used_up
        policy = command.overage or account.overage
        if is_free:
            amount = 0
        short = None
        if policy in (ledger.Overage.ALL_OR_NOTHING, ledger.Overage.TRANSFER):
            if wallet.available(self.now_ms) < amount and not is_free:
                short = self._short(account, command.wallet, amount)
            policy = ledger.Overage.DRAW
        looked = memory_limits.Outcome()
        if not is_transfer:
            terms = limits.decoded(command.terms)
            coming = amount if short else self._chargeable(account, wallet, amount, policy)
            want = limits.measured(terms, limits.decoded(command.detail), coming, holds=0)
            looked = account.limits.look(terms, want, self.now_ms, self.now_ms + limits.OPERATION_MEMORY_MS)
        if looked.exceeded or short:
            return self._limited(account, command.wallet, command.amount_micros, looked, short)
        account.limits.counters |= looked.counters
        account.wallets[command.wallet] = wallet
        if not is_transfer:
            account.begin_day(self.now_ms // ledger.DAY_MS)
            account.actions += 1
        spent, debt = self._beyond(account, wallet, amount, policy)
        charged = sum(spent.values()) + debt
        account.spent += charged
        self._record(command.address, account, ledger.Kind.CHARGE, command.charge)
        settled = ledger.Settled(
            kind=ledger.Kind.CHARGE,
            txn=command.charge,
            charged_micros=charged,
            returned_micros=0,
            uncollected_micros=amount - charged,
            forfeited_micros=0,
            at_ms=self.now_ms,
            draws=_draws(spent),
            replayed=False,
            balance=self._balance(account, command.wallet),
        )
        self._charges[key] = command.digest, settled
        return settled

    async def hold(self, tenant_id: str, address: str, hold: uuid.UUID) -> ledger.Held | ledger.Settled | None:
        found = self._ended((address, hold), tenant_id)
        if found is None:
            return None
        ended = found[1].ended
        if ended is None:
            return self._held(found[1], replayed=True)
        terms = found[1].command.terms if ended.kind == ledger.Kind.EXPIRE else b""
        return dataclasses.replace(ended, replayed=True, terms=terms)

    async def expire(self, address: str, hold: uuid.UUID) -> ledger.Settled | None:
        found = self._holds.get((address, hold))
        if found is None or found.ended is not None or self.now_ms < found.expires_ms:
            return None
        charge, owed = 0, 0
        if found.command.expiry == ledger.Expiry.CHARGE_REPORTED:
            charge = min(found.reported, found.amount)
            owed = 0 if found.free else found.reported - charge
        elif found.command.expiry == ledger.Expiry.CHARGE_ESTIMATE:
            charge = found.amount
        return self._end(self._account(address), found, ledger.Kind.EXPIRE, charge, owed)

    async def expire_grants(self, address: str) -> int:
        account, ended = self._accounts.get(address), 0
        if account is None:
            return 0
        for _, wallet in sorted(account.wallets.items()):
            for grant in sorted(wallet.grants, key=memory_state.Grant.burn_key):
                if grant.is_expired(self.now_ms) and grant.available:
                    account.expired += grant.available
                    grant.available = 0
                    self._record(address, account, ledger.Kind.GRANT_EXPIRE, grant.grant_id)
                    ended += 1
        return ended

    async def apply(self, address: str, change: ledger.Change) -> ledger.Applied:
        account = self._account(address)
        name = "" if isinstance(change, ledger.SettingsChange) else change.wallet
        if change.change_no <= account.change_no:
            balance = self._balance(account, name) if name else None
            return ledger.Applied(already=True, amount_micros=0, balance=balance)
        match change:
            case ledger.GrantChange():
                amount = self._grant(account, change)
                kind, txn = ledger.Kind.GRANT, change.grant_id
            case ledger.RevokeChange():
                amount = self._revoke(account, change)
                kind, txn = ledger.Kind.REVOKE, change.revocation_id
            case ledger.ClawBackChange():
                amount = self._claw_back(account, change)
                kind, txn = ledger.Kind.CLAW_BACK, change.claw_back_id
            case ledger.SettingsChange():
                account.overage, account.overdraft = change.overage, change.overdraft_limit_micros
                account.strict, account.frozen = change.strict_expiry, change.frozen
                account.plan = change.plan
                account.limits.define(change.limits)
                amount, kind, txn = 0, ledger.Kind.SETTINGS, change.change_id
        account.change_no = change.change_no
        self._record(address, account, kind, txn)
        balance = self._balance(account, name) if name else None
        return ledger.Applied(already=False, amount_micros=amount, balance=balance)

    def _grant(self, account: memory_state.Account, change: ledger.GrantChange) -> int:
        wallet = account.wallets.get(change.wallet, memory_state.Wallet())
        if len(wallet.grants) >= ledger.GRANTS_PER_WALLET_MAX:
            raise errors.OverloadedError("too many records wait for Postgres, or the wallet has too many grants")
        if account.granted + change.amount_micros > money.AMOUNT_MAX_MICROS:
            raise errors.OutOfRangeError("amount_micros", "the account's total would pass 2^53 − 1 micro-credits")
        account.wallets[change.wallet] = wallet
        grant = memory_state.Grant(
            grant_id=change.grant_id,
            available=change.amount_micros,
            category=change.category,
            priority=change.priority,
            effective_ms=change.effective_ms,
            expires_ms=change.expires_ms,
            number=change.change_no,
        )
        if grant.is_active(self.now_ms):
            paid = min(wallet.debt, grant.available)
            grant.available -= paid
            wallet.debt -= paid
        wallet.grants.append(grant)
        account.granted += change.amount_micros
        return change.amount_micros

    @staticmethod
    def _revoke(account: memory_state.Account, change: ledger.RevokeChange) -> int:
        wallet = account.wallets.setdefault(change.wallet, memory_state.Wallet())
        taken = 0
        for grant in wallet.grants:
            if grant.grant_id == change.grant_id:
                taken, grant.available, grant.revoked = grant.available, 0, True
        account.revoked += taken
        return taken

    def _claw_back(self, account: memory_state.Account, change: ledger.ClawBackChange) -> int:
        wallet, amount = account.wallets.get(change.wallet, memory_state.Wallet()), change.amount_micros
        highest = max(account.revoked + amount, wallet.debt + amount, amount - account.worth())
        if highest > money.AMOUNT_MAX_MICROS:
            raise errors.OutOfRangeError("amount_micros", "the account's total would pass 2^53 − 1 micro-credits")
        account.wallets[change.wallet] = wallet
        taken = self._take(wallet, min(amount, max(0, wallet.available(self.now_ms))))
        wallet.debt += amount - sum(taken.values())
        account.revoked += amount
        return amount

    async def load(self, state: ledger.AccountState) -> bool:
        if state.address in self._accounts:
            return False
        account = memory_state.loaded_account(state)
        assert account.is_conserved()
        self._accounts[state.address] = account
        return True

    async def account(self, address: str) -> ledger.AccountState | None:
        found = self._accounts.get(address)
        return None if found is None else memory_state.account_state(address, found)

    async def limit_uses(self, address: str) -> Sequence[limits.Use]:
        return self._account(address).limits.uses(self.now_ms)

    def forgot_before_ms(self, address: str) -> int:
        del address
        return 0

    async def holds(self, address: str) -> Sequence[ledger.Held]:
        found = [hold for (at, _), hold in self._holds.items() if at == address and hold.ended is None]
        found.sort(key=lambda hold: (hold.expires_ms, hold.command.hold))
        return [self._held(hold, replayed=True) for hold in found]


def _draws(parts: dict[uuid.UUID, int]) -> tuple[ledger.Draw, ...]:
    return tuple(ledger.Draw(grant_id=grant_id, amount_micros=amount) for grant_id, amount in parts.items())
