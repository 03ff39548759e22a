"""Inside Redis: what a script costs, what an ended hold leaves behind, and what the pipelined runner saves over redis-py."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio
import uvloop

from benchmarks import ledger_load, results, world
from meterd.redis import keys, runner
from tests.acceptance import processes

# Calls in one reading of commandstats.
_SLICE = 200
_YARDSTICK_SLICE = 1_000
# Slices of one verb before the other has its turn, so that the open holds stay as few as they are in life.
_SLICES_A_TURN = 10


async def _evalsha_us(run: runner.Runner) -> float:
    info: bytes = await run.command(("INFO", "commandstats"))
    for line in info.decode().splitlines():
        if line.startswith("cmdstat_evalsha:"):
            return float(dict(part.split("=") for part in line.partition(":")[2].split(","))["usec_per_call"])
    raise AssertionError("no EVALSHA was counted")


async def _slice_us(run: runner.Runner, one: Callable[[int], Awaitable[object]], count: int) -> tuple[float, float]:
    """µs a call inside Redis of `count` calls, and seconds that they took."""
    await run.command(("CONFIG", "RESETSTAT"))
    wall_s = await ledger_load.drive(count, one)
    return await _evalsha_us(run), wall_s


async def _yardstick_us(run: runner.Runner) -> float:
    """An EVALSHA of a script that writes one small hash field: the least that a script which does something can cost here and now."""
    text = "#!lua\nreturn redis.call('HSET', KEYS[1], 'f', ARGV[1])"
    sha = await run.command(("SCRIPT", "LOAD", text))

    def one(number: int) -> Awaitable[object]:
        return run.command(("EVALSHA", sha, "1", "{m:00}:bench", str(number)))

    return (await _slice_us(run, one, _YARDSTICK_SLICE))[0]


async def _used_bytes(run: runner.Runner) -> int:
    for partition in range(ledger_load.PARTITIONS):
        await run.command(("XTRIM", keys.outbox(partition), "MAXLEN", "=", "0"))
    info: bytes = await run.command(("INFO", "memory"))
    return int(next(line for line in info.decode().splitlines() if line.startswith("used_memory:")).partition(":")[2])


@dataclasses.dataclass(slots=True)
class _Inside:
    """µs a call inside Redis, slice by slice, and as multiples of the yardstick of the slice's turn; seconds that all took."""

    reserves_us: list[float] = dataclasses.field(default_factory=list[float])
    commits_us: list[float] = dataclasses.field(default_factory=list[float])
    reserve_ratios: list[float] = dataclasses.field(default_factory=list[float])
    commit_ratios: list[float] = dataclasses.field(default_factory=list[float])
    yardsticks_us: list[float] = dataclasses.field(default_factory=list[float])
    wall_s: float = 0.0


async def _inside(bench: ledger_load.Bench, holds: list[uuid.UUID]) -> _Inside:
    found, turn = _Inside(), _SLICE * _SLICES_A_TURN
    for start in range(0, len(holds), turn):
        yardstick_us = await _yardstick_us(bench.run)
        found.yardsticks_us.append(yardstick_us)
        for verb, slices_us, ratios in (
            ("reserve", found.reserves_us, found.reserve_ratios),
            ("commit", found.commits_us, found.commit_ratios),
        ):
            call, made = getattr(bench.book, verb), getattr(bench, verb)
            for first in range(start, min(start + turn, len(holds)), _SLICE):
                part = holds[first : first + _SLICE]

                def one(
                    number: int, part: list[uuid.UUID] = part, call: Any = call, made: Any = made
                ) -> Awaitable[object]:
                    return call(made(number, part[number]))

                us, wall_s = await _slice_us(bench.run, one, len(part))
                slices_us.append(us)
                ratios.append(us / yardstick_us)
                found.wall_s += wall_s
    return found


def _line(name: str, slices_us: Sequence[float], ratios: Sequence[float], at_most: float) -> results.Line:
    """The mean of commandstats; the multiple of the yardstick is for comparing runs, since a neighbour on the host slows both."""
    note = f"p10 of the slices {_p10(slices_us):.1f} µs; median {statistics.median(ratios):.1f} × the yardstick"
    return results.Line(name=name, measured=statistics.mean(slices_us), unit="µs", at_most=at_most, note=note)


def _p10(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 10]


async def _bench(run: runner.Runner, count: int) -> list[results.Line]:
    bench = ledger_load.Bench(run)
    await bench.prepare()
    await ledger_load.lifecycles(bench, 2_000)
    before_bytes = await _used_bytes(run)
    plain = await _inside(bench, ledger_load.uuids(count))
    after_bytes = await _used_bytes(run)
    await bench.prepare(defined=ledger_load.TWO_LIMITS)
    await ledger_load.lifecycles(bench, 2_000)
    limited = await _inside(bench, ledger_load.uuids(count))
    yardsticks_us = plain.yardsticks_us + limited.yardsticks_us
    lines = [
        _line("reserve inside Redis, two grants", plain.reserves_us, plain.reserve_ratios, 45),
        _line("commit inside Redis, two grants", plain.commits_us, plain.commit_ratios, 45),
        _line("reserve with two limits inside Redis", limited.reserves_us, limited.reserve_ratios, 60),
        _line("commit with two limits inside Redis", limited.commits_us, limited.commit_ratios, 60),
    ]
    return [
        results.Line(
            name="a script with one HSET, the yardstick",
            measured=statistics.median(yardsticks_us),
            unit="µs",
            note=f"p10 {_p10(yardsticks_us):.1f}",
        ),
        *lines,
        results.Line(
            name="reserve with two limits ÷ without",
            measured=statistics.median(limited.reserve_ratios) / statistics.median(plain.reserve_ratios),
            unit="×",
            note="60 to 45 µs would be 1.33",
        ),
        results.Line(
            name="lifecycles of one Redis core",
            measured=1e6 / (statistics.mean(plain.reserves_us) + statistics.mean(plain.commits_us)),
            unit="/s",
            at_least=10_000,
            note="from the lines of reserve and commit",
        ),
        results.Line(
            name="memory of an ended hold",
            measured=(after_bytes - before_bytes) / count,
            unit="B",
            at_most=300,
            note=f"used_memory over {count:,} holds, outbox trimmed",
        ),
        results.Line(
            name="ledger calls through the runner",
            measured=2 * count / plain.wall_s,
            unit="/s",
            note="no gRPC, 64 in flight",
        ),
    ]


async def _naive(run: runner.Runner, url: str, count: int) -> list[results.Line]:
    """The same scripts through redis-py's own client, a pooled connection for each call in flight."""
    bench = ledger_load.Bench(run)
    client = redis.asyncio.Redis.from_url(url, max_connections=ledger_load.IN_FLIGHT)

    class _Client(runner.Runner):
        def evalsha(self, script, keys, args):  # type: ignore[no-untyped-def, override]
            return client.evalsha(script.sha.decode(), len(keys), *keys, *args)

    ratios = list[float]()
    try:
        await bench.prepare()
        naive = ledger_load.Bench(_Client(url))
        naive.book.sentinels = bench.book.sentinels
        for _ in range(3):
            cpu_s = time.process_time()
            await ledger_load.lifecycles(bench, count)
            runner_s = time.process_time() - cpu_s
            cpu_s = time.process_time()
            await ledger_load.lifecycles(naive, count)
            ratios.append((time.process_time() - cpu_s) / runner_s)
    finally:
        await client.aclose()
    middle = sorted(ratios)[1]
    return [
        results.Line(
            name="CPU of redis-py's client ÷ the runner's", measured=middle, unit="×", note="per lifecycle, median of 3"
        )
    ]


def run(directory: pathlib.Path, *, count: int) -> list[results.Line]:
    """Measures `count` lifecycles. Starts a Valkey of its own, on the core that the caller does not have."""
    ours, others = world.cores()
    valkey = processes.Valkey(directory, cores=ours)
    valkey.start()

    async def measure() -> list[results.Line]:
        connection = runner.Runner(valkey.url)
        await connection.start()
        assert await connection.wait_connected(5)
        try:
            lines = await _bench(connection, count)
            return lines + await _naive(connection, valkey.url, 5_000)
        finally:
            await connection.close()

    try:
        with world.held_to(others):
            return uvloop.run(measure())
    finally:
        valkey.kill()
