"""Limits' use cases: decided in Postgres, brought to Redis, and read from where they are counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from meterd.core import errors, ids, limits
from meterd.meter import catalogs, hydration, reach, replies
from meterd.postgres import limits as definitions
from meterd.redis import ledger as redis_ledger
from meterd_client.v1 import accounts_pb2, types_pb2

# Those that have used most tell what a limit does; the rest only how many they are.
USES_SHOWN_MAX = 100
# A new catalog's limits are on their way to the accounts after this time.
FOLLOW_INTERVAL_S = 1.0
# Some hundred accounts a second; more at once would keep the database's connections from calls.
FOLLOW_BATCH_MAX = 200
FOLLOW_AT_ONCE = 4

_log = logging.getLogger(__name__)
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
        catalogs_: catalogs.Catalogs,
    ) -> None:
        self._catalogs = catalogs_
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

    async def begin(self, tenant_id: str, account_id: str) -> None:
        """Gives a new account the limits of the catalog. If this server has not heard of them yet, the follower does."""
        if self._catalogs.of(tenant_id).limits:
            await self._definitions.follow(tenant_id, account_id)

    async def follow(self, account: definitions.Behind) -> None:
        """Brings an account's limits up to its tenant's catalog, for the follower. Errors pass through."""
        await self._definitions.follow(account.tenant_id, account.account_id)
        await self._reach.reach(account.tenant_id, account.address)

    async def _uses(self, tenant_id: str, address: str) -> Sequence[limits.Use]:
        try:
            return await self._store.limit_uses(address)
        except errors.AccountNotLoadedError:
            await self._hydrator.hydrate(tenant_id, address)
            return await self._store.limit_uses(address)


class Follower:
    """Brings the limits of new catalogs to all accounts. `run` it as a task, any number of times: a repeat changes nothing."""

    def __init__(self, connections: asyncpg.Pool, *, limits_: Limits) -> None:
        self._connections = connections
        self._limits = limits_
        self._after_no = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Follows until `stop`. Outages are retried for ever."""
        while not stop.is_set():
            try:
                if await self.round() == FOLLOW_BATCH_MAX:
                    continue
            except hydration.POSTGRES_ERRORS as exc:
                _log.warning("limits of catalogs wait for Postgres: %s: %s", type(exc).__name__, exc)
            try:
                await asyncio.wait_for(stop.wait(), FOLLOW_INTERVAL_S)
            except TimeoutError:
                continue

    async def round(self) -> int:
        """One batch; answers how many accounts it looked at. Those that fail have their turn again after all others."""
        found = await definitions.behind(self._connections, self._after_no, count_max=FOLLOW_BATCH_MAX)
        for at in range(0, len(found), FOLLOW_AT_ONCE):
            await asyncio.gather(*map(self._follow, found[at : at + FOLLOW_AT_ONCE]))
        self._after_no = found[-1].account_no if len(found) == FOLLOW_BATCH_MAX else 0
        return len(found)

    async def _follow(self, account: definitions.Behind) -> None:
        try:
            await self._limits.follow(account)
        except (errors.MeterdError, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as exc:
            _log.warning("limits of account %s wait: %s", account.account_id, exc)


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
        from_catalog=one.from_catalog,
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
