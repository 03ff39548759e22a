"""The use cases of top-ups: what an account lets be asked for. Who sells the package acts on the event."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from meterd.core import errors, ids, money
from meterd.core import top_ups as core
from meterd.meter import catalogs, hydration
from meterd.postgres import top_ups
from meterd_client.v1 import accounts_pb2


class TopUps:
    """SetTopUp and DeleteTopUp for one tenant's request at a time; see accounts.proto."""

    def __init__(self, *, connections: asyncpg.Pool, catalogs_: catalogs.Catalogs, clock_ms: Callable[[], int]) -> None:
        self._connections = connections
        self._catalogs = catalogs_
        self._clock_ms = clock_ms

    async def set_top_up(self, tenant_id: str, request: accounts_pb2.SetTopUpRequest) -> accounts_pb2.SetTopUpResponse:
        """See Accounts.SetTopUp in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        wanted = request.top_up
        package_id = ids.checked_id(wanted.package_id, "top_up.package_id")
        if not 0 <= wanted.threshold_micros <= money.AMOUNT_MAX_MICROS:
            raise errors.OutOfRangeError("top_up.threshold_micros", f"must be from 0 to {money.AMOUNT_MAX_MICROS}")
        if not 1 <= wanted.per_month_max <= core.PER_MONTH_MAX:
            raise errors.InvalidArgumentError("top_up.per_month_max", f"must be from 1 to {core.PER_MONTH_MAX}")
        package = self._catalogs.of(tenant_id).package(package_id)
        if package is None or not package.active:
            raise errors.NotFoundError("top_up.package_id: the catalog has no such package, or it is not active")
        if wanted.threshold_micros >= package.amount_micros:
            raise errors.InvalidArgumentError("top_up.threshold_micros", "must be less than the package's credits")
        with hydration.postgres():
            made, replayed = await top_ups.set_top_up(
                self._connections,
                tenant_id,
                account_id,
                package_id=package_id,
                wallet=package.wallet,
                threshold_micros=wanted.threshold_micros,
                per_month_max=wanted.per_month_max,
                now_ms=self._clock_ms(),
            )
        return accounts_pb2.SetTopUpResponse(top_up=_top_up(made), replayed=replayed)

    async def delete_top_up(
        self, tenant_id: str, request: accounts_pb2.DeleteTopUpRequest
    ) -> accounts_pb2.DeleteTopUpResponse:
        """See Accounts.DeleteTopUp in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            replayed = await top_ups.delete_top_up(self._connections, tenant_id, account_id)
        return accounts_pb2.DeleteTopUpResponse(replayed=replayed)

    async def of_account(self, tenant_id: str, account_id: str) -> accounts_pb2.TopUp | None:
        """What the account has set, for GetAccount; None if it has nothing. Errors of Postgres pass through."""
        found = await top_ups.of_account(self._connections, tenant_id, account_id, self._clock_ms())
        return _top_up(found) if found is not None else None


def _top_up(one: core.TopUp) -> accounts_pb2.TopUp:
    return accounts_pb2.TopUp(
        package_id=one.package_id,
        wallet=one.wallet,
        threshold_micros=one.threshold_micros,
        per_month_max=one.per_month_max,
        requested_this_month=one.requested,
    )
