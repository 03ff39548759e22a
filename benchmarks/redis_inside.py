"""Inside Redis: what a script costs, what an ended hold leaves behind, and what the pipelined runner saves over redis-py."""

from __future__ import annotations

import pathlib
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio
import uvloop

from benchmarks import ledger_load, results, world
from meterd.redis import keys, runner
from tests.acceptance import processes

# Calls in one reading of commandstats; what else the machine does hits some slices and leaves others alone.
_SLICE = 200
# Slices of one verb before the other has its turn, so that the open holds stay as few as they are in life.
_SLICES_A_TURN = 10


async def _evalsha_us(run: runner.Runner) -> float:
    info: bytes = await run.command(("INFO", "commandstats"))
    for line in info.decode().splitlines():
        if line.startswith("cmdstat_evalsha:"):
            return float(dict(part.split("=") for part in line.partition(":")[2].split(","))["usec_per_call"])
    raise AssertionError("no EVALSHA was counted")


async def _slice_us(run: runner.Runner, one: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """µs a call inside Redis of one slice, and seconds that it took."""
    await run.command(("CONFIG", "RESETSTAT"))
    wall_s = await ledger_load.drive(_SLICE, one)
    return await _evalsha_us(run), wall_s


def _undisturbed(slices: Sequence[float]) -> float:
    """The tenth percentile: a neighbour on the machine only ever adds to a slice, as Python's timeit says of its repeats."""
    return sorted(slices)[len(slices) // 10]


async def _yardstick_us(run: runner.Runner) -> list[float]:
    """An EVALSHA of a script that writes one small hash field: the least that a script which does something can cost here."""
    text = "#!lua\nreturn redis.call('HSET', KEYS[1], 'f', ARGV[1])"
    sha = await run.command(("SCRIPT", "LOAD", text))

    def one(number: int) -> Awaitable[object]:
        return run.command(("EVALSHA", sha, "1", "{m:00}:bench", str(number)))

    return [(await _slice_us(run, one))[0] for _ in range(50)]


async def _used_bytes(run: runner.Runner) -> int:
    for partition in range(ledger_load.PARTITIONS):
        await run.command(("XTRIM", keys.outbox(partition), "MAXLEN", "=", "0"))
    info: bytes = await run.command(("INFO", "memory"))
    return int(next(line for line in info.decode().splitlines() if line.startswith("used_memory:")).partition(":")[2])


async def _inside(bench: ledger_load.Bench, holds: list[uuid.UUID]) -> tuple[list[float], list[float], float]:
    """µs inside Redis of a Reserve and of a Commit, slice by slice, and seconds that all of them took."""
    reserves_us, commits_us, total_s = list[float](), list[float](), 0.0
    turn = _SLICE * _SLICES_A_TURN
    for start in range(0, len(holds), turn):
        for verb, found in (("reserve", reserves_us), ("commit", commits_us)):
            call, made = getattr(bench.book, verb), getattr(bench, verb)
            for first in range(start, min(start + turn, len(holds)), _SLICE):
                part = holds[first : first + _SLICE]
                us, wall_s = await _slice_us(
                    bench.run, lambda number, part=part, call=call, made=made: call(made(number, part[number]))
                )
                found.append(us)
                total_s += wall_s
    return reserves_us, commits_us, total_s


def _line(name: str, slices: Sequence[float], at_most: float | None) -> results.Line:
    note = f"commandstats of EVALSHA; the median of {len(slices)} slices is {statistics.median(slices):.1f} µs"
    return results.Line(name=name, measured=_undisturbed(slices), unit="µs", at_most=at_most, note=note)


async def _bench(run: runner.Runner, count: int) -> list[results.Line]:
    bench = ledger_load.Bench(run)
    await bench.prepare()
    await ledger_load.lifecycles(bench, 2_000)
    before_bytes = await _used_bytes(run)
    reserves_us, commits_us, wall_s = await _inside(bench, ledger_load.uuids(count))
    after_bytes = await _used_bytes(run)
    yardsticks_us = await _yardstick_us(run)
    await bench.prepare(defined=ledger_load.TWO_LIMITS)
    await ledger_load.lifecycles(bench, 2_000)
    limited_us, limited_commits_us, _ = await _inside(bench, ledger_load.uuids(count))
    return [
        _line("a script with one HSET", yardsticks_us, None),
        _line("reserve inside Redis, two grants", reserves_us, 45),
        _line("commit inside Redis, two grants", commits_us, 45),
        _line("reserve with two limits inside Redis", limited_us, 60),
        _line("commit with two limits inside Redis", limited_commits_us, None),
        results.Line(
            name="reserve with two limits ÷ without",
            measured=_undisturbed(limited_us) / _undisturbed(reserves_us),
            unit="×",
            note="60 to 45 µs would be 1.33",
        ),
        results.Line(
            name="lifecycles of one Redis core",
            measured=1e6 / (_undisturbed(reserves_us) + _undisturbed(commits_us)),
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
            name="ledger calls through the runner", measured=2 * count / wall_s, unit="/s", note="no gRPC, 64 in flight"
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
