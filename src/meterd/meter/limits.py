"""Limits' use cases: decided in Postgres, brought to Redis, and read from where they are counted."""

from __future__ import annotations

from collections.abc import Sequence

from meterd.core import errors, ids, limits
from meterd.meter import hydration, reach, replies
from meterd.postgres import limits as definitions
from meterd.redis import ledger as redis_ledger
from meterd_client.v1 import accounts_pb2, types_pb2

# Those that have used most tell what a limit does; the rest only how many they are.
USES_SHOWN_MAX = 100

_WINDOWLESS = types_pb2.LIMIT_METRIC_OPEN_HOLDS


class Limits:
    """SetLimit, DeleteLimit and ListLimits for one tenant's request at a time; see accounts.proto."""

    def __init__(
        self,
        *,
        definitions_: definitions.Limits,
        store: redis_ledger.RedisLedger,
        hydrator: hydration.Hydrator,
        reach_: reach.Reach,
    ) -> None:
        self._definitions = definitions_
        self._store = store
        self._hydrator = hydrator
        self._reach = reach_

    async def set_limit(self, tenant_id: str, request: accounts_pb2.SetLimitRequest) -> accounts_pb2.SetLimitResponse:
        """See Accounts.SetLimit in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        new = _new_limit(request.limit)
        with hydration.postgres():
            account, made, replayed = await self._definitions.set_limit(tenant_id, account_id, new)
        projected = await self._reach.reach(tenant_id, account.address)
        return accounts_pb2.SetLimitResponse(limit=_limit(made), replayed=replayed, projected=projected)

    async def delete_limit(
        self, tenant_id: str, request: accounts_pb2.DeleteLimitRequest
    ) -> accounts_pb2.DeleteLimitResponse:
        """See Accounts.DeleteLimit in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        limit_id = ids.checked_id(request.limit_id, "limit_id")
        with hydration.postgres():
            account, replayed = await self._definitions.delete_limit(tenant_id, account_id, limit_id)
        projected = await self._reach.reach(tenant_id, account.address)
        return accounts_pb2.DeleteLimitResponse(replayed=replayed, projected=projected)

    async def list_limits(
        self, tenant_id: str, request: accounts_pb2.ListLimitsRequest
    ) -> accounts_pb2.ListLimitsResponse:
        """See Accounts.ListLimits in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        address = ids.account_address(tenant_id, account_id)
        uses = await self._uses(tenant_id, address)
        with hydration.postgres():
            defined = await self._definitions.defined(tenant_id, account_id)
        response = accounts_pb2.ListLimitsResponse()
        for one in defined:
            own = [use for use in uses if use.limit_no == one.limit.limit_no and (use.used or use.over)]
            own.sort(key=lambda use: (-use.used, use.value, use.operation))
            response.limits.append(_status(one, own))
        return response

    async def _uses(self, tenant_id: str, address: str) -> Sequence[limits.Use]:
        try:
            return await self._store.limit_uses(address)
        except errors.AccountNotLoadedError:
            await self._hydrator.hydrate(tenant_id, address)
            return await self._store.limit_uses(address)


def _new_limit(message: accounts_pb2.Limit) -> definitions.NewLimit:
    if not 1 <= message.subject <= max(limits.Subject):
        raise errors.InvalidArgumentError("limit.subject", "must be one of the named values")
    if not 1 <= message.metric <= max(limits.Metric):
        raise errors.InvalidArgumentError("limit.metric", "must be one of the named values")
    window = message.window
    if message.metric == _WINDOWLESS:
        if window not in (types_pb2.LIMIT_WINDOW_UNSPECIFIED, types_pb2.LIMIT_WINDOW_LIFETIME):
            raise errors.InvalidArgumentError(
                "limit.window", "must be unset: open holds are counted while they are open"
            )
        window = types_pb2.LIMIT_WINDOW_LIFETIME
    if not 1 <= window <= max(limits.Window):
        raise errors.InvalidArgumentError("limit.window", "must be one of the named values")
    value = ids.checked_text(message.value, "limit.value", ids.ID_BYTES_MAX)
    if value and message.subject == types_pb2.LIMIT_SUBJECT_ACCOUNT:
        raise errors.InvalidArgumentError("limit.value", "must be empty: the account is the request's")
    if message.amount < 0:
        raise errors.InvalidArgumentError("limit.amount", "must not be negative")
    if message.amount > limits.CAP_MAX:
        raise errors.OutOfRangeError("limit.amount", f"must be at most {limits.CAP_MAX}")
    return definitions.NewLimit(
        limit_id=ids.checked_id(message.limit_id, "limit.limit_id"),
        subject=limits.Subject(message.subject),
        value=value,
        metric=limits.Metric(message.metric),
        window=limits.Window(window),
        cap=message.amount,
        observe=message.observe,
    )


def _limit(one: definitions.Definition) -> accounts_pb2.Limit:
    limit = one.limit
    is_windowless = limit.metric == limits.Metric.HOLDS
    return accounts_pb2.Limit(
        limit_id=limit.limit_id,
        subject=replies.LIMIT_SUBJECTS[limit.subject],
        value=limit.value,
        metric=replies.LIMIT_METRICS[limit.metric],
        window=types_pb2.LIMIT_WINDOW_UNSPECIFIED if is_windowless else replies.LIMIT_WINDOWS[limit.window],
        amount=limit.cap,
        observe=limit.observe,
        counts_from=replies.timestamp(one.counts_from_ms),
    )


def _status(one: definitions.Definition, uses: Sequence[limits.Use]) -> accounts_pb2.LimitStatus:
    return accounts_pb2.LimitStatus(
        limit=_limit(one),
        uses=[
            accounts_pb2.LimitUse(
                value=use.value,
                operation_id=use.operation,
                used=use.used,
                would_deny_count=use.over,
                resets_at=replies.timestamp(use.resets_ms) if use.resets_ms else None,
            )
            for use in uses[:USES_SHOWN_MAX]
        ],
        use_count=len(uses),
    )
