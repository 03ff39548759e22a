"""The ledger's verbs as values: what a use case asks, and what it hears back.

Two ledgers speak this language: redis.ledger (the real one) and core.memory (exact and in memory, for tests and as an oracle).
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from meterd.core import errors, values
from meterd.core import limits as core_limits

# A hold must outlive a network round trip, and must not block credits for longer than a day.
TTL_MIN_MS = 1_000
TTL_DEFAULT_MS = 5 * 60 * 1000
TTL_MAX_MS = 24 * 60 * 60 * 1000
# More live grants would make one Reserve slow for all; exhausted grants leave the wallet by themselves.
GRANTS_PER_WALLET_MAX = 256
# A runaway caller must not fill Redis with holds of one account.
HOLDS_PER_ACCOUNT_MAX = 10_000
# Actions are counted by UTC day.
DAY_MS = 24 * 60 * 60 * 1000


class Overage(enum.IntEnum):
    """What a Commit above its hold does. ACCOUNT takes the account's own policy.

    ALL_OR_NOTHING and TRANSFER are for Charge; a transfer is paid even on an unlimited plan, and is no action. FREE stands in holds and
    records of an unlimited plan, which charge nothing; nobody can ask for it.
    """

    ACCOUNT = 0
    CAP = 1
    DRAW = 2
    OVERDRAFT = 3
    ALL_OR_NOTHING = 4
    FREE = 5
    TRANSFER = 6


class Expiry(enum.IntEnum):
    """What the sweeper does with a hold whose time is up."""

    RELEASE = 1
    CHARGE_REPORTED = 2
    CHARGE_ESTIMATE = 3


class Kind(enum.StrEnum):
    """Kinds of ledger records; the letter stands in Redis and Postgres."""

    COMMIT = "C"
    COMMIT_LATE = "L"
    RELEASE = "R"
    EXPIRE = "E"
    CHARGE = "H"
    GRANT = "G"
    REVOKE = "V"
    GRANT_EXPIRE = "X"
    SETTINGS = "S"
    CLAW_BACK = "B"


class State(enum.IntEnum):
    """States of a hold; the numbers are those of the proto enum HoldState."""

    OPEN = 1
    COMMITTED = 2
    COMMITTED_LATE = 3
    RELEASED = 4
    EXPIRED = 5


# As what each kind of record ends a hold; a charge is one that was committed at once.
STATES = {
    Kind.COMMIT: State.COMMITTED,
    Kind.CHARGE: State.COMMITTED,
    Kind.COMMIT_LATE: State.COMMITTED_LATE,
    Kind.RELEASE: State.RELEASED,
    Kind.EXPIRE: State.EXPIRED,
}


class DenialCode(enum.IntEnum):
    """Why credits were not set aside; the numbers are those of the proto enum Denial.Code."""

    INSUFFICIENT_CREDITS = 1
    ACCOUNT_FROZEN = 2
    TOO_MANY_HOLDS = 3
    WALLET_BLOCKED = 4
    ACTIONS_PER_DAY = 5
    LIMIT_EXCEEDED = 6


@values.value
class Draw:
    """A part of an amount and the grant (UUID) it came from."""

    grant_id: uuid.UUID
    amount_micros: int


@values.value
class Balance:
    """A wallet right after the call."""

    wallet: str
    available_micros: int
    held_micros: int
    seq: int
    epoch: int


@values.value
class Reserve:
    """Set `amount_micros` aside, or at least `amount_min_micros` if the wallet has no more."""

    tenant_id: str
    address: str
    hold: uuid.UUID
    wallet: str
    amount_micros: int
    amount_min_micros: int
    # 8 bytes over what the client sent; the same id with another digest is ALREADY_EXISTS.
    digest: bytes
    ttl_ms: int
    overage: Overage
    expiry: Expiry
    # JSON object, opaque to the ledger: what was charged, for whom, at which price version. Comes back with the hold.
    terms: bytes
    # True for an id so old that its tombstone may be gone: answer a replay from Redis, otherwise write nothing (AskDurable).
    replay_only: bool = False
    # What `terms` says, from which limits are counted; None: to be decoded.
    said: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False, compare=False, repr=False)


@values.value
class Commit:
    """End a hold with a charge of `amount_micros`; None charges what is held."""

    tenant_id: str
    address: str
    hold: uuid.UUID
    amount_micros: int | None
    digest: bytes
    # JSON object, opaque: usage, model, cost, breakdown. Stored with the record.
    detail: bytes
    # What `detail` says, as in Reserve.
    said: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CommitLate:
    """Settle a hold whose expiry only Postgres remembers; the fields are those of its durable record."""

    commit: Commit
    wallet: str
    overage: Overage
    terms: bytes
    # What was held, and what the expiry charged of it (by its expiry policy); only the excess is charged now.
    held_micros: int
    charged_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    tenant_id: str
    address: str
    hold: uuid.UUID
    # JSON object, opaque: the reason.
    detail: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extend:
    tenant_id: str
    address: str
    hold: uuid.UUID
    ttl_ms: int
    # New total; 0 or a smaller one leaves the amount.
    amount_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Remember `used_micros` (cumulative; the largest wins) and its detail for CHARGE_REPORTED."""

    tenant_id: str
    address: str
    hold: uuid.UUID
    used_micros: int
    detail: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    tenant_id: str
    address: str
    charge: uuid.UUID
    wallet: str
    amount_micros: int
    digest: bytes
    overage: Overage
    terms: bytes
    detail: bytes
    replay_only: bool = False


CommandT = TypeVar("CommandT", Reserve, Charge)


@values.value
class Held:
    """An open hold, or in a replay the hold as it ended."""

    hold: uuid.UUID
    address: str
    wallet: str
    amount_micros: int
    state: State
    created_ms: int
    expires_ms: int
    draws: Sequence[Draw]
    terms: bytes
    replayed: bool
    balance: Balance
    # Largest reported so far.
    reported_micros: int = 0
    # The account's plan was unlimited when it was reserved: it holds and charges nothing, whatever is committed.
    unlimited: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Denied:
    code: DenialCode
    available_micros: int
    required_micros: int
    # For TOO_MANY_HOLDS and ACTIONS_PER_DAY: how many there may be.
    limit: int
    balance: Balance
    # For ACTIONS_PER_DAY: how many there were, and when the next day begins (ms).
    used: int = 0
    resets_ms: int = 0
    # For LIMIT_EXCEEDED: all limits without room, and why the wallet would not have done either.
    exceeded: Sequence[core_limits.Exceeded] = ()
    also: DenialCode | None = None


@values.value
class Settled:
    """The end of a hold, or a direct charge."""

    kind: Kind
    txn: uuid.UUID
    charged_micros: int
    returned_micros: int
    uncollected_micros: int
    forfeited_micros: int
    at_ms: int
    draws: Sequence[Draw]
    replayed: bool
    balance: Balance
    # Of an expired hold that is looked at: a late Commit is priced from them.
    terms: bytes = b""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AskDurable:
    """Redis does not know the id; only the durable record can tell whether it had its effect."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """A change born in Postgres has reached Redis (`already`: it had before)."""

    already: bool
    amount_micros: int
    balance: Balance | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantChange:
    """A grant to add. Times in ms since 1970; expires_ms 0 is never."""

    change_no: int
    grant_id: uuid.UUID
    wallet: str
    amount_micros: int
    category: int
    priority: int
    effective_ms: int
    expires_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RevokeChange:
    change_no: int
    revocation_id: uuid.UUID
    grant_id: uuid.UUID
    wallet: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClawBackChange:
    """Takes an amount from the wallet's active grants in burn order, and what they lack as debt. Open holds keep their slices.

    `grant_ids` come first, in their order: what is left of them, also if it counts later only, but not if it has expired.
    """

    change_no: int
    claw_back_id: uuid.UUID
    wallet: str
    amount_micros: int
    grant_ids: Sequence[uuid.UUID] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanRule:
    """What a plan changes in the hot path. `unlimited` and `actions_per_day` (0: no limit) hold before `until_ms`, to the millisecond."""

    until_ms: int = 0
    unlimited: bool = False
    actions_per_day: int = 0
    # Wallets that the plan gives nothing; until the next change of settings.
    blocked_wallets: Sequence[str] = ()

    def is_unlimited(self, now_ms: int) -> bool:
        return self.unlimited and now_ms < self.until_ms


NO_PLAN = PlanRule()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SettingsChange:
    change_no: int
    change_id: uuid.UUID
    overage: Overage
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    plan: PlanRule = NO_PLAN
    # All of the account's limits from now on; None leaves them as they are.
    limits: Sequence[core_limits.Limit] | None = None


Change = GrantChange | RevokeChange | ClawBackChange | SettingsChange


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantState:
    """A grant as the folded ledger knows it. `available_micros` is what is left; holds are not in the ledger."""

    grant_id: uuid.UUID
    available_micros: int
    category: int
    priority: int
    effective_ms: int
    expires_ms: int
    created_no: int
    held_micros: int = 0
    revoked: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WalletState:
    wallet: str
    debt_micros: int
    grants: Sequence[GrantState]
    held_micros: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AccountState:
    """An account as the folded ledger knows it (from Postgres), or as Redis has it.

    Conservation: granted = Σ wallets (grants' available − debt) + held + spent + expired + revoked.
    """

    tenant_id: str
    account_id: str
    address: str
    seq: int
    # Kind letter and UUID of the account's last record; "" before the first.
    last_txn: str
    change_no: int
    granted_micros: int
    spent_micros: int
    expired_micros: int
    revoked_micros: int
    overage: Overage
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    wallets: Sequence[WalletState]
    held_micros: int = 0
    epoch: int = 0
    holds_open: int = 0
    plan: PlanRule = NO_PLAN
    # Granted Reserves and Charges of the UTC day with that number, less those that were released the same day.
    actions: int = 0
    actions_day: int = 0
    limits: Sequence[core_limits.Limit] = ()
    # To be loaded only: what was counted in windows that still matter.
    counters: Sequence[core_limits.Counted] = ()

    def actions_on(self, now_ms: int) -> int:
        """Actions of the day that `now_ms` lies in."""
        return self.actions if self.actions_day == now_ms // DAY_MS else 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of a partition's outbox stream.

    The stream entry has three fields: "r", the values below from `kind` to `overage` in this order, separated by spaces, "-" for an empty
    one, draws as "hex:amount,hex:amount"; "m", the terms; "j", the detail.
    """

    entry_id: str
    kind: Kind
    txn: uuid.UUID  # hex: the hold, charge, grant, revocation or change
    prev_txn: str  # kind letter + hex UUID of the account's previous record, "" for the first
    address: str
    epoch: int
    seq: int
    at_ms: int  # Redis TIME
    wallet: str  # "" for SETTINGS
    held_before_micros: int  # the hold's amount, 0 where there was none
    granted_micros: int  # GRANT only
    charged_micros: int
    returned_micros: int
    uncollected_micros: int
    expired_micros: int  # forfeited or expired
    revoked_micros: int
    # What was spent, by grant. Charged beyond all grants (overdraft) is charged − Σ drawn.
    # For GRANT: the part that paid off debt at once.
    drawn: Sequence[Draw]
    # What expired and what was revoked, by grant.
    expired: Sequence[Draw]
    revoked: Sequence[Draw]
    # After the record: the wallet's Σ available of all its grants − debt, its debt, its held; the account's held.
    balance_after_micros: int
    debt_after_micros: int
    wallet_held_after_micros: int
    held_after_micros: int
    # GRANT, REVOKE, CLAW_BACK and SETTINGS: the change's number; 0 otherwise.
    change_no: int
    request_digest: bytes  # of Commit and Charge
    overage: Overage
    terms: bytes  # JSON as given to Reserve or Charge; b"" otherwise
    detail: bytes  # JSON as given to the ending call; b"" otherwise


def fresh(command: CommandT) -> CommandT:
    """The same command for an id that the durable record does not know."""
    return dataclasses.replace(command, replay_only=False)


def is_active(grant: GrantState, now_ms: int) -> bool:
    """Whether a grant can be spent from at `now_ms`."""
    return not grant.revoked and grant.effective_ms <= now_ms and (grant.expires_ms == 0 or grant.expires_ms > now_ms)


def available_micros(wallet: WalletState, now_ms: int) -> int:
    """What a Reserve could take from the wallet at `now_ms`: active grants less debt."""
    return sum(grant.available_micros for grant in wallet.grants if is_active(grant, now_ms)) - wallet.debt_micros


def wallet_of(state: AccountState, wallet: str) -> WalletState:
    """The account's wallet of that name; NotFoundError if it has none."""
    for found in state.wallets:
        if found.wallet == wallet:
            return found
    raise errors.NotFoundError("wallet: no such wallet")


def denial_of(state: AccountState, wallet: str, required_micros: int, now_ms: int) -> DenialCode | None:
    """Why a Reserve of `required_micros` would be denied; None if it would not. NotFoundError if the account has no such wallet."""
    if state.frozen:
        return DenialCode.ACCOUNT_FROZEN
    if state.holds_open >= HOLDS_PER_ACCOUNT_MAX:
        return DenialCode.TOO_MANY_HOLDS
    plan = state.plan
    if now_ms < plan.until_ms and 0 < plan.actions_per_day <= state.actions_on(now_ms):
        return DenialCode.ACTIONS_PER_DAY
    if plan.is_unlimited(now_ms):
        return None
    blocked = wallet in plan.blocked_wallets
    if blocked and all(found.wallet != wallet for found in state.wallets):
        return DenialCode.WALLET_BLOCKED
    if available_micros(wallet_of(state, wallet), now_ms) >= required_micros:
        return None
    return DenialCode.WALLET_BLOCKED if blocked else DenialCode.INSUFFICIENT_CREDITS


def burn_key(grant: GrantState) -> tuple[int, int, bool, int]:
    """Sorts grants in burn order: priority, then soonest expiry, then promotional kinds before paid ones, then the oldest."""
    return grant.priority, grant.expires_ms or 2**63, grant.category == 1, grant.created_no


ReserveOutcome = Held | Denied | AskDurable
SettleOutcome = Settled | AskDurable
ChargeOutcome = Settled | Denied | AskDurable


class Ledger(Protocol):
    """The verbs. Each is atomic, and a repeat with the same id and digest has no further effect.

    Errors: NotFoundError (account not loaded is AccountNotLoadedError), AlreadyExistsError, FailedPreconditionError,
    OutOfRangeError, OverloadedError, UnavailableError.
    """

    async def reserve(self, command: Reserve) -> ReserveOutcome: ...
    async def commit(self, command: Commit) -> SettleOutcome: ...
    async def commit_late(self, command: CommitLate) -> SettleOutcome: ...
    async def release(self, command: Release) -> SettleOutcome: ...
    async def extend(self, command: Extend) -> Held | Denied: ...
    async def report(self, command: Report) -> Held: ...
    async def charge(self, command: Charge) -> ChargeOutcome: ...
    async def hold(self, tenant_id: str, address: str, hold: uuid.UUID) -> Held | Settled | None: ...
    async def expire(self, address: str, hold: uuid.UUID) -> Settled | None: ...
    async def expire_grants(self, address: str) -> int: ...
    async def apply(self, address: str, change: Change) -> Applied: ...
    async def load(self, state: AccountState) -> bool: ...
    async def account(self, address: str) -> AccountState | None: ...
    async def holds(self, address: str) -> Sequence[Held]: ...
    async def limit_uses(self, address: str) -> Sequence[core_limits.Use]: ...
    def forgot_before_ms(self, address: str) -> int:
        """Ids made before this time may have had effects that only the durable ledger remembers, however young they are. 0: none."""
        ...
