"""What the ledger in memory keeps of accounts and holds. See core.memory."""

from __future__ import annotations

import dataclasses
import uuid

from meterd.core import ledger, memory_limits


@dataclasses.dataclass(kw_only=True, slots=True)
class Grant:
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
class Wallet:
    grants: list[Grant] = dataclasses.field(default_factory=list[Grant])
    debt: int = 0
    held: int = 0

    def available(self, now_ms: int) -> int:
        return sum(grant.available for grant in self.grants if grant.is_active(now_ms)) - self.debt


@dataclasses.dataclass(kw_only=True, slots=True)
class Account:
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
    wallets: dict[str, Wallet]
    plan: ledger.PlanRule
    actions: int
    actions_day: int
    limits: memory_limits.Limits
    holds_open: int = 0

    def held(self) -> int:
        return sum(wallet.held for wallet in self.wallets.values())

    def worth(self) -> int:
        return sum(sum(grant.available for grant in wallet.grants) - wallet.debt for wallet in self.wallets.values())

    def begin_day(self, day: int) -> None:
        """Forgets the actions of another day than `day`."""
        if self.actions_day != day:
            self.actions, self.actions_day = 0, day

    def is_conserved(self) -> bool:
        return self.granted == self.worth() + self.held() + self.spent + self.expired + self.revoked


@dataclasses.dataclass(kw_only=True, slots=True)
class Hold:
    command: ledger.Reserve
    amount: int
    slices: dict[uuid.UUID, int]
    created_ms: int
    expires_ms: int
    reported: int = 0
    reported_detail: bytes = b""
    commit_digest: bytes = b""
    ended: ledger.Settled | None = None
    # An unlimited plan paid for it.
    free: bool = False
    # What it was counted as by limits.
    entries: list[memory_limits.Entry] = dataclasses.field(default_factory=list[memory_limits.Entry])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """How the slices of a hold ended."""

    spent: dict[uuid.UUID, int]
    returned: int
    forfeited: int
    revoked: int


def loaded_wallet(state: ledger.WalletState) -> Wallet:
    grants = [
        Grant(
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
    return Wallet(grants=grants, debt=state.debt_micros)


def wallet_state(name: str, wallet: Wallet) -> ledger.WalletState:
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
            for grant in sorted(wallet.grants, key=Grant.burn_key)
        ],
    )


def loaded_account(state: ledger.AccountState) -> Account:
    """The account as the folded ledger has it, without holds."""
    return Account(
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
        wallets={wallet.wallet: loaded_wallet(wallet) for wallet in state.wallets} or {"default": Wallet()},
        plan=state.plan,
        actions=state.actions,
        actions_day=state.actions_day,
        limits=memory_limits.Limits(
            defined=tuple(state.limits), counters={counted.field: counted.counter for counted in state.counters}
        ),
    )


def account_state(address: str, account: Account) -> ledger.AccountState:
    """The account as a value."""
    return ledger.AccountState(
        tenant_id=account.tenant_id,
        account_id=account.account_id,
        address=address,
        seq=account.seq,
        last_txn=account.last_txn,
        change_no=account.change_no,
        granted_micros=account.granted,
        spent_micros=account.spent,
        expired_micros=account.expired,
        revoked_micros=account.revoked,
        overage=account.overage,
        overdraft_limit_micros=account.overdraft,
        strict_expiry=account.strict,
        frozen=account.frozen,
        wallets=[wallet_state(name, wallet) for name, wallet in sorted(account.wallets.items())],
        held_micros=account.held(),
        epoch=1,
        holds_open=account.holds_open,
        plan=account.plan,
        actions=account.actions,
        actions_day=account.actions_day,
        limits=account.limits.defined,
    )
