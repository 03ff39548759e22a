"""Reads of accounts, transactions and settlements, and the folds that verification holds against them."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ledger
from meterd.postgres import fold, pool, sql

_SQL = sql.read("queries")

# Verification reads whole ledgers; it is bounded by its snapshot, not by a statement.
VERIFY_STATEMENT_TIMEOUT_S = 3600.0
CHECKS = ("broken_accounts", "broken_rows", "broken_grants", "broken_wallets", "double_endings", "broken_sums")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far Postgres is with an account. `last_ms` is when its last flushed record was made, 0 without one."""

    account_no: int
    address: str
    partition: int
    last_seq: int
    is_parked: bool
    cursor: str
    last_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantRow:
    """What only Postgres keeps of a grant."""

    grant_id: uuid.UUID
    amount_micros: int
    source_id: str
    created_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Transaction:
    """A ledger record; for a revocation with the grant that it takes back."""

    record: ledger.Record
    revoked_grant_id: uuid.UUID | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settlements:
    """The records of one hold or charge in order, and how far Postgres is with its account."""

    standing: Standing
    transactions: Sequence[Transaction]


async def standing(connections: asyncpg.Pool, tenant_id: str, account_id: str) -> Standing:
    """NotFoundError if the tenant has no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return await _standing(connection, tenant_id, account_id)


async def _standing(connection: Any, tenant_id: str, account_id: str) -> Standing:
    row = await connection.fetchrow(_SQL["standing"], tenant_id, account_id)
    if row is None:
        raise errors.NotFoundError("account_id: no such account")
    return Standing(
        account_no=row["account_no"],
        address=row["address"],
        partition=row["partition"],
        last_seq=row["last_seq"],
        is_parked=row["parked"],
        cursor=row["cursor"],
        last_ms=row["last_ms"],
    )


async def grants(
    connections: asyncpg.Pool, tenant_id: str, grant_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, GrantRow]:
    """The tenant's grants of these ids."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["grants"], tenant_id, grant_ids)
    return {
        row["grant_id"]: GrantRow(
            grant_id=row["grant_id"],
            amount_micros=row["amount_micros"],
            source_id=row["source_id"],
            created_ms=row["created_ms"],
        )
        for row in rows
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Revoked:
    """What the flushed ledger took back of a grant, and from where on its records are in the outbox."""

    revoked_micros: int
    address: str
    partition: int
    last_seq: int
    cursor: str


async def revoked(connections: asyncpg.Pool, tenant_id: str, grant_id: uuid.UUID) -> Revoked:
    """NotFoundError if the tenant has no such grant."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["revoked"], tenant_id, grant_id)
    if row is None:
        raise errors.NotFoundError("grant_id: no such grant")
    return Revoked(
        revoked_micros=row["revoked_micros"],
        address=row["address"],
        partition=row["partition"],
        last_seq=row["last_seq"],
        cursor=row["cursor"],
    )


async def transactions(
    connections: asyncpg.Pool, tenant_id: str, account_id: str, *, before_seq: int, count_max: int
) -> list[Transaction]:
    """Up to `count_max` flushed records numbered below `before_seq`, newest first. NotFoundError if there is no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        found = await _standing(connection, tenant_id, account_id)
        rows = await connection.fetch(_SQL["transactions"], found.account_no, before_seq, count_max)
    return [_transaction(row, found.address) for row in rows]


async def settlements(connections: asyncpg.Pool, tenant_id: str, account_id: str, txn: uuid.UUID) -> Settlements:
    """The flushed records of a hold or charge. NotFoundError if there is no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        found = await _standing(connection, tenant_id, account_id)
        rows = await connection.fetch(_SQL["settlements"], found.account_no, txn)
    return Settlements(standing=found, transactions=[_transaction(row, found.address) for row in rows])


def _transaction(row: Any, address: str) -> Transaction:
    return Transaction(record=fold.record(row, address), revoked_grant_id=row["revoked_grant_id"])


async def accounts_counts(connection: Any) -> dict[int, int]:
    """Number of accounts by partition, where there are any."""
    return {row["partition"]: row["count"] for row in await connection.fetch(_SQL["accounts_count"])}


async def addresses(connection: Any, partition: int) -> list[tuple[str, str]]:
    """Tenant and address of all accounts of a partition."""
    return [(row["tenant_id"], row["address"]) for row in await connection.fetch(_SQL["addresses"], partition)]


async def known_addresses(connection: Any, asked: Sequence[str]) -> set[str]:
    """Those of `asked` that are accounts."""
    return {row["address"] for row in await connection.fetch(_SQL["known_addresses"], asked)}


@contextlib.asynccontextmanager
async def snapshot(connection: Any) -> AsyncGenerator[None]:
    """All reads inside see one moment of Postgres, and may take long."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SELECT set_config('statement_timeout', '0', true)")
        yield


async def accounts_of(connection: Any, partition: int, batch_size: int) -> AsyncIterator[list[Any]]:
    """The partition's account rows in batches, by a cursor of the surrounding snapshot."""
    cursor = await connection.cursor(_SQL["accounts_of_partition"], partition)
    while rows := await cursor.fetch(batch_size):
        yield rows


Debts = dict[str, int]
GrantsLeft = dict[tuple[str, uuid.UUID], int]


async def left(connection: Any, account_nos: Sequence[int]) -> tuple[dict[int, Debts], dict[int, GrantsLeft]]:
    """Debts by wallet, and what is left of grants (held or not) by wallet and grant; both by account number."""
    debts: dict[int, Debts] = {}
    for row in await connection.fetch(_SQL["wallets_of"], account_nos, timeout=VERIFY_STATEMENT_TIMEOUT_S):
        debts.setdefault(row["account_no"], {})[row["wallet"]] = row["debt_micros"]
    remains: dict[int, GrantsLeft] = {}
    for row in await connection.fetch(_SQL["grants_left"], account_nos, timeout=VERIFY_STATEMENT_TIMEOUT_S):
        remains.setdefault(row["account_no"], {})[row["wallet"], row["grant_id"]] = row["left_micros"]
    return debts, remains


async def ledger_count(connection: Any, account_nos: Sequence[int]) -> int:
    return await connection.fetchval(_SQL["ledger_count"], account_nos, timeout=VERIFY_STATEMENT_TIMEOUT_S)


async def broken(connection: Any, check: str, account_nos: Sequence[int], count_max: int) -> list[Mapping[str, Any]]:
    """Up to `count_max` offences that one of CHECKS finds among the accounts."""
    assert check in CHECKS
    return await connection.fetch(_SQL[check], account_nos, count_max, timeout=VERIFY_STATEMENT_TIMEOUT_S)


async def broken_tenant_sums(connection: Any, partition: int, count_max: int) -> list[Mapping[str, Any]]:
    """Up to `count_max` daily sums of tenants that are not those of the partition's accounts."""
    statement = _SQL["broken_tenant_sums"]
    return await connection.fetch(statement, partition, count_max, timeout=VERIFY_STATEMENT_TIMEOUT_S)


async def dead(connection: Any, count_max: int) -> tuple[int, list[Mapping[str, Any]]]:
    """The number of outbox entries that could not be written, and the first of them."""
    return await connection.fetchval(_SQL["dead_count"]), await connection.fetch(_SQL["dead"], count_max)
