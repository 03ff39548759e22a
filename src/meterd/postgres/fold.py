"""The fold: an account as its flushed ledger records leave it, and the changes that Redis has yet to hear of."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ledger
from meterd.postgres import limits, pool, sql

_SQL = sql.read("fold")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Durable:
    """What the ledger says of a hold or charge. Without records, it had no effect before `fresh_ms`; later ones may not be flushed."""

    records: Sequence[ledger.Record]
    fresh_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """An account with changes that no flushed record confirms yet; `change_no` is the last of them."""

    account_no: int
    address: str
    change_no: int


@contextlib.asynccontextmanager
async def locked(connections: asyncpg.Pool, address: str) -> AsyncGenerator[Any]:
    """A connection in a transaction that holds the account's lock: one server at a time brings its state or changes to Redis."""
    acquired = connections.acquire(timeout=pool.CONNECT_TIMEOUT_S)
    async with acquired as connection, connection.transaction(isolation="read_committed"):
        await connection.execute(_SQL["lock"], address)
        yield connection


async def state(connection: Any, address: str) -> ledger.AccountState | None:
    """The account as of the last flushed record, holds left out, with today's settings; None if there is no such account.

    UnavailableError while some of its records could not be written: what they changed is missing here.
    """
    row = await connection.fetchrow(_SQL["state"], address)
    if row is None:
        return None
    if row["parked"]:
        raise errors.UnavailableError(
            "records of the account wait in outbox_dead; it cannot be loaded before they are dealt with"
        )
    defined = await limits.within(connection, row["account_no"])
    grants: dict[str, list[ledger.GrantState]] = {name: [] for name, _ in row["wallets"]}
    for wallet, grant_id, available, category, priority, effective_ms, expires_ms, change_no, revoked in row["grants"]:
        grants[wallet].append(
            ledger.GrantState(
                grant_id=uuid.UUID(grant_id),
                available_micros=available,
                category=category,
                priority=priority,
                effective_ms=effective_ms,
                expires_ms=expires_ms,
                created_no=change_no,
                revoked=revoked,
            )
        )
    return ledger.AccountState(
        tenant_id=row["tenant_id"],
        account_id=row["account_id"],
        address=row["address"],
        seq=row["last_seq"],
        last_txn=row["last_txn"],
        change_no=row["applied_change_no"],
        granted_micros=row["granted_micros"],
        spent_micros=row["spent_micros"],
        expired_micros=row["expired_micros"],
        revoked_micros=row["revoked_micros"],
        overage=ledger.Overage(row["overage_policy"]),
        overdraft_limit_micros=row["overdraft_limit_micros"],
        strict_expiry=row["strict_expiry"],
        frozen=row["frozen"],
        wallets=[
            ledger.WalletState(wallet=name, debt_micros=debt_micros, grants=grants[name])
            for name, debt_micros in row["wallets"]
        ],
        epoch=row["epoch"],
        plan=ledger.PlanRule(
            until_ms=row["plan_until_ms"],
            unlimited=row["plan_unlimited"],
            actions_per_day=row["plan_actions_per_day"],
            blocked_wallets=row["plan_blocked_wallets"],
        ),
        actions=row["actions"],
        actions_day=row["actions_day"],
        limits=[definition.limit for definition in defined],
        counters=await limits.counted(connection, row["account_no"], row["last_seq"], defined, row["now_ms"]),
    )


async def changes_after(connection: Any, address: str, change_no: int) -> list[ledger.Change]:
    """Every change numbered above `change_no`, in order."""
    return [_change(row) for row in await connection.fetch(_SQL["changes_after"], address, change_no)]


async def pending_changes(connection: Any, address: str) -> list[ledger.Change]:
    """Changes that no flushed record confirms, in order."""
    return [_change(row) for row in await connection.fetch(_SQL["pending"], address)]


async def accounts_pending(connection: Any, *, after_no: int, age_s: float, count_max: int) -> list[Pending]:
    """Up to `count_max` accounts numbered above `after_no`, in order, with a change that has been pending for `age_s`."""
    rows = await connection.fetch(_SQL["accounts_pending"], after_no, age_s, count_max)
    return [Pending(account_no=row["account_no"], address=row["address"], change_no=row["change_no"]) for row in rows]


async def try_projecting(connection: Any) -> bool:
    """Whether this transaction may project in the background; one may at a time, and it may until it ends."""
    return await connection.fetchval(_SQL["try_projecting"])


async def durable(connections: asyncpg.Pool, tenant_id: str, address: str, hold: uuid.UUID) -> Durable | None:
    """The records that ended a hold, or made a charge, in order; None if the tenant has no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["records"], tenant_id, address, hold)
    if not rows:
        return None
    return Durable(
        records=[record(row, address) for row in rows if row["txn"] is not None], fresh_ms=rows[0]["fresh_ms"]
    )


def record(row: Any, address: str) -> ledger.Record:
    """A ledger row (all columns, and at_ms) as the value that the scripts wrote. Its terms and detail are the same JSON, spaced anew."""
    return ledger.Record(
        entry_id=row["entry_id"],
        kind=ledger.Kind(row["kind"]),
        txn=row["txn"],
        prev_txn=row["prev_txn"],
        address=address,
        epoch=row["epoch"],
        seq=row["seq"],
        at_ms=row["at_ms"],
        wallet=row["wallet"],
        held_before_micros=row["held_before_micros"],
        granted_micros=row["granted_micros"],
        charged_micros=row["charged_micros"],
        returned_micros=row["returned_micros"],
        uncollected_micros=row["uncollected_micros"],
        expired_micros=row["expired_micros"],
        revoked_micros=row["revoked_micros"],
        drawn=_draws(row["drawn"]),
        expired=_draws(row["expired"]),
        revoked=_draws(row["revoked"]),
        balance_after_micros=row["balance_after_micros"],
        debt_after_micros=row["debt_after_micros"],
        wallet_held_after_micros=row["wallet_held_after_micros"],
        held_after_micros=row["held_after_micros"],
        change_no=row["change_no"],
        request_digest=row["request_digest"],
        overage=ledger.Overage(row["overage"]),
        terms=pool.json_bytes(row["terms"]),
        detail=pool.json_bytes(row["detail"]),
    )


def _draws(texts: Sequence[str]) -> tuple[ledger.Draw, ...]:
    pairs = [text.split(":") for text in texts]
    return tuple(ledger.Draw(grant_id=uuid.UUID(hex=grant), amount_micros=int(amount)) for grant, amount in pairs)


def _change(row: Any) -> ledger.Change:
    payload = row["payload"]
    match row["kind"]:
        case "G":
            return ledger.GrantChange(
                change_no=row["change_no"],
                grant_id=row["change_id"],
                wallet=payload["wallet"],
                amount_micros=payload["amount_micros"],
                category=payload["category"],
                priority=payload["priority"],
                effective_ms=payload["effective_ms"],
                expires_ms=payload["expires_ms"],
            )
        case "V":
            return ledger.RevokeChange(
                change_no=row["change_no"],
                revocation_id=row["change_id"],
                grant_id=uuid.UUID(payload["grant_id"]),
                wallet=payload["wallet"],
            )
        case "B":
            return ledger.ClawBackChange(
                change_no=row["change_no"],
                claw_back_id=row["change_id"],
                wallet=payload["wallet"],
                amount_micros=payload["amount_micros"],
            )
        case _:
            return ledger.SettingsChange(
                change_no=row["change_no"],
                change_id=row["change_id"],
                overage=ledger.Overage(payload["overage"]),
                overdraft_limit_micros=payload["overdraft_limit_micros"],
                strict_expiry=payload["strict_expiry"],
                frozen=payload["frozen"],
                # Changes from before there were plans have none.
                plan=ledger.PlanRule(**payload["plan"]) if "plan" in payload else ledger.NO_PLAN,
                limits=limits.of_payload(payload["limits"]) if "limits" in payload else None,
            )
