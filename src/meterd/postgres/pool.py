"""Connections to Postgres, with every limit given."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg

# Postgres in the same region answers a connection attempt in milliseconds; a caller should hear of an absent one before its own deadline.
CONNECT_TIMEOUT_S = 5
# Nothing in a request takes this long; workers' transactions are batches that take less than a second.
COMMAND_TIMEOUT_S = 30.0
STATEMENT_TIMEOUT_MS = 25_000
# Waiting longer for a row lock means that its holder is stuck.
LOCK_TIMEOUT_MS = 10_000
# A transaction that lost its client must not hold locks. Longer than a script call on Redis, which hydration makes inside one.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000
# Off the hot path few connections are needed; Postgres pays for each.
POOL_SIZE_MAX = 10
# What says that Postgres cannot be reached, or has just gone: asyncpg's errors are of several families then. InternalClientError is what it
# makes of an idle connection that Postgres has ended a moment ago.
AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
IDLE_CONNECTION_LIFETIME_S = 300.0


def _encode_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _decode_json(text: str) -> Any:
    return json.loads(text)


def json_bytes(value: Any) -> bytes:
    """The JSON text of a jsonb column's value; b"" for NULL."""
    return b"" if value is None else _encode_json(value).encode()


async def prepare(connection: Any) -> None:
    """Lets jsonb columns be read and written as Python values. Exact fractions stand in them as strings."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_json, decoder=_decode_json, format="text"
    )


def _settings(application_name: str) -> dict[str, str]:
    return {
        "application_name": application_name,
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
        "timezone": "UTC",
        # Short statements gain nothing from compiling, and the flusher's wide ones would be compiled anew each time.
        "jit": "off",
    }


async def connect(dsn: str, *, application_name: str = "meterd") -> asyncpg.Connection:
    """One connection outside any pool, such as a worker's that holds session locks. The caller closes it."""
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings=_settings(application_name),
    )
    await prepare(connection)
    return connection


async def create(dsn: str, *, size_max: int = POOL_SIZE_MAX, application_name: str = "meterd") -> asyncpg.Pool:
    """A pool; raises OSError or asyncpg.PostgresError where Postgres cannot be reached. The caller closes it."""
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size_max,
        max_inactive_connection_lifetime=IDLE_CONNECTION_LIFETIME_S,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        init=prepare,
        server_settings=_settings(application_name),
    )
    await pool
    return pool


@contextlib.asynccontextmanager
async def as_tenant(pool: asyncpg.Pool, tenant_id: str) -> AsyncGenerator[Any]:
    """A connection in a transaction that sees the rows of `tenant_id` only, whatever its statements say.

    Row-level security of the role meterd_app does it; role and tenant last as long as the transaction.
    """
    async with (
        pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection,
        connection.transaction(isolation="read_committed"),
    ):
        await connection.execute(
            "SELECT set_config('role', 'meterd_app', true), set_config('app.tenant', $1, true)", tenant_id
        )
        yield connection
