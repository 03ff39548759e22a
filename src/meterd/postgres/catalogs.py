"""The tenants' catalogs: an append-only history of which the last is in force."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import catalog, errors
from meterd.postgres import pool, sql

_SQL = sql.read("catalogs")

# Hears of each new catalog, with its tenant.
CHANNEL = "meterd_catalog"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """A catalog that came into force. `catalog_no` 0: of a tenant that never applied one."""

    tenant_id: str
    catalog_no: int
    catalog: catalog.Catalog
    applied_ms: int
    applied_by: str


async def latest(connections: asyncpg.Pool, tenant_id: str) -> Applied:
    """What is in force for the tenant."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return _latest(tenant_id, await connection.fetchrow(_SQL["latest"], tenant_id))


async def at(connections: asyncpg.Pool, tenant_id: str, catalog_no: int) -> Applied:
    """The catalog of that number, in force or not; NotFoundError if there is none."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["at"], tenant_id, catalog_no)
    if row is None:
        raise errors.NotFoundError(f"catalog: no number {catalog_no}")
    return applied(row)


async def apply(
    connections: asyncpg.Pool,
    tenant_id: str,
    new: catalog.Catalog,
    *,
    expected_version: str | None = None,
    applied_by: str = "",
) -> tuple[Applied, Applied]:
    """Puts `new` in force; answers what was before and what is now, which are the same if the content is.

    FailedPreconditionError if another version than the expected one is in force. Concurrent calls come one after the other.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["lock"], tenant_id)
        before = _latest(tenant_id, await connection.fetchrow(_SQL["latest"], tenant_id))
        check_expected(before.catalog, expected_version)
        if before.catalog_no and before.catalog.version == new.version:
            return before, before
        row = await connection.fetchrow(_SQL["insert"], tenant_id, new.version, catalog.to_document(new), applied_by)
        low_balance_micros = new.account.low_balance_micros
        # What Events.SetLowBalance has set since stays until the catalog says something else.
        if low_balance_micros != before.catalog.account.low_balance_micros:
            await connection.execute(_SQL["set_low_balance"], tenant_id, low_balance_micros or None)
        if new.limits != before.catalog.limits:
            # Workers bring them to the accounts.
            await connection.execute(_SQL["set_limits"], tenant_id, row["catalog_no"])
        return before, applied(row)


def check_expected(current: catalog.Catalog, expected_version: str | None) -> None:
    """FailedPreconditionError if `current` is not what the caller has seen; None is any."""
    if expected_version is not None and expected_version != current.version:
        is_now = current.version or "none"
        raise errors.FailedPreconditionError(f"expected_version: another catalog is in force: {is_now}")


async def newer(connection: Any, known: Mapping[str, int]) -> Sequence[Any]:
    """The catalogs in force of all tenants, without those of the numbers that are known, as rows for `applied`.

    For a connection that sees all tenants.
    """
    return await connection.fetch(_SQL["newer"], list(known), list(known.values()))


def _latest(tenant_id: str, row: Any) -> Applied:
    if row is None:
        return Applied(tenant_id=tenant_id, catalog_no=0, catalog=catalog.EMPTY, applied_ms=0, applied_by="")
    return applied(row)


def applied(row: Any) -> Applied:
    """A row as a value; FailedPreconditionError if a later meterd wrote it, or if it is not what its version names."""
    found = catalog.from_document(row["document"])
    if found.version != row["version"]:
        raise errors.FailedPreconditionError(f"catalog: {row['version']} has the content of {found.version}")
    return Applied(
        tenant_id=row["tenant_id"],
        catalog_no=row["catalog_no"],
        catalog=found,
        applied_ms=row["applied_ms"],
        applied_by=row["applied_by"],
    )
