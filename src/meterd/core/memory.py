"""The ledger in memory: the same verbs with exact integers and a clock that the caller sets.

For tests and simulations, and as the oracle that the Lua scripts are held against. Nothing survives the process. Tombstones never end.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from meterd.core import errors, ledger, money


@dataclasses.dataclass(kw_only=True, slots=True)
class _Grant:
    grant_id: uuid.UUID
    available: int
    category: int
    priority: int
    effective_ms: int
    expires_ms: int
    number: int
    held: int = 0
    revoked: bool = False

    def is_active(self, now_ms: int) -> bool:
        return not self.revoked and self.effective_ms <= now_ms and not self.is_expired(now_ms)

    def is_expired(self, now_ms: int) -> bool:
        return self.expires_ms != 0 and self.expires_ms <= now_ms

    def burn_key(self) -> tuple[int, int, bool, int]:
        return self.priority, self.expires_ms or 2**63, self.category == 1, self.number


@dataclasses.dataclass(kw_only=True, slots=True)
class _Wallet:
    grants: list[_Grant] = dataclasses.field(default_factory=list[_Grant])
    debt: int = 0
    held: int = 0

    def available(self, now_ms: int) -> int:
        return sum(grant.available for grant in self.grants if grant.is_active(now_ms)) - self.debt


@dataclasses.dataclass(kw_only=True, slots=True)
class _Account:
    tenant_id: str
    account_id: str
    seq: int
    last_txn: str
    change_no: int
    granted: int
    spent: int
    expired: int
    revoked: int
    overage: ledger.Overage
    overdraft: int
    strict: bool
    frozen: bool
    wallets: dict[str, _Wallet]
    holds_open: int = 0

    def held(self) -> int:
        return sum(wallet.held for wallet in self.wallets.values())

    def worth(self) -> int:
        return sum(sum(grant.available for grant in wallet.grants) - wallet.debt for wallet in self.wallets.values())

    def is_conserved(self) -> bool:
        return self.granted == self.worth() + self.held() + self.spent + self.expired + self.revoked


@dataclasses.dataclass(kw_only=True, slots=True)
class _Hold:
    command: ledger.Reserve
    amount: int
    slices: dict[uuid.UUID, int]
    created_ms: int
    expires_ms: int
    reported: int = 0
    reported_detail: bytes = b""
    commit_digest: bytes = b""
    ended: ledger.Settled | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """How the slices of a hold ended."""

    spent: dict[uuid.UUID, int]
    returned: int
    forfeited: int
    revoked: int


class MemoryLedger:
    """Implements core.ledger.Ledger. `now_ms` is its clock; records of what happened are in `kinds`."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self.kinds: list[tuple[str, ledger.Kind, uuid.UUID]] = []
        self._accounts: dict[str, _Account] = {}
        self._holds: dict[tuple[str, uuid.UUID], _Hold] = {}
        self._charges: dict[tuple[str, uuid.UUID], tuple[bytes, ledger.Settled]] = {}

    def _account(self, address: str, tenant_id: str | None = None) -> _Account:
        found = self._accounts.get(address)
        if found is None:
            raise errors.AccountNotLoadedError("account_id: not loaded")
        if tenant_id is not None and found.tenant_id != tenant_id:
            raise errors.NotFoundError("hold_id: no such hold")
        return found

    def _balance(self, account: _Account, name: str) -> ledger.Balance:
        wallet = account.wallets.get(name, _Wallet())
        free = wallet.available(self.now_ms)
        return ledger.Balance(wallet=name, available_micros=free, held_micros=wallet.held, seq=account.seq, epoch=1)

    def _record(self, address: str, account: _Account, kind: ledger.Kind, txn: uuid.UUID) -> None:
        assert account.is_conserved()
        account.seq += 1
        account.last_txn = f"{kind.value}{txn.hex}"
        self.kinds.append((address, kind, txn))
        for wallet in account.wallets.values():
            wallet.grants = [grant for grant in wallet.grants if grant.available or grant.held]

    def _denied(
        self, account: _Account, wallet: str, code: ledger.DenialCode, required: int, limit: int = 0
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
        wallet = account.wallets.get(command.wallet)
        if wallet is None:
            raise errors.NotFoundError("wallet: no such wallet")
        amount, free = command.amount_micros, wallet.available(self.now_ms)
        if account.frozen:
            return self._denied(account, command.wallet, ledger.DenialCode.ACCOUNT_FROZEN, amount)
        if account.holds_open >= ledger.HOLDS_PER_ACCOUNT_MAX:
            limit = ledger.HOLDS_PER_ACCOUNT_MAX
            return self._denied(account, command.wallet, ledger.DenialCode.TOO_MANY_HOLDS, amount, limit)
        if free < amount:
            if command.amount_min_micros == amount or free < command.amount_min_micros:
                return self._denied(account, command.wallet, ledger.DenialCode.INSUFFICIENT_CREDITS, amount)
            amount = free
        slices = self._take(wallet, amount)
        self._pin(wallet, slices)
        account.holds_open += 1
        expires_ms = self.now_ms + command.ttl_ms
        hold = _Hold(command=command, amount=amount, slices=slices, created_ms=self.now_ms, expires_ms=expires_ms)
        self._holds[key] = hold
        return self._held(hold, replayed=False)

    def _take(self, wallet: _Wallet, want: int) -> dict[uuid.UUID, int]:
        taken: dict[uuid.UUID, int] = {}
        for grant in sorted(wallet.grants, key=_Grant.burn_key):
            part = min(grant.available, want) if grant.is_active(self.now_ms) else 0
            if part > 0:
                grant.available -= part
                want -= part
                taken[grant.grant_id] = part
        return taken

    @staticmethod
    def _pin(wallet: _Wallet, slices: dict[uuid.UUID, int]) -> None:
        for grant in wallet.grants:
            grant.held += slices.get(grant.grant_id, 0)
        wallet.held += sum(slices.values())

    def _held(self, hold: _Hold, *, replayed: bool) -> ledger.Held:
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
        )

    def _unhold(self, wallet: _Wallet, hold: _Hold, charge: int) -> _Parts:
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
        return _Parts(spent=spent, returned=returned, forfeited=forfeited, revoked=revoked)

    def _beyond(
        self, account: _Account, wallet: _Wallet, want: int, policy: ledger.Overage
    ) -> tuple[dict[uuid.UUID, int], int]:
        if policy == ledger.Overage.CAP or want <= 0:
            return {}, 0
        taken = self._take(wallet, min(want, max(0, wallet.available(self.now_ms))))
        debt = 0
        if policy == ledger.Overage.OVERDRAFT:
            debt = max(0, min(want - sum(taken.values()), account.overdraft - wallet.debt))
            wallet.debt += debt
        return taken, debt

    def _ended(self, key: tuple[str, uuid.UUID], tenant_id: str) -> tuple[_Account, _Hold] | None:
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
        amount = hold.amount if command.amount_micros is None else command.amount_micros
        return self._settle(account, hold, amount, ended.charged_micros if ended else 0)

    def _settle(self, account: _Account, hold: _Hold, amount: int, already: int) -> ledger.Settled:
        command = hold.command
        wallet = account.wallets[command.wallet]
        policy = command.overage or account.overage
        due = max(0, amount - already)
        parts = _Parts(spent={}, returned=0, forfeited=0, revoked=0)
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
        self._record(command.address, account, kind, command.hold)
        hold.ended = self._settled(account, hold, kind, charged, parts, due - charged, spent)
        return hold.ended

    def _settled(
        self,
        account: _Account,
        hold: _Hold,
        kind: ledger.Kind,
        charged: int,
        parts: _Parts,
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
        return self._end(account, hold, ledger.Kind.RELEASE, 0, 0)

    def _end(self, account: _Account, hold: _Hold, kind: ledger.Kind, charge: int, owed: int) -> ledger.Settled:
        parts = self._unhold(account.wallets[hold.command.wallet], hold, charge)
        account.holds_open -= 1
        account.spent += charge
        account.expired += parts.forfeited
        account.revoked += parts.revoked
        self._record(hold.command.address, account, kind, hold.command.hold)
        hold.ended = self._settled(account, hold, kind, charge, parts, owed, parts.spent)
        return hold.ended

    async def extend(self, command: ledger.Extend) -> ledger.Held | ledger.Denied:
        account, hold = self._open(command.tenant_id, command.address, command.hold)
        name = hold.command.wallet
        more = max(0, command.amount_micros - hold.amount)
        if more and account.frozen:
            return self._denied(account, name, ledger.DenialCode.ACCOUNT_FROZEN, more)
        if more > max(0, account.wallets[name].available(self.now_ms)):
            return self._denied(account, name, ledger.DenialCode.INSUFFICIENT_CREDITS, more)
        slices = self._take(account.wallets[name], more)
        self._pin(account.wallets[name], slices)
        for grant_id, part in slices.items():
            hold.slices[grant_id] = hold.slices.get(grant_id, 0) + part
        hold.amount += more
        hold.expires_ms = max(hold.expires_ms, self.now_ms + command.ttl_ms)
        return self._held(hold, replayed=False)

    async def report(self, command: ledger.Report) -> ledger.Held:
        _, hold = self._open(command.tenant_id, command.address, command.hold)
        if command.used_micros >= hold.reported:
            hold.reported, hold.reported_detail = command.used_micros, command.detail
        return self._held(hold, replayed=False)

    def _open(self, tenant_id: str, address: str, hold_uuid: uuid.UUID) -> tuple[_Account, _Hold]:
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
        wallet = account.wallets.get(command.wallet)
        if wallet is None:
            raise errors.NotFoundError("wallet: no such wallet")
        amount = command.amount_micros
        if account.frozen:
            return self._denied(account, command.wallet, ledger.DenialCode.ACCOUNT_FROZEN, amount)
        policy = command.overage or account.overage
        if policy == ledger.Overage.ALL_OR_NOTHING:
            if wallet.available(self.now_ms) < amount:
                return self._denied(account, command.wallet, ledger.DenialCode.INSUFFICIENT_CREDITS, amount)
            policy = ledger.Overage.DRAW
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
            owed = found.reported - charge
        elif found.command.expiry == ledger.Expiry.CHARGE_ESTIMATE:
            charge = found.amount
        return self._end(self._account(address), found, ledger.Kind.EXPIRE, charge, owed)

    async def expire_grants(self, address: str) -> int:
        account, ended = self._accounts.get(address), 0
        if account is None:
            return 0
        for _, wallet in sorted(account.wallets.items()):
            for grant in sorted(wallet.grants, key=_Grant.burn_key):
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
            case ledger.SettingsChange():
                account.overage, account.overdraft = change.overage, change.overdraft_limit_micros
                account.strict, account.frozen = change.strict_expiry, change.frozen
                amount, kind, txn = 0, ledger.Kind.SETTINGS, change.change_id
        account.change_no = change.change_no
        self._record(address, account, kind, txn)
        balance = self._balance(account, name) if name else None
        return ledger.Applied(already=False, amount_micros=amount, balance=balance)

    def _grant(self, account: _Account, change: ledger.GrantChange) -> int:
        wallet = account.wallets.get(change.wallet, _Wallet())
        if len(wallet.grants) >= ledger.GRANTS_PER_WALLET_MAX:
            raise errors.OverloadedError("too many records wait for Postgres, or the wallet has too many grants")
        if account.granted + change.amount_micros > money.AMOUNT_MAX_MICROS:
            raise errors.OutOfRangeError("amount_micros", "the account's total would pass 2^53 − 1 micro-credits")
        account.wallets[change.wallet] = wallet
        grant = _Grant(
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
    def _revoke(account: _Account, change: ledger.RevokeChange) -> int:
        wallet = account.wallets.setdefault(change.wallet, _Wallet())
        taken = 0
        for grant in wallet.grants:
            if grant.grant_id == change.grant_id:
                taken, grant.available, grant.revoked = grant.available, 0, True
        account.revoked += taken
        return taken

    async def load(self, state: ledger.AccountState) -> bool:
        if state.address in self._accounts:
            return False
        wallets = {wallet.wallet: _loaded(wallet) for wallet in state.wallets} or {"default": _Wallet()}
        account = _Account(
            tenant_id=state.tenant_id,
            account_id=state.account_id,
            seq=state.seq,
            last_txn=state.last_txn,
            change_no=state.change_no,
            granted=state.granted_micros,
            spent=state.spent_micros,
            expired=state.expired_micros,
            revoked=state.revoked_micros,
            overage=state.overage,
            overdraft=state.overdraft_limit_micros,
            strict=state.strict_expiry,
            frozen=state.frozen,
            wallets=wallets,
        )
        assert account.is_conserved()
        self._accounts[state.address] = account
        return True

    async def account(self, address: str) -> ledger.AccountState | None:
        found = self._accounts.get(address)
        if found is None:
            return None
        return ledger.AccountState(
            tenant_id=found.tenant_id,
            account_id=found.account_id,
            address=address,
            seq=found.seq,
            last_txn=found.last_txn,
            change_no=found.change_no,
            granted_micros=found.granted,
            spent_micros=found.spent,
            expired_micros=found.expired,
            revoked_micros=found.revoked,
            overage=found.overage,
            overdraft_limit_micros=found.overdraft,
            strict_expiry=found.strict,
            frozen=found.frozen,
            wallets=[_wallet_state(name, wallet) for name, wallet in sorted(found.wallets.items())],
            held_micros=found.held(),
            epoch=1,
            holds_open=found.holds_open,
        )

    def forgot_before_ms(self, address: str) -> int:
        del address
        return 0

    async def holds(self, address: str) -> Sequence[ledger.Held]:
        found = [hold for (at, _), hold in self._holds.items() if at == address and hold.ended is None]
        found.sort(key=lambda hold: (hold.expires_ms, hold.command.hold))
        return [self._held(hold, replayed=True) for hold in found]


def _draws(parts: dict[uuid.UUID, int]) -> tuple[ledger.Draw, ...]:
    return tuple(ledger.Draw(grant_id=grant_id, amount_micros=amount) for grant_id, amount in parts.items())


def _loaded(state: ledger.WalletState) -> _Wallet:
    grants = [
        _Grant(
            grant_id=grant.grant_id,
            available=grant.available_micros,
            category=grant.category,
            priority=grant.priority,
            effective_ms=grant.effective_ms,
            expires_ms=grant.expires_ms,
            number=grant.created_no,
            revoked=grant.revoked,
        )
        for grant in state.grants
        if grant.available_micros
    ]
    return _Wallet(grants=grants, debt=state.debt_micros)


def _wallet_state(name: str, wallet: _Wallet) -> ledger.WalletState:
    return ledger.WalletState(
        wallet=name,
        debt_micros=wallet.debt,
        held_micros=wallet.held,
        grants=[
            ledger.GrantState(
                grant_id=grant.grant_id,
                available_micros=grant.available,
                category=grant.category,
                priority=grant.priority,
                effective_ms=grant.effective_ms,
                expires_ms=grant.expires_ms,
                created_no=grant.number,
                held_micros=grant.held,
                revoked=grant.revoked,
            )
            for grant in sorted(wallet.grants, key=_Grant.burn_key)
        ],
    )
