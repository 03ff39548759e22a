"""Numbered migrations in dbmate's file format, applied once each under a lock."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from meterd.postgres import pool

PARTITIONS_DEFAULT = 64
# "meterd" in a 64-bit key: whoever migrates a database holds it.
LOCK_KEY = 0x6D6574657264
# Building an index on a large ledger takes long; nobody waits for it on a request.
MIGRATION_TIMEOUT_S = 3600.0

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")
_DIRECTORY = pathlib.Path(__file__).parent / "migrations"


class MigrationError(Exception):
    """The database's schema and this program's migrations do not fit together."""


def versions() -> dict[str, str]:
    """The SQL that brings up each version, in order."""
    found: dict[str, str] = {}
    for path in sorted(_DIRECTORY.iterdir()):
        if not (match := _FILE.match(path.name)):
            continue
        if match[1] in found:
            raise MigrationError(f"two migrations are numbered {match[1]}")
        found[match[1]] = _section(path.read_text(encoding="utf-8"), "up")
    return found


def _section(text: str, name: str) -> str:
    parts = re.split(r"^-- migrate:(up|down).*\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return sections[name]


async def pending(dsn: str) -> list[str]:
    """Versions that the database does not have yet. MigrationError if it has ones that this program does not know."""
    connection = await pool.connect(dsn, application_name="meterd migrate")
    try:
        return await _pending(connection)
    finally:
        await connection.close()


async def migrate(dsn: str, *, partitions: int = PARTITIONS_DEFAULT) -> list[str]:
    """Brings the database up to date and answers the versions that were applied. A repeat applies none.

    `partitions` counts the first time only. Any number of servers may call it at once.
    """
    connection = await pool.connect(dsn, application_name="meterd migrate")
    try:
        await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=MIGRATION_TIMEOUT_S)
        # The table that dbmate keeps too.
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (version varchar(128) PRIMARY KEY)")
        applied: list[str] = []
        texts = versions()
        for version in await _pending(connection):
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(texts[version], timeout=MIGRATION_TIMEOUT_S)
                await connection.execute("INSERT INTO schema_migrations (version) VALUES ($1)", version)
            applied.append(version)
        await _install(connection, partitions)
        return applied
    finally:
        await connection.close()


async def _pending(connection: Any) -> list[str]:
    if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        return list(versions())
    rows = await connection.fetch("SELECT version FROM schema_migrations")
    have = {row["version"] for row in rows}
    known = versions()
    if unknown := sorted(have - known.keys()):
        raise MigrationError(
            f"the database has migrations that this version of meterd does not know: {', '.join(unknown)}"
        )
    return [version for version in known if version not in have]


async def _install(connection: Any, partitions: int) -> None:
    async with connection.transaction(isolation="read_committed"):
        # ON CONFLICT: the first migration decides, a repeat changes nothing.
        await connection.execute("INSERT INTO installation (partitions) VALUES ($1) ON CONFLICT DO NOTHING", partitions)
        await connection.execute(
            "INSERT INTO partitions (partition) SELECT generate_series(0, i.partitions - 1) FROM installation AS i ON CONFLICT DO NOTHING"
        )
        await connection.execute("SELECT meterd_create_months(3)")
