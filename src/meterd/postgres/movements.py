"""Rewards, claw-backs and the giving end of transfers in Postgres. Each is keyed, so that any number of repeats has one effect."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, ids, ledger, periods
from meterd.postgres import catalog, plans, pool, sql

_SQL = sql.read("plans")

# Grants of category GRANT_CATEGORY_REWARD and GRANT_CATEGORY_GIFT.
REWARD = 4
GIFT = 5
# The occasion of an account that was referred, which it is once.
_REFERRED = f"{plans.OWN}referred"
_ACCOUNT_WELCOME = f"{plans.OWN}account"


class Refusal(enum.IntEnum):
    """Why a reward is not due; the numbers are those of the proto enum ClaimRewardResponse.Refusal."""

    WEEKLY_CAP = 1
    NOT_REACHED = 2
    ALREADY_REFERRED = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What became of a claim: the grants, or why there are none. `retry_ms` is for WEEKLY_CAP, the amounts for NOT_REACHED."""

    grants: Sequence[catalog.Grant] = ()
    replayed: bool = False
    refusal: Refusal | None = None
    retry_ms: int = 0
    spent_micros: int = 0
    required_micros: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClawBack:
    claw_back_id: uuid.UUID
    account_id: str
    address: str
    wallet: str
    amount_micros: int
    change_no: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Debit:
    """A transfer's record in the ledger: the giving end."""

    tenant_id: str
    txn: uuid.UUID
    amount_micros: int
    terms: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ungifted:
    """A transfer whose gift is still to be made, and the address of the giving account."""

    tenant_id: str
    txn: uuid.UUID
    address: str


class Movements:
    """Writes of one tenant. Errors of Postgres pass through as asyncpg raises them."""

    def __init__(self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int]) -> None:
        self._pool = connections
        self._clock_ms = clock_ms

    async def claim(
        self, tenant_id: str, account_id: str, reward: offers.Reward, referred_account_id: str = ""
    ) -> Claim:
        """Grants the reward if it is due, to both sides of a referral. A repeat answers the same grants.

        NotFoundError: no such account. FailedPreconditionError and OutOfRangeError: as for a grant.
        """
        now_ms = self._clock_ms()
        sides = [account_id, referred_account_id] if reward.kind == offers.REFERRAL else [account_id]
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            accounts = await catalog.lock_accounts(connection, tenant_id, sides)
            for field, side in zip(("account_id", "referred_account_id"), sides, strict=False):
                if side not in accounts:
                    raise errors.NotFoundError(f"{field}: no such account")
            occasions = _occasions(reward, account_id, referred_account_id, now_ms)
            numbers = {side: accounts[side]["account_no"] for side in sides}
            found = [
                await connection.fetchrow(_SQL["claim"], numbers[side], reward.reward_id, occasion)
                for side, occasion in occasions
            ]
            if found[0] is not None:
                return Claim(grants=[catalog.grant_of(row) for row in found if row is not None], replayed=True)
            refused = await self._refused(connection, reward, numbers, account_id, referred_account_id, now_ms)
            if refused is not None:
                return refused
            granted = [
                await _grant_reward(connection, accounts[side], tenant_id, side, reward, occasion, now_ms)
                for side, occasion in occasions
            ]
        return Claim(grants=granted)

    async def _refused(
        self,
        connection: Any,
        reward: offers.Reward,
        numbers: dict[str, int],
        account_id: str,
        referred_account_id: str,
        now_ms: int,
    ) -> Claim | None:
        account_no = numbers[account_id]
        if reward.kind == offers.REFERRAL:
            referred_no = numbers[referred_account_id]
            for number, occasion in ((referred_no, _REFERRED), (referred_no, account_id)):
                if await connection.fetchrow(_SQL["claim"], number, reward.reward_id, occasion) is not None:
                    return Claim(refusal=Refusal.ALREADY_REFERRED)
        if reward.kind == offers.DAY and reward.weekly_cap:
            since_ms = periods.week_start_ms(now_ms)
            until_ms = since_ms + periods.WEEK_MS
            count = await connection.fetchval(_SQL["claims_between"], account_no, reward.reward_id, since_ms, until_ms)
            if count >= reward.weekly_cap:
                return Claim(refusal=Refusal.WEEKLY_CAP, retry_ms=until_ms)
        if reward.lifetime_spent_micros:
            sums = await connection.fetchrow(_SQL["lifetime"], account_no)
            if sums["spent_micros"] < reward.lifetime_spent_micros:
                return Claim(
                    refusal=Refusal.NOT_REACHED,
                    spent_micros=sums["spent_micros"],
                    required_micros=reward.lifetime_spent_micros,
                )
        return None

    async def welcome(self, tenant_id: str, account_id: str, amount_micros: int) -> catalog.Grant | None:
        """The bonus of a new account, which it has once; None if the amount is 0 and it never had one."""
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = (await catalog.lock_accounts(connection, tenant_id, [account_id]))[account_id]
            row = await connection.fetchrow(_SQL["claim"], account["account_no"], _ACCOUNT_WELCOME, "")
            if row is not None:
                return catalog.grant_of(row)
            if amount_micros == 0:
                return None
            new = catalog.NewGrant(
                tenant_id=tenant_id,
                account_id=account_id,
                idempotency_key=f"{_ACCOUNT_WELCOME}:{account['account_no']}",
                wallet=offers.DEFAULT_WALLET,
                amount_micros=amount_micros,
                category=plans.PROMOTIONAL,
                source_id="welcome",
            )
            granted, _ = await catalog.grant_within(connection, account, new, now_ms)
            await _insert_claim(connection, account, granted, _ACCOUNT_WELCOME, "", now_ms)
        return granted

    async def claw_back(
        self, tenant_id: str, account_id: str, *, wallet: str, amount_micros: int, idempotency_key: str, reason: str
    ) -> tuple[ClawBack, bool]:
        """The claw-back, and whether it is a replay. Takes effect when the projector has brought it to Redis.

        AlreadyExistsError: the key was used with other content. NotFoundError: no such account.
        """
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = (await catalog.lock_accounts(connection, tenant_id, [account_id])).get(account_id)
            return await claw_back_within(
                connection,
                account,
                tenant_id,
                account_id,
                wallet=wallet,
                amount_micros=amount_micros,
                idempotency_key=idempotency_key,
                reason=reason,
                now_ms=self._clock_ms(),
            )

    async def debit(self, tenant_id: str, address: str, txn: uuid.UUID) -> Debit | None:
        """The transfer's record, None if the ledger does not have it yet."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["debit"], tenant_id, address, txn)
        if row is None:
            return None
        return Debit(
            tenant_id=row["tenant_id"], txn=row["txn"], amount_micros=row["charged_micros"], terms=row["terms"]
        )

    async def gift(self, tenant_id: str, txn: uuid.UUID) -> catalog.Grant | None:
        """The gift of a transfer; None if it is not made yet."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["grant_by_key"], tenant_id, gift_key(txn))
        return catalog.grant_of(row) if row is not None else None


async def claw_back_within(
    connection: Any,
    account: Any,
    tenant_id: str,
    account_id: str,
    *,
    wallet: str,
    amount_micros: int,
    idempotency_key: str,
    reason: str,
    now_ms: int,
    grant_ids: Sequence[uuid.UUID] = (),
) -> tuple[ClawBack, bool]:
    """As Movements.claw_back, in a transaction that has locked the account's row; None is an account that does not exist.

    It takes first what is left of `grant_ids`, in their order.
    """
    digest = catalog.digest_of(account_id, wallet, amount_micros, reason)
    row = await connection.fetchrow(_SQL["claw_back_by_key"], tenant_id, idempotency_key)
    if row is not None:
        if row["request_digest"] != digest:
            wanted = {"account_id": account_id, "wallet": wallet, "amount_micros": amount_micros}
            field = next((name for name, value in wanted.items() if row[name] != value), "reason")
            raise errors.AlreadyExistsError(f"idempotency_key: used before with another {field}")
        return _claw_back(row, account_id), True
    if account is None:
        raise errors.NotFoundError("account_id: no such account")
    account_no = account["account_no"]
    change_no = await connection.fetchval(_SQL["next_change"], account_no)
    claw_back_id = ids.uuid7(now_ms)
    head = (tenant_id, claw_back_id, account_no, wallet, amount_micros, reason)
    await connection.execute(_SQL["insert_claw_back"], *head, idempotency_key, digest, change_no)
    payload: dict[str, Any] = {"wallet": wallet, "amount_micros": amount_micros}
    if grant_ids:
        payload["grant_ids"] = [str(grant_id) for grant_id in grant_ids]
    kind = ledger.Kind.CLAW_BACK.value
    await connection.execute(_SQL["insert_change"], tenant_id, account_no, change_no, kind, claw_back_id, payload)
    row = await connection.fetchrow(_SQL["claw_back_by_key"], tenant_id, idempotency_key)
    return _claw_back(row, account_id), False


def gift_key(txn: uuid.UUID) -> str:
    """The idempotency key of a transfer's gift."""
    return f"{plans.OWN}transfer:{txn}"


async def ungifted(
    connections: asyncpg.Pool, *, since_ms: int, count_max: int, within_s: float | None = None
) -> list[Ungifted]:
    """Transfers of all tenants whose debit is in the ledger but whose gift is not made, of ids from `since_ms` on.

    `within_s`: only those that Postgres got in the last seconds; None: all, which reads every transfer since then.
    """
    arguments: list[Any] = [since_ms, f"{plans.OWN}transfer:", count_max]
    name = "ungifted"
    if within_s is not None:
        name = "ungifted_lately"
        arguments.append(within_s)
    rows = await connections.fetch(_SQL[name], *arguments)
    return [Ungifted(tenant_id=row["tenant_id"], txn=row["txn"], address=row["address"]) for row in rows]


async def reached(
    connections: asyncpg.Pool, tenant_id: str, reward: offers.Reward, *, count_max: int, within_s: float | None = None
) -> list[str]:
    """Ids of accounts that have reached the reward's lifetime spending, but not had it.

    `within_s`: only of those for which Postgres got a charge in the last seconds; None: all, which reads every account of the tenant.
    """
    arguments: list[Any] = [tenant_id, reward.lifetime_spent_micros, reward.reward_id, count_max]
    name = "reached"
    if within_s is not None:
        name = "reached_lately"
        arguments.append(within_s)
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL[name], *arguments)
    return [row["account_id"] for row in rows]


def _occasions(reward: offers.Reward, account_id: str, referred_account_id: str, now_ms: int) -> list[tuple[str, str]]:
    """Who gets it, and what tells this claim from others of the same account."""
    match reward.kind:
        case offers.REFERRAL:
            return [(account_id, referred_account_id), (referred_account_id, _REFERRED)]
        case offers.DAY:
            return [(account_id, periods.day_name(now_ms))]
        case _:
            return [(account_id, "")]


async def _grant_reward(
    connection: Any, account: Any, tenant_id: str, account_id: str, reward: offers.Reward, occasion: str, now_ms: int
) -> catalog.Grant:
    new = catalog.NewGrant(
        tenant_id=tenant_id,
        account_id=account_id,
        idempotency_key=f"{plans.OWN}reward:{account['account_no']}:{reward.reward_id}:{occasion}",
        wallet=reward.wallet,
        amount_micros=reward.amount_micros,
        category=REWARD,
        source_id=f"reward:{reward.reward_id}"[: ids.ID_BYTES_MAX],
    )
    granted, _ = await catalog.grant_within(connection, account, new, now_ms)
    await _insert_claim(connection, account, granted, reward.reward_id, occasion, now_ms)
    return granted


async def _insert_claim(
    connection: Any, account: Any, granted: catalog.Grant, reward_id: str, occasion: str, now_ms: int
) -> None:
    await connection.execute(
        _SQL["insert_claim"],
        granted.tenant_id,
        account["account_no"],
        reward_id,
        occasion,
        granted.grant_id,
        now_ms,
    )


def _claw_back(row: Any, account_id: str) -> ClawBack:
    return ClawBack(
        claw_back_id=row["claw_back_id"],
        account_id=account_id,
        address=row["address"],
        wallet=row["wallet"],
        amount_micros=row["amount_micros"],
        change_no=row["change_no"],
    )
