"""Top-ups: what accounts have set, and the requests that follow from ledger rows in the transaction that writes them."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg

from meterd.core import errors, top_ups
from meterd.core import events as core_events
from meterd.postgres import catalog, events, pool, records, sql

_SQL = sql.read("top_ups")


async def set_top_up(
    connections: asyncpg.Pool,
    tenant_id: str,
    account_id: str,
    *,
    package_id: str,
    wallet: str,
    threshold_micros: int,
    per_month_max: int,
    now_ms: int,
) -> tuple[top_ups.TopUp, bool]:
    """The top-up, and whether it was so before; then nothing is written. A wallet that is low already is asked for at once.

    The month's requests are kept, whatever is changed. NotFoundError: no such account.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        account_no = await _locked(connection, tenant_id, account_id)
        row = await connection.fetchrow(_SQL["of_account"], account_no)
        before = _top_up(row) if row is not None else None
        wanted = top_ups.TopUp(
            active=True,
            package_id=package_id,
            wallet=wallet,
            threshold_micros=threshold_micros,
            per_month_max=per_month_max,
            armed=True,
            month=before.month if before is not None else top_ups.month_of(now_ms),
            requested=before.requested if before is not None else 0,
        )
        if before is not None and before.active and before.terms == wanted.terms:
            return top_ups.in_month(before, now_ms), True
        left_micros: int = await connection.fetchval(_SQL["left"], account_no, wallet)
        after, is_requested = top_ups.step(wanted, left_micros, now_ms)
        await _set(connection, tenant_id, account_no, after)
        if is_requested:
            draft = top_ups.draft(
                after,
                tenant_id=tenant_id,
                account_no=account_no,
                account_id=account_id,
                left_micros=left_micros,
                transaction_id="",
                at_ms=now_ms,
            )
            await events.add(connection, [draft], now_ms)
    return after, False


async def delete_top_up(connections: asyncpg.Pool, tenant_id: str, account_id: str) -> bool:
    """Whether there was none. NotFoundError: no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        account_no = await _locked(connection, tenant_id, account_id)
        row = await connection.fetchrow(_SQL["of_account"], account_no)
        if row is None or not row["active"]:
            return True
        await _set(connection, tenant_id, account_no, dataclasses.replace(_top_up(row), active=False))
    return False


async def of_account(connections: asyncpg.Pool, tenant_id: str, account_id: str, now_ms: int) -> top_ups.TopUp | None:
    """What the account has set; None if it has nothing."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["of_tenants_account"], tenant_id, account_id)
    return top_ups.in_month(_top_up(row), now_ms) if row is not None else None


async def decide(connection: Any, columns: records.Columns, owners: Sequence[events.Owner]) -> None:
    """Writes the requests that follow from these new ledger rows.

    Called in the transaction that inserts the rows, with their accounts locked.
    """
    rows = await connection.fetch(_SQL["active"], sorted({owner.no for owner in owners}))
    if not rows:
        return
    found = {row["account_no"]: (_top_up(row), str(row["account_id"])) for row in rows}
    before = dict(found)
    drafts: list[core_events.Draft] = []
    values = columns.values
    for at, owner in enumerate(owners):
        if owner.no not in found or values[b"k"][at] == events.SETTINGS:
            continue
        top_up, account_id = found[owner.no]
        if values[b"w"][at].decode() != top_up.wallet:
            continue
        left_micros, at_ms = int(values[b"b"][at]) + int(values[b"q"][at]), int(values[b"at"][at])
        after, is_requested = top_ups.step(top_up, left_micros, at_ms)
        found[owner.no] = after, account_id
        if is_requested:
            drafts.append(
                top_ups.draft(
                    after,
                    tenant_id=owner.tenant_id,
                    account_no=owner.no,
                    account_id=account_id,
                    left_micros=left_micros,
                    transaction_id=values[b"k"][at].decode() + str(uuid.UUID(hex=values[b"t"][at].decode())),
                    at_ms=at_ms,
                )
            )
    moved = [(no, one.armed, one.month, one.requested) for no, (one, _) in found.items() if one != before[no][0]]
    if moved:
        await connection.execute(_SQL["move"], *map(list, zip(*sorted(moved), strict=True)))
    await events.add(connection, drafts, time.time_ns() // 1_000_000)


async def _locked(connection: Any, tenant_id: str, account_id: str) -> int:
    locked = await catalog.lock_accounts(connection, tenant_id, [account_id])
    if account_id not in locked:
        raise errors.NotFoundError("account_id: no such account")
    return locked[account_id]["account_no"]


async def _set(connection: Any, tenant_id: str, account_no: int, one: top_ups.TopUp) -> None:
    state = (one.armed, one.month, one.requested)
    await connection.execute(_SQL["set"], tenant_id, account_no, one.active, *one.terms, *state)


def _top_up(row: Any) -> top_ups.TopUp:
    return top_ups.TopUp(
        active=row["active"],
        package_id=row["package_id"],
        wallet=row["wallet"],
        threshold_micros=row["threshold_micros"],
        per_month_max=row["per_month_max"],
        armed=row["armed"],
        month=row["month"],
        requested=row["requested"],
    )
