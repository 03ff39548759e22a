"""`meterd doctor`: what is unsafe about the stores, why, and what to change."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Sequence

import asyncpg
import click

from meterd import settings
from meterd.cli import console
from meterd.core import errors, findings
from meterd.meter import fence
from meterd.postgres import partitions, pool
from meterd.postgres import settings_check as postgres_check
from meterd.redis import audit, keys, runner
from meterd.redis import settings_check as redis_check

CONNECT_TIMEOUT_S = 3.0
# The flusher has a record in Postgres within a second; one that waits longer waits for something.
OUTBOX_AGE_MAX_MS = 60_000
# So many fenced partitions are named; what is wrong with one is mostly wrong with all.
REASONS_SHOWN_MAX = 3

_COLOURS = {findings.Level.OK: "green", findings.Level.WARN: "yellow", findings.Level.UNSAFE: "red"}


@click.command("doctor", short_help="Check the settings of Redis and Postgres.")
@console.postgres_option
@console.redis_option
@click.option("--strict", is_flag=True, help="Fail on warnings as well.")
@click.option(
    "--connections",
    "connections_max",
    envvar="METERD_POSTGRES_CONNECTIONS_MAX",
    type=click.IntRange(1),
    default=pool.POOL_SIZE_MAX,
    show_default=True,
    help="Postgres connections of one process. [env: METERD_POSTGRES_CONNECTIONS_MAX]",
)
@console.json_option
@console.guarded
def doctor(postgres: str, redis_url: str, strict: bool, connections_max: int, as_json: bool) -> None:
    """Say what is unsafe about the stores, why, and what to change. Nothing is written.

    Example: meterd doctor --redis redis://localhost:6379/0 --postgres postgresql://meterd@localhost/meterd

    Exit status: 0 if all is safe, 1 if anything is unsafe (--strict: or warned of), 3 if a store is away.
    """
    found, away = asyncio.run(_examine(postgres, redis_url, connections_max))
    if as_json:
        console.print_json(
            {"safe": not away and not findings.unsafe(found), "away": away}
            | {"findings": [dataclasses.asdict(one) for one in found]}
        )
    else:
        _show(found, away)
    if away:
        sys.exit(console.EXIT_UNAVAILABLE)
    failing = {findings.Level.UNSAFE, findings.Level.WARN} if strict else {findings.Level.UNSAFE}
    if any(one.level in failing for one in found):
        sys.exit(console.EXIT_FAILED)


async def _examine(postgres: str, redis_url: str, connections_max: int) -> tuple[list[findings.Finding], list[str]]:
    """What was found, and which stores are away and why."""
    run = runner.Runner(redis_url)
    await run.start()
    try:
        of_redis, redis_away = await _unless_away("Redis", _of_redis(run, redis_url))
        checking = postgres_check.check_postgres(postgres, connections_max=connections_max)
        of_postgres, postgres_away = await _unless_away("Postgres", checking)
        away = [*redis_away, *postgres_away]
        together, lost = ([], []) if away else await _unless_away("A store", _together(run, postgres))
        return [*of_redis, *of_postgres, *together], [*away, *lost]
    finally:
        await run.close()


async def _unless_away(
    store: str, checking: Awaitable[list[findings.Finding]]
) -> tuple[list[findings.Finding], list[str]]:
    try:
        return await checking, []
    except (errors.UnavailableError, errors.OverloadedError, *pool.AWAY) as exc:
        return [], [f"{store} is away: {settings.masked(str(exc)) or type(exc).__name__}"]


async def _of_redis(run: runner.Runner, redis_url: str) -> list[findings.Finding]:
    if not await run.wait_connected(CONNECT_TIMEOUT_S):
        raise errors.UnavailableError(f"it cannot be reached at {settings.masked(redis_url)}")
    return await redis_check.check_redis(run)


async def _together(run: runner.Runner, postgres: str) -> list[findings.Finding]:
    """What the two stores must agree on; nothing where the tables are not there yet."""
    connections = await pool.create(postgres, size_max=1, application_name="meterd doctor")
    try:
        positions = await partitions.positions(connections)
        dead: int = await connections.fetchval("SELECT count(*) FROM outbox_dead WHERE resolved_at IS NULL")
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError):
        return []
    finally:
        await connections.close()
    return [await _fence(run, positions), await _outbox(run, positions), _dead(dead)]


def _finding(
    subject: str, seen: str, level: findings.Level = findings.Level.OK, why: str = "", change: str = ""
) -> findings.Finding:
    return findings.Finding(store="ledger", subject=subject, level=level, seen=seen, why=why, change=change)


async def _fence(run: runner.Runner, positions: Sequence[partitions.Position]) -> findings.Finding:
    used = [position for position in positions if position.incarnation]
    reasons = await asyncio.gather(*(fence.disagreement(run, position) for position in used))
    fenced = [(one.partition, reason) for one, reason in zip(used, reasons, strict=True) if reason is not None]
    unused = f", {len(positions) - len(used)} never used" if len(used) < len(positions) else ""
    if not fenced:
        return _finding("fence", f"{len(used)} partitions agree{unused}")
    why = "; ".join(f"partition {partition}: {reason}" for partition, reason in fenced[:REASONS_SHOWN_MAX])
    more = f"; and {len(fenced) - REASONS_SHOWN_MAX} more" if len(fenced) > REASONS_SHOWN_MAX else ""
    seen = f"{len(fenced)} of {len(positions)} partitions do not agree with Postgres"
    return _finding("fence", seen, findings.Level.UNSAFE, why + more, "meterd recover")


async def _outbox(run: runner.Runner, positions: Sequence[partitions.Position]) -> findings.Finding:
    """How long the oldest record waits for Postgres, and how many entries the streams have."""
    seconds, micros = await run.command(("TIME",))
    now_ms = int(seconds) * 1_000 + int(micros) // 1_000
    oldest = await asyncio.gather(*(audit.oldest_after_ms(run, one.partition, one.cursor) for one in positions))
    lengths = await asyncio.gather(*(run.command(("XLEN", keys.outbox(one.partition))) for one in positions))
    age_ms = max((now_ms - made_ms for made_ms in oldest if made_ms is not None), default=0)
    seen = f"{sum(lengths):,} records kept, the oldest unwritten one waits for {age_ms / 1_000:,.1f} s"
    if age_ms <= OUTBOX_AGE_MAX_MS:
        return _finding("outbox", seen)
    why = "records that only Redis has are lost with it, and the outbox fills its memory"
    return _finding("outbox", seen, findings.Level.WARN, why, "see that a worker runs, and reaches Postgres")


def _dead(count: int) -> findings.Finding:
    if not count:
        return _finding("dead letters", "none")
    why = "these records could not be written, and the later ones of their accounts wait behind them"
    return _finding("dead letters", f"{count:,}", findings.Level.WARN, why, "look into the table outbox_dead")


def _show(found: Sequence[findings.Finding], away: Sequence[str]) -> None:
    for one in found:
        level = click.style(f"{one.level.value:<6}", fg=_COLOURS[one.level], bold=one.level != findings.Level.OK)
        click.echo(f"{level} {one.store:<8} {one.subject}: {console.printable(one.seen)}")
        if one.why:
            click.echo(f"{'':<16}why: {console.printable(one.why)}")
        if one.change:
            click.echo(f"{'':<16}change: {one.change}")
    for line in away:
        click.echo(f"{click.style('away', fg='red', bold=True)}   {line}")
    unsafe = len(findings.unsafe(found))
    warned = sum(one.level == findings.Level.WARN for one in found)
    summary = f"{len(found)} checks, {warned} warnings, {unsafe} unsafe"
    click.echo(f"{summary}{', not all could be made' if away else ''}.")
