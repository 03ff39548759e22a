"""The catalog: what people decide about accounts. Every grant, revocation and change of settings is born here, and is durable at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ids, ledger, money
from meterd.postgres import pool, sql

_SQL = sql.read("catalog")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What was decided when the database was made."""

    partitions: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    account_no: int
    tenant_id: str
    account_id: str
    address: str
    partition: int
    overage: ledger.Overage
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    created_ms: int
    plan: ledger.PlanRule = ledger.NO_PLAN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NewAccount:
    tenant_id: str
    account_id: str
    overage: ledger.Overage = ledger.Overage.DRAW
    overdraft_limit_micros: int = 0
    strict_expiry: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NewGrant:
    """A grant as the caller asks for it. effective_ms None is now; expires_ms 0 is never."""

    tenant_id: str
    account_id: str
    idempotency_key: str
    wallet: str
    amount_micros: int
    category: int
    priority: int = 0
    effective_ms: int | None = None
    expires_ms: int = 0
    source_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A grant's row. Times in ms, expires_ms 0 is never. The counters are as far as the ledger was flushed."""

    grant_id: uuid.UUID
    tenant_id: str
    account_id: str
    address: str
    wallet: str
    category: int
    priority: int
    amount_micros: int
    effective_ms: int
    expires_ms: int
    source_id: str
    created_ms: int
    change_no: int
    spent_micros: int
    expired_micros: int
    revoked_micros: int
    is_revoked: bool
    is_applied: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    revocation_id: uuid.UUID
    grant: Grant
    reason: str
    change_no: int


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Catalog:
    """Reads and writes of one tenant's accounts and grants; row-level security keeps every statement inside the tenant.

    Errors of Postgres pass through as asyncpg raises them: the caller answers UNAVAILABLE, and a repeat with the same key has one effect.
    """

    def __init__(self, connections: asyncpg.Pool, *, partitions: int, clock_ms: Callable[[], int] = _now_ms) -> None:
        self._pool = connections
        self._partitions = partitions
        self._clock_ms = clock_ms

    async def create_tenant(self, tenant_id: str, name: str = "") -> None:
        """A repeat changes nothing."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            await connection.execute(_SQL["insert_tenant"], tenant_id, name)

    async def create_account(self, new: NewAccount) -> tuple[Account, bool]:
        """The account, and whether it was there before. AlreadyExistsError if it was created with other settings."""
        settings = (int(new.overage), new.overdraft_limit_micros, new.strict_expiry)
        digest = digest_of(*settings)
        address = ids.account_address(new.tenant_id, new.account_id)
        partition = ids.partition_of(address, self._partitions)
        async with pool.as_tenant(self._pool, new.tenant_id) as connection:
            tag: str = await connection.execute(
                _SQL["insert_account"], new.tenant_id, new.account_id, address, partition, *settings, digest
            )
            row = await connection.fetchrow(_SQL["account"], new.tenant_id, new.account_id)
        if row["request_digest"] != digest:
            raise errors.AlreadyExistsError("account_id: the account exists with other settings")
        return account_of(row), tag.endswith(" 0")

    async def account(self, tenant_id: str, account_id: str) -> Account:
        """NotFoundError if the tenant has no such account."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["account"], tenant_id, account_id)
        if row is None:
            raise errors.NotFoundError("account_id: no such account")
        return account_of(row)

    async def account_at(self, tenant_id: str, address: str) -> Account:
        """The tenant's account with that address; NotFoundError if there is none."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["account_at"], address)
        if row is None:
            raise errors.NotFoundError("account_id: no such account")
        return account_of(row)

    async def change_no(self, tenant_id: str, address: str) -> int:
        """The number of the account's last change; 0 if there is no such account."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            return await connection.fetchval(_SQL["change_no"], address) or 0

    async def grants(self, tenant_id: str, account_id: str) -> list[Grant]:
        """All grants of the account, oldest first."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            return [grant_of(row) for row in await connection.fetch(_SQL["grants_of"], tenant_id, account_id)]

    async def grant(self, tenant_id: str, grant_id: uuid.UUID) -> Grant:
        """NotFoundError if the tenant has no such grant."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["grant_by_id"], tenant_id, grant_id)
        if row is None:
            raise errors.NotFoundError("grant_id: no such grant")
        return grant_of(row)

    async def add_grant(self, new: NewGrant) -> tuple[Grant, bool]:
        """The grant, and whether it is a replay. The hot path gets it from the projector.

        AlreadyExistsError: the key was used with other content. NotFoundError: no such account. FailedPreconditionError: the wallet has
        as many grants as it may. OutOfRangeError: the account's grants would add up to more than 2^53 − 1.
        """
        try:
            return await self._add_grant(new)
        except asyncpg.UniqueViolationError:
            # The same key at the same moment for another account: by now it is there, and the second look finds it.
            return await self._add_grant(new)

    async def check_room(self, tenant_id: str, account_id: str, wallet: str, amount_micros: int) -> None:
        """What add_grant would raise now for a grant of that amount, without writing one."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["account"], tenant_id, account_id)
            if row is None:
                raise errors.NotFoundError("account_id: no such account")
            await _check_room(connection, row["account_no"], wallet, amount_micros)

    async def _add_grant(self, new: NewGrant) -> tuple[Grant, bool]:
        async with pool.as_tenant(self._pool, new.tenant_id) as connection:
            account = await connection.fetchrow(_SQL["lock_account"], new.tenant_id, new.account_id)
            return await grant_within(connection, account, new, self._clock_ms())

    async def revoke_grant(
        self, tenant_id: str, *, grant_id: uuid.UUID, idempotency_key: str, reason: str = ""
    ) -> tuple[Revocation, bool]:
        """The revocation, and whether it is a replay. Takes effect when the projector has brought it to Redis.

        AlreadyExistsError: the key was used with other content. NotFoundError: no such grant.
        """
        try:
            return await self._revoke_grant(tenant_id, grant_id, idempotency_key, reason)
        except asyncpg.UniqueViolationError:
            # As for grants.
            return await self._revoke_grant(tenant_id, grant_id, idempotency_key, reason)

    async def _revoke_grant(
        self, tenant_id: str, grant_id: uuid.UUID, idempotency_key: str, reason: str
    ) -> tuple[Revocation, bool]:
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            granted = await connection.fetchrow(_SQL["grant_by_id"], tenant_id, grant_id)
            if granted is not None:
                await connection.fetchrow(_SQL["lock_account_no"], granted["account_no"])
            return await revoke_within(
                connection,
                granted,
                tenant_id=tenant_id,
                grant_id=grant_id,
                idempotency_key=idempotency_key,
                reason=reason,
                now_ms=self._clock_ms(),
            )

    async def change_settings(
        self,
        tenant_id: str,
        account_id: str,
        *,
        overage: ledger.Overage | None = None,
        overdraft_limit_micros: int | None = None,
        strict_expiry: bool | None = None,
        frozen: bool | None = None,
    ) -> tuple[Account, bool]:
        """The account with the settings that were given, and whether it had them before; then nothing is written."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            locked = await connection.fetchrow(_SQL["lock_account"], tenant_id, account_id)
            if locked is None:
                raise errors.NotFoundError("account_id: no such account")
            before = account_of(await connection.fetchrow(_SQL["account"], tenant_id, account_id))
            after = dataclasses.replace(
                before,
                overage=before.overage if overage is None else overage,
                overdraft_limit_micros=before.overdraft_limit_micros
                if overdraft_limit_micros is None
                else overdraft_limit_micros,
                strict_expiry=before.strict_expiry if strict_expiry is None else strict_expiry,
                frozen=before.frozen if frozen is None else frozen,
            )
            if after == before:
                return before, True
            await settings_within(connection, after, self._clock_ms())
        return after, False


async def lock_accounts(connection: Any, tenant_id: str, account_ids: Collection[str]) -> dict[str, Any]:
    """The accounts' rows by id, locked in the order of their numbers until the transaction ends; those that exist."""
    rows = await connection.fetch(_SQL["lock_accounts"], tenant_id, sorted(account_ids))
    return {row["account_id"]: row for row in rows}


async def row_of(connection: Any, tenant_id: str, account_id: str) -> Any:
    """The row of an account that exists, for account_of."""
    return await connection.fetchrow(_SQL["account"], tenant_id, account_id)


async def grant_within(connection: Any, account: Any, new: NewGrant, now_ms: int) -> tuple[Grant, bool]:
    """As Catalog.add_grant, in a transaction that has locked the account's row; None is an account that does not exist."""
    digest = digest_of(
        new.account_id,
        new.wallet,
        new.amount_micros,
        new.category,
        new.priority,
        new.effective_ms,
        new.expires_ms,
        new.source_id,
    )
    row = await connection.fetchrow(_SQL["grant_by_key"], new.tenant_id, new.idempotency_key)
    if row is not None:
        if row["request_digest"] != digest:
            raise errors.AlreadyExistsError(_difference(new, row))
        return grant_of(row), True
    if account is None:
        raise errors.NotFoundError("account_id: no such account")
    await _check_room(connection, account["account_no"], new.wallet, new.amount_micros)
    change_no = await connection.fetchval(_SQL["next_change"], account["account_no"], new.amount_micros)
    await _insert_grant(connection, new, account["account_no"], change_no, digest, now_ms)
    return grant_of(await connection.fetchrow(_SQL["grant_by_key"], new.tenant_id, new.idempotency_key)), False


async def _insert_grant(
    connection: Any, new: NewGrant, account_no: int, change_no: int, digest: bytes, now_ms: int
) -> None:
    grant_id = ids.uuid7(now_ms)
    effective_ms = now_ms if new.effective_ms is None else new.effective_ms
    if new.expires_ms and new.expires_ms <= effective_ms:
        raise errors.InvalidArgumentError("expires_at", "must be after effective_at")
    await connection.execute(
        _SQL["insert_grant"],
        new.tenant_id,
        grant_id,
        account_no,
        new.wallet,
        new.category,
        new.priority,
        new.amount_micros,
        effective_ms,
        new.expires_ms,
        new.source_id,
        new.idempotency_key,
        digest,
        change_no,
    )
    payload = {
        "wallet": new.wallet,
        "amount_micros": new.amount_micros,
        "category": new.category,
        "priority": new.priority,
        "effective_ms": effective_ms,
        "expires_ms": new.expires_ms,
    }
    await connection.execute(_SQL["insert_change"], new.tenant_id, account_no, change_no, "G", grant_id, payload)


async def revoke_within(
    connection: Any,
    granted: Any,
    *,
    tenant_id: str,
    grant_id: uuid.UUID,
    idempotency_key: str,
    reason: str,
    now_ms: int,
) -> tuple[Revocation, bool]:
    """As Catalog.revoke_grant, in a transaction that has locked the account; `granted` is the grant's row, None if there is none."""
    digest = digest_of(str(grant_id), reason)
    row = await connection.fetchrow(_SQL["revocation_by_key"], tenant_id, idempotency_key)
    if row is not None:
        if row["request_digest"] != digest or granted is None:
            field = "reason" if row["grant_id"] == grant_id else "grant_id"
            raise errors.AlreadyExistsError(f"idempotency_key: used before with another {field}")
        return _revocation(row["revocation_id"], granted, row["reason"], row["change_no"]), True
    if granted is None:
        raise errors.NotFoundError("grant_id: no such grant")
    account_no = granted["account_no"]
    change_no = await connection.fetchval(_SQL["next_change"], account_no, 0)
    revocation_id = ids.uuid7(now_ms)
    await connection.execute(
        _SQL["insert_revocation"],
        tenant_id,
        revocation_id,
        grant_id,
        account_no,
        reason,
        idempotency_key,
        digest,
        change_no,
    )
    payload = {"grant_id": str(grant_id), "wallet": granted["wallet"]}
    await connection.execute(_SQL["insert_change"], tenant_id, account_no, change_no, "V", revocation_id, payload)
    return _revocation(revocation_id, granted, reason, change_no), False


async def settings_within(
    connection: Any, after: Account, now_ms: int, *, limits: Sequence[Mapping[str, Any]] | None = None
) -> int:
    """Writes all settings of the account, in a transaction that has locked it; answers the change's number.

    `limits` are all of the account's limits as the change is to carry them; None leaves them as they are.
    """
    settings = {
        "overage": int(after.overage),
        "overdraft_limit_micros": after.overdraft_limit_micros,
        "strict_expiry": after.strict_expiry,
        "frozen": after.frozen,
    }
    plan = {
        "until_ms": after.plan.until_ms,
        "unlimited": after.plan.unlimited,
        "actions_per_day": after.plan.actions_per_day,
        "blocked_wallets": list(after.plan.blocked_wallets),
    }
    await connection.execute(_SQL["update_settings"], after.account_no, *settings.values(), *plan.values())
    change_no: int = await connection.fetchval(_SQL["next_change"], after.account_no, 0)
    change_id = ids.uuid7(now_ms)
    payload: dict[str, Any] = {**settings, "plan": plan}
    if limits is not None:
        payload["limits"] = limits
    await connection.execute(
        _SQL["insert_change"], after.tenant_id, after.account_no, change_no, "S", change_id, payload
    )
    return change_no


async def rule_within(connection: Any, tenant_id: str, account_id: str, rule: ledger.PlanRule, now_ms: int) -> None:
    """Writes what the plan changes in the hot path, unless it is so already. As settings_within."""
    before = account_of(await connection.fetchrow(_SQL["account"], tenant_id, account_id))
    rule = dataclasses.replace(rule, blocked_wallets=list(rule.blocked_wallets))
    if before.plan != rule:
        await settings_within(connection, dataclasses.replace(before, plan=rule), now_ms)


async def installation(connections: asyncpg.Pool) -> Installation:
    """FailedPreconditionError if the database was never migrated."""
    try:
        row = await connections.fetchrow(_SQL["installation"])
    except asyncpg.UndefinedTableError as exc:
        raise errors.FailedPreconditionError("the database has no tables: run `meterd migrate`") from exc
    if row is None:
        raise errors.FailedPreconditionError("the database was not set up: run `meterd migrate`")
    return Installation(partitions=row["partitions"])


async def add_price_books(connections: asyncpg.Pool, contents: Mapping[str, object]) -> None:
    """Keeps price books for good, as JSON by version. A repeat changes nothing: the version names the content."""
    await connections.executemany(_SQL["insert_price_book"], list(contents.items()))


async def price_book(connections: asyncpg.Pool, version: str) -> Any:
    """The content of a price book; NotFoundError if it was never kept."""
    row = await connections.fetchrow(_SQL["price_book"], version)
    if row is None:
        raise errors.NotFoundError(f"price_version: no price book {version}")
    return row["content"]


async def latest_price_book(connections: asyncpg.Pool) -> str | None:
    """The version that was added last."""
    return await connections.fetchval(_SQL["latest_price_book"])


def digest_of(*values: object) -> bytes:
    """16 bytes over what a caller sent, to tell a repeat from another request with the same key."""
    return hashlib.sha256(json.dumps(values, separators=(",", ":")).encode()).digest()[:16]


async def _check_room(connection: Any, account_no: int, wallet: str, amount_micros: int) -> None:
    """Refuses what Redis would refuse, since a change that is durable has to be applied."""
    # Read anew: the transaction may have granted more since it locked the row.
    promised_micros = await connection.fetchval(_SQL["promised"], account_no)
    if promised_micros + amount_micros > money.AMOUNT_MAX_MICROS:
        raise errors.OutOfRangeError(
            "amount_micros", "the account's grants would add up to more than 2^53 − 1 micro-credits"
        )
    if await connection.fetchval(_SQL["live_grants"], account_no, wallet) >= ledger.GRANTS_PER_WALLET_MAX:
        raise errors.FailedPreconditionError(f"wallet: has {ledger.GRANTS_PER_WALLET_MAX} grants that are not used up")


def _difference(new: NewGrant, row: Any) -> str:
    """Names the field in which a repeated key's content differs."""
    for field in ("account_id", "wallet", "amount_micros", "category", "priority", "expires_ms", "source_id"):
        if getattr(new, field) != row[field]:
            name = field.replace("_ms", "_at")
            return f"idempotency_key: used before with another {name}"
    return "idempotency_key: used before with another effective_at"


def account_of(row: Any) -> Account:
    """The account of a row of the statement `account`."""
    return Account(
        account_no=row["account_no"],
        tenant_id=row["tenant_id"],
        account_id=row["account_id"],
        address=row["address"],
        partition=row["partition"],
        overage=ledger.Overage(row["overage_policy"]),
        overdraft_limit_micros=row["overdraft_limit_micros"],
        strict_expiry=row["strict_expiry"],
        frozen=row["frozen"],
        created_ms=row["created_ms"],
        plan=ledger.PlanRule(
            until_ms=row["plan_until_ms"],
            unlimited=row["plan_unlimited"],
            actions_per_day=row["plan_actions_per_day"],
            blocked_wallets=row["plan_blocked_wallets"],
        ),
    )


def grant_of(row: Any) -> Grant:
    """The grant of a row of the statement `grant_by_id`."""
    return Grant(
        grant_id=row["grant_id"],
        tenant_id=row["tenant_id"],
        account_id=row["account_id"],
        address=row["address"],
        wallet=row["wallet"],
        category=row["category"],
        priority=row["priority"],
        amount_micros=row["amount_micros"],
        effective_ms=row["effective_ms"],
        expires_ms=row["expires_ms"],
        source_id=row["source_id"],
        created_ms=row["created_ms"],
        change_no=row["change_no"],
        spent_micros=row["spent_micros"],
        expired_micros=row["expired_micros"],
        revoked_micros=row["revoked_micros"],
        is_revoked=row["revoked"],
        is_applied=row["applied_at"] is not None,
    )


def _revocation(revocation_id: uuid.UUID, granted: Any, reason: str, change_no: int) -> Revocation:
    return Revocation(revocation_id=revocation_id, grant=grant_of(granted), reason=reason, change_no=change_no)
