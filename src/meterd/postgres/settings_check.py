"""Whether a Postgres may hold the ledger, as it is set up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from meterd.core import findings
from meterd.postgres import migrate, pool

# docs/OPERATING.md names it; older ones are not tested.
VERSION_MIN = 150_000
ROLES = ("meterd_app", "meterd_worker")
# Beside its pool a process has the flusher's two connections with session locks, and a migration or a command may want another.
CONNECTIONS_BESIDE_POOL = 3

_SETTINGS = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "default_transaction_read_only",
    "autovacuum",
    "server_encoding",
    "max_connections",
    "superuser_reserved_connections",
)
# Settings that must be on, and what happens otherwise.
_MUST_BE_ON = {
    "fsync": "a power loss or crash of the machine corrupts the ledger",
    "full_page_writes": "a page that was half written when the power failed stays so, and the ledger is corrupt",
}


async def check_postgres(dsn: str, *, connections_max: int = pool.POOL_SIZE_MAX) -> list[findings.Finding]:
    """All that was looked at, the good included; reads only. `connections_max` is the pool of one process.

    Raises one of pool.AWAY if Postgres cannot be reached.
    """
    connection = await pool.connect(dsn, application_name="meterd doctor")
    try:
        rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", _SETTINGS)
        settings: dict[str, str] = {row["name"]: row["setting"] for row in rows}
        found = [await _version(connection), await _standby(connection, settings)]
        found += [_switch(name, settings[name], why) for name, why in _MUST_BE_ON.items()]
        found += [_synchronous(settings), _encoding(settings), _autovacuum(settings)]
        found += [await _connections(connection, settings, connections_max), await _roles(connection)]
        found.append(await _clock(connection))
    finally:
        await connection.close()
    return [*found, await _migrations(dsn)]


def _finding(
    subject: str, seen: str, level: findings.Level = findings.Level.OK, why: str = "", change: str = ""
) -> findings.Finding:
    return findings.Finding(store="postgres", subject=subject, level=level, seen=seen, why=why, change=change)


async def _version(connection: Any) -> findings.Finding:
    row = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::integer AS number, current_setting('server_version') AS shown"
    )
    if row["number"] >= VERSION_MIN:
        return _finding("version", row["shown"])
    why = "the ledger is not tested on it"
    return _finding("version", row["shown"], findings.Level.UNSAFE, why, f"Postgres {VERSION_MIN // 10_000} or later")


async def _standby(connection: Any, settings: Mapping[str, str]) -> findings.Finding:
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        why = "a standby takes no writes, and what it answers may be old"
        return _finding("role", "standby", findings.Level.UNSAFE, why, "give the DSN of the primary")
    if settings["default_transaction_read_only"] == "on":
        why, change = "no record could be written", "ALTER SYSTEM SET default_transaction_read_only = off"
        return _finding("default_transaction_read_only", "on", findings.Level.UNSAFE, why, change)
    return _finding("role", "primary")


def _switch(name: str, value: str, why: str) -> findings.Finding:
    if value == "on":
        return _finding(name, value)
    return _finding(name, value, findings.Level.UNSAFE, why, f"ALTER SYSTEM SET {name} = on, and reload")


def _synchronous(settings: Mapping[str, str]) -> findings.Finding:
    name, value, change = (
        "synchronous_commit",
        settings["synchronous_commit"],
        "ALTER ROLE … SET synchronous_commit = on",
    )
    if value == "off":
        why = "Postgres confirms records that a crash then takes back, and Redis may have forgotten them by then"
        return _finding(name, value, findings.Level.UNSAFE, why, change)
    if value == "local" and settings["synchronous_standby_names"]:
        why = "a failover to a standby may lose records that were confirmed; they are in the outbox for its retention only"
        return _finding(name, value, findings.Level.WARN, why, change)
    return _finding(name, value)


def _encoding(settings: Mapping[str, str]) -> findings.Finding:
    value = settings["server_encoding"]
    if value == "UTF8":
        return _finding("server_encoding", value)
    why = "ids and metadata of callers are Unicode; a record with one that the database cannot hold is never written"
    return _finding("server_encoding", value, findings.Level.UNSAFE, why, "CREATE DATABASE … ENCODING 'UTF8'")


def _autovacuum(settings: Mapping[str, str]) -> findings.Finding:
    if settings["autovacuum"] == "on":
        return _finding("autovacuum", "on")
    why = "accounts are updated with each batch: their table grows, and the flusher slows down"
    return _finding("autovacuum", "off", findings.Level.WARN, why, "ALTER SYSTEM SET autovacuum = on, and reload")


async def _connections(connection: Any, settings: Mapping[str, str], connections_max: int) -> findings.Finding:
    most = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    # Our own are those of processes that may be the ones asked about.
    others: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'meterd%'"
    )
    needed = connections_max + CONNECTIONS_BESIDE_POOL
    seen = f"{most} for all, {others} taken by others, {needed} wanted by each process of meterd"
    if others + needed <= most:
        return _finding("max_connections", seen)
    why = "a process of meterd may be refused its connections, and records wait in Redis"
    change = "ALTER SYSTEM SET max_connections, or a smaller METERD_POSTGRES_CONNECTIONS_MAX"
    return _finding("max_connections", seen, findings.Level.WARN, why, change)


async def _roles(connection: Any) -> findings.Finding:
    rows = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[])", ROLES)
    have = {row["rolname"] for row in rows}
    if missing := [name for name in ROLES if name not in have]:
        why = "rows are shown and written under these roles, which keep one tenant's from another's"
        seen = f"{', '.join(missing)} missing"
        return _finding("roles", seen, findings.Level.UNSAFE, why, "meterd migrate, as a user with CREATEROLE")
    for name in ROLES:
        if not await connection.fetchval("SELECT pg_has_role(current_user, $1, 'MEMBER')", name):
            why = f"the user of the DSN cannot act as {name}"
            return _finding("roles", f"not a member of {name}", findings.Level.UNSAFE, why, f"GRANT {name} TO …")
    return _finding("roles", ", ".join(ROLES))


async def _clock(connection: Any) -> findings.Finding:
    before_ms = time.time_ns() // 1_000_000
    theirs_ms: int = await connection.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    after_ms = time.time_ns() // 1_000_000
    return findings.clock("postgres", theirs_ms - (before_ms + after_ms) // 2)


async def _migrations(dsn: str) -> findings.Finding:
    try:
        versions = await migrate.pending(dsn)
    except migrate.MigrationError as exc:
        return _finding("migrations", "unknown ones", findings.Level.UNSAFE, str(exc), "install the newer meterd")
    if not versions:
        return _finding("migrations", "up to date")
    why = "the tables are not those that this version of meterd writes to"
    return _finding("migrations", f"pending: {', '.join(versions)}", findings.Level.UNSAFE, why, "meterd migrate")
