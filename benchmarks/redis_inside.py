"""Inside Redis: what a script costs, what an ended hold leaves behind, and what the pipelined runner saves over redis-py."""

from __future__ import annotations

import pathlib
import time
import uuid

import redis.asyncio
import uvloop

from benchmarks import ledger_load, results, world
from meterd.redis import keys, runner
from tests.acceptance import processes


async def _evalsha_us(run: runner.Runner) -> float:
    info: bytes = await run.command(("INFO", "commandstats"))
    for line in info.decode().splitlines():
        if line.startswith("cmdstat_evalsha:"):
            return float(dict(part.split("=") for part in line.partition(":")[2].split(","))["usec_per_call"])
    raise AssertionError("no EVALSHA was counted")


async def _yardstick_us(run: runner.Runner) -> float:
    """An EVALSHA of a script that writes one small hash field: the least that a script which does something can cost here."""
    text = "#!lua\nreturn redis.call('HSET', KEYS[1], 'f', ARGV[1])"
    sha = await run.command(("SCRIPT", "LOAD", text))
    await run.command(("CONFIG", "RESETSTAT"))
    await ledger_load.drive(5_000, lambda number: run.command(("EVALSHA", sha, "1", "{m:00}:bench", str(number))))
    return await _evalsha_us(run)


async def _used_bytes(run: runner.Runner) -> int:
    for partition in range(ledger_load.PARTITIONS):
        await run.command(("XTRIM", keys.outbox(partition), "MAXLEN", "=", "0"))
    info: bytes = await run.command(("INFO", "memory"))
    return int(next(line for line in info.decode().splitlines() if line.startswith("used_memory:")).partition(":")[2])


async def _inside(bench: ledger_load.Bench, holds: list[uuid.UUID]) -> tuple[float, float, float]:
    """µs inside Redis of a Reserve and of a Commit, and seconds that all of them took."""
    run, count = bench.run, len(holds)
    reserve_us, commit_us, wall_s = 0.0, 0.0, 0.0
    # In rounds, so that the open holds stay as few as they are in life.
    round_count = 2_000
    for start in range(0, count, round_count):
        part = holds[start : start + round_count]
        await run.command(("CONFIG", "RESETSTAT"))
        wall_s += await ledger_load.drive(
            len(part), lambda number, part=part: bench.book.reserve(bench.reserve(number, part[number]))
        )
        reserve_us += await _evalsha_us(run) * len(part) / count
        await run.command(("CONFIG", "RESETSTAT"))
        wall_s += await ledger_load.drive(
            len(part), lambda number, part=part: bench.book.commit(bench.commit(number, part[number]))
        )
        commit_us += await _evalsha_us(run) * len(part) / count
    return reserve_us, commit_us, wall_s


async def _bench(run: runner.Runner, count: int) -> list[results.Line]:
    bench = ledger_load.Bench(run)
    await bench.prepare()
    await ledger_load.lifecycles(bench, 2_000)
    before_bytes = await _used_bytes(run)
    reserve_us, commit_us, wall_s = await _inside(bench, ledger_load.uuids(count))
    after_bytes = await _used_bytes(run)
    yardstick_us = await _yardstick_us(run)
    await bench.prepare(defined=ledger_load.TWO_LIMITS)
    await ledger_load.lifecycles(bench, 2_000)
    limited_us, limited_commit_us, _ = await _inside(bench, ledger_load.uuids(count))
    cluster = "commandstats of EVALSHA, two grants, AOF always"
    return [
        results.Line(name="reserve inside Redis", measured=reserve_us, unit="µs", at_most=45, note=cluster),
        results.Line(name="commit inside Redis", measured=commit_us, unit="µs", at_most=45, note=cluster),
        results.Line(
            name="reserve with two limits inside Redis", measured=limited_us, unit="µs", at_most=60, note=cluster
        ),
        results.Line(
            name="commit with two limits inside Redis", measured=limited_commit_us, unit="µs", at_most=60, note=cluster
        ),
        results.Line(
            name="reserve with two limits ÷ without",
            measured=limited_us / reserve_us,
            unit="×",
            note="60 to 45 µs would be 1.33",
        ),
        results.Line(name="a script with one HSET", measured=yardstick_us, unit="µs", note="the machine's yardstick"),
        results.Line(
            name="lifecycles of one Redis core",
            measured=1e6 / (reserve_us + commit_us),
            unit="/s",
            at_least=10_000,
            note="from the two lines above",
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
