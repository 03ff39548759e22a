"""Both stores, opened for one command."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg

from meterd import settings
from meterd.core import errors
from meterd.postgres import catalog, pool
from meterd.redis import ledger as redis_ledger
from meterd.redis import runner

# Longer than a restart of Redis with a large AOF would be no answer to a person who waits.
CONNECT_TIMEOUT_S = 10.0
# Loading accounts does several at once; see recovery.WARM_AT_ONCE_MAX.
CONNECTIONS_MAX = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """`connection` is apart from the pool, for session locks and long snapshots; no traffic uses `store`."""

    connections: asyncpg.Pool
    connection: Any
    run: runner.Runner
    store: redis_ledger.RedisLedger


@contextlib.asynccontextmanager
async def opened(postgres: str, redis_url: str, application_name: str) -> AsyncGenerator[Stores]:
    """UnavailableError if Redis is away, asyncpg's errors or OSError if Postgres is, FailedPreconditionError if it was not migrated."""
    async with contextlib.AsyncExitStack() as stack:
        connections = await pool.create(postgres, size_max=CONNECTIONS_MAX, application_name=application_name)
        stack.push_async_callback(connections.close)
        partitions = (await catalog.installation(connections)).partitions
        connection = await pool.connect(postgres, application_name=application_name)
        stack.push_async_callback(connection.close)
        run = runner.Runner(redis_url)
        await run.start()
        stack.push_async_callback(run.close)
        if not await run.wait_connected(CONNECT_TIMEOUT_S):
            raise errors.UnavailableError(f"Redis cannot be reached at {settings.masked(redis_url)}")
        store = redis_ledger.RedisLedger(run, partitions=partitions)
        yield Stores(connections=connections, connection=connection, run=run, store=store)
