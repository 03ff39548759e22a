"""The server under load, next to an empty handler on the same gRPC server, in turns within one run."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import grpc.aio
import psutil
import uvloop

from benchmarks import empty, h2, load, results, wires, world
from meterd.core import ids, money
from meterd.postgres import pool
from meterd_client.v1 import accounts_pb2, accounts_pb2_grpc, metering_pb2, metering_pb2_grpc, types_pb2

IN_FLIGHT = 64
STREAM_IN_FLIGHT = 128
STREAM_FRAME_CALLS = 32
# A slice is long enough for thousands of calls, and short enough that what else the machine does hits both sides alike.
SLICE_S = 1.5
BURST_CALLS = 3_000
RACERS = 100
AFFORDABLE = 37
LAG_PER_S = 1_000.0
# The last answers come after the time that is asked for.
LAG_RATE_SHARE_MIN = 0.98
FLUSHED_TIMEOUT_S = 120.0
_LAG = """
SELECT count(*) AS records,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM flushed_at - recorded_at)) AS p99,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM flushed_at - recorded_at)) AS p50
FROM ledger WHERE recorded_at >= to_timestamp($1) AND kind = 'C'
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """How long parts measure."""

    rounds: int
    lag_s: float
    memory_lifecycles: int


@dataclasses.dataclass(slots=True)
class _Slice:
    calls_per_s: float
    cpu_us: float
    p50_us: float


class Bench:
    """Connections to a world's server and to its empty one."""

    def __init__(self, made: world.World, metering: h2.Connection, yardstick: h2.Connection) -> None:
        self.world = made
        self._metering = metering
        self._yardstick = yardstick
        before, after = load.reserve_bodies(made.accounts[:1])[0]
        self._empty_message = before + next(load.uuids()) + after

    async def _slice(self, process: psutil.Process, run: Awaitable[load.Tally], *, commit: bool = True) -> _Slice:
        before = process.cpu_times()
        tally = self._checked(await run, commit=commit)
        after = process.cpu_times()
        cpu_s = after.user + after.system - before.user - before.system
        return _Slice(tally.calls_per_s, cpu_s / tally.calls * 1e6, tally.latency_us(0.5) if tally.latencies_s else 0.0)

    async def empty(self, slots: int, seconds: float = SLICE_S, *, path: bytes = empty.UNARY) -> _Slice:
        run = load.Runner(self._yardstick, seconds).empty(path, self._empty_message, slots)
        return await self._slice(self.world.empty_process, run, commit=False)

    async def lifecycles(
        self,
        slots: int,
        seconds: float = SLICE_S,
        *,
        line: load.Line | None = None,
        speech: load.Speech = load.PROTO,
    ) -> _Slice:
        """`line` None: over gRPC."""
        run = load.Runner(self._metering, seconds).lifecycles(self.world.accounts, slots, line=line, speech=speech)
        return await self._slice(self.world.server_process, run)

    async def reserves(
        self,
        slots: int,
        seconds: float = SLICE_S,
        *,
        line: load.Line | None = None,
        speech: load.Speech = load.PROTO,
    ) -> _Slice:
        """Reserve alone; the holds expire soon."""
        run = load.Runner(self._metering, seconds).lifecycles(
            self.world.accounts, slots, commit=False, ttl_ms=1_000, line=line, speech=speech
        )
        return await self._slice(self.world.server_process, run, commit=False)

    async def streamed(self, seconds: float = SLICE_S) -> _Slice:
        run = load.Runner(self._metering, seconds).streamed(self.world.accounts, STREAM_IN_FLIGHT, STREAM_FRAME_CALLS)
        return await self._slice(self.world.server_process, run)

    async def full(self, seconds: float) -> load.Tally:
        tally = await load.Runner(self._metering, seconds).lifecycles(self.world.accounts, IN_FLIGHT)
        return self._checked(tally)

    async def full_stream(self, seconds: float) -> load.Tally:
        run = load.Runner(self._metering, seconds)
        return self._checked(await run.streamed(self.world.accounts, STREAM_IN_FLIGHT, STREAM_FRAME_CALLS))

    async def paced(self, per_s: float, seconds: float) -> load.Tally:
        return self._checked(await load.Runner(self._metering, seconds).paced(self.world.accounts, per_s))

    def _checked(self, tally: load.Tally, *, commit: bool = True) -> load.Tally:
        assert tally.failed == 0, f"{tally.failed} calls failed, the first: {tally.first_failure}"
        assert tally.denied == 0, "a hold was denied: the accounts need larger grants"
        self.world.commits += tally.calls // 2 if commit else 0
        return tally


def _ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the rounds' ratios: a neighbour's load hits both sides of a round, and single rounds it spoils do not count."""
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))


def _spread(above: Sequence[float], below: Sequence[float]) -> str:
    """How far the rounds are apart, in percent: where that is much, the median says little."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return f"rounds from {min(ratios):.0%} to {max(ratios):.0%}"


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f}"


async def throughput(bench: Bench, extent: Extent) -> list[results.Line]:
    """Unary Reserve + Commit and Stream, in turns with the empty handler."""
    await bench.empty(IN_FLIGHT, 0.5)
    await bench.lifecycles(IN_FLIGHT, 1.0)
    empties, unaries, streams = list[_Slice](), list[_Slice](), list[_Slice]()
    for _ in range(extent.rounds):
        empties.append(await bench.empty(IN_FLIGHT))
        unaries.append(await bench.lifecycles(IN_FLIGHT))
        streams.append(await bench.streamed())
    empty_rates, unary_rates = [one.calls_per_s for one in empties], [one.calls_per_s for one in unaries]
    empty_us, unary_us = [one.cpu_us for one in empties], [one.cpu_us for one in unaries]
    return [
        results.Line(
            name="Reserve + Commit ÷ empty handler",
            measured=_ratio(unary_rates, empty_rates) * 100,
            unit="%",
            at_least=70,
            note=f"{_middle(unary_rates)} of {_middle(empty_rates)} calls/s, {_spread(unary_rates, empty_rates)}",
        ),
        results.Line(
            name="the same by CPU a call",
            measured=_ratio(empty_us, unary_us) * 100,
            unit="%",
            note=f"{_middle(empty_us)} of {_middle(unary_us)} µs",
        ),
        results.Line(
            name="Stream ÷ unary",
            measured=_ratio([one.calls_per_s for one in streams], unary_rates),
            unit="×",
            at_least=2.5,
            note=f"{_middle([one.calls_per_s for one in streams])} calls/s, {STREAM_IN_FLIGHT} in flight on one stream",
        ),
    ]


async def single(bench: Bench, extent: Extent) -> list[results.Line]:
    """Reserve alone, one in flight, next to handlers that do nothing but a PING, and nothing but a Reserve's script call made beforehand:
    the least that any trip to Redis, and that a decision there, can add here. Also with Valkey on the servers' core."""
    await bench.lifecycles(IN_FLIGHT, 1.0)
    lines = await _single(bench, extent, "")
    if bench.world.is_held:
        with bench.world.valkey_beside_servers():
            lines += await _single(bench, extent, ", Valkey on the servers' core")
    return lines


async def _single(bench: Bench, extent: Extent, where: str) -> list[results.Line]:
    empties, pings, scripts, reserves = list[float](), list[float](), list[float](), list[float]()
    for _ in range(extent.rounds):
        empties.append((await bench.empty(1, 0.7)).p50_us)
        pings.append((await bench.empty(1, 0.7, path=empty.PING)).p50_us)
        scripts.append((await bench.empty(1, 0.7, path=empty.SCRIPT)).p50_us)
        reserves.append((await bench.reserves(1, 0.7)).p50_us)
    ping_us, script_us, reserve_us = (
        statistics.median(above - below for above, below in zip(side, empties, strict=True))
        for side in (pings, scripts, reserves)
    )
    return [
        results.Line(
            name=f"a handler with a PING to Redis, p50 − empty{where}",
            measured=ping_us,
            unit="µs",
            note=f"p50 {_middle(pings)} µs: the least that a trip to Redis adds here",
        ),
        results.Line(
            name=f"a handler with a Reserve's script call made beforehand, p50 − empty{where}",
            measured=script_us,
            unit="µs",
            note=f"p50 {_middle(scripts)} µs: the least that this decision of Redis adds here",
        ),
        results.Line(
            name=f"Reserve, 1 in flight, p50 − empty{where}",
            measured=reserve_us,
            unit="µs",
            # Valkey is not on the servers' core in the other targets either.
            at_most=None if where else 120,
            note=f"p50 {_middle(reserves)} µs, empty {_middle(empties)} µs",
        ),
    ]


async def other_wires(bench: Bench, extent: Extent) -> list[results.Line]:
    """The same over gRPC, Connect and gRPC-Web in turns: rates with many calls in flight, and Reserve's p50 with one."""
    made = bench.world
    pools = await wires.pools("127.0.0.1", made.http_port, made.key, IN_FLIGHT)
    spoken: dict[str, tuple[load.Line | None, load.Speech]] = {"gRPC": (None, load.PROTO), **pools}
    busy: dict[str, list[_Slice]] = {name: [] for name in spoken}
    alone: dict[str, list[_Slice]] = {name: [] for name in spoken}
    # The first round warms up.
    for _ in range(extent.rounds + 1):
        for name, (line, speech) in spoken.items():
            busy[name].append(await bench.lifecycles(IN_FLIGHT, 1.0, line=line, speech=speech))
            alone[name].append(await bench.reserves(1, 0.5, line=line, speech=speech))
    for opened, _ in pools.values():
        opened.close()
    lines: list[results.Line] = []
    for name in spoken:
        rates, cpus_us = [one.calls_per_s for one in busy[name][1:]], [one.cpu_us for one in busy[name][1:]]
        p50s_us = [one.p50_us for one in alone[name][1:]]
        note = f"{_middle(cpus_us)} µs of CPU a call, {IN_FLIGHT} in flight"
        lines += [
            results.Line(name=f"{name}: Reserve + Commit", measured=statistics.median(rates), unit="/s", note=note),
            results.Line(name=f"{name}: Reserve, 1 in flight, p50", measured=statistics.median(p50s_us), unit="µs"),
        ]
    return lines


async def burst(bench: Bench, extent: Extent) -> list[results.Line]:
    """3,000 Reserves at once on one channel of grpc's own client."""
    del extent
    made = bench.world
    async with grpc.aio.insecure_channel(made.server.address) as channel:
        stub = metering_pb2_grpc.MeteringStub(channel)
        metadata = [("authorization", f"Bearer {made.key}")]

        def request(number: int) -> metering_pb2.ReserveRequest:
            return metering_pb2.ReserveRequest(
                hold_id=str(ids.uuid7(time.time_ns() // 1_000_000)),
                account_id=made.accounts[number % len(made.accounts)],
                credits=types_pb2.CreditsCharge(amount_micros=1_000),
                ttl_ms=1_000,
            )

        calls = [stub.Reserve(request(number), metadata=metadata) for number in range(BURST_CALLS)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException) or not answer.hold.hold_id]
    note = f"first: {failed[0]!r}" if failed else "one channel"
    return [
        results.Line(
            name=f"failures of {BURST_CALLS:,} Reserves at once", measured=len(failed), unit="", at_most=0, note=note
        )
    ]


async def race(bench: Bench, extent: Extent) -> list[results.Line]:
    """100 tasks race for credits that cover 37 of them."""
    del extent
    made = bench.world
    account_id = f"race-{time.time_ns()}"
    async with grpc.aio.insecure_channel(made.server.address) as channel:
        accounts = accounts_pb2_grpc.AccountsStub(channel)
        metering = metering_pb2_grpc.MeteringStub(channel)
        metadata = [("authorization", f"Bearer {made.key}")]
        await accounts.CreateAccount(accounts_pb2.CreateAccountRequest(account_id=account_id), metadata=metadata)
        grant = accounts_pb2.GrantRequest(
            idempotency_key=account_id,
            account_id=account_id,
            amount_micros=AFFORDABLE * money.MICROS_PER_CREDIT + money.MICROS_PER_CREDIT // 2,
            category=types_pb2.GRANT_CATEGORY_PAID,
        )
        await accounts.Grant(grant, metadata=metadata)

        def reserve() -> Awaitable[metering_pb2.ReserveResponse]:
            request = metering_pb2.ReserveRequest(
                hold_id=str(ids.uuid7(time.time_ns() // 1_000_000)),
                account_id=account_id,
                credits=types_pb2.CreditsCharge(amount_micros=money.MICROS_PER_CREDIT),
            )
            return metering.Reserve(request, metadata=metadata)

        answers = await asyncio.gather(*(reserve() for _ in range(RACERS)))
    won = sum(bool(answer.hold.hold_id) for answer in answers)
    return [
        results.Line(
            name=f"winners of {RACERS} racing for {AFFORDABLE} credits",
            measured=won,
            unit="",
            at_least=AFFORDABLE,
            at_most=AFFORDABLE,
        )
    ]


async def with_workers(bench: Bench, extent: Extent) -> list[results.Line]:
    """The same throughput of a server that also flushes what it serves, on its one core."""
    await bench.lifecycles(IN_FLIGHT, 1.0)
    empty_rates, unary_rates = list[float](), list[float]()
    for _ in range(extent.rounds):
        empty_rates.append((await bench.empty(IN_FLIGHT)).calls_per_s)
        unary_rates.append((await bench.lifecycles(IN_FLIGHT)).calls_per_s)
    note = f"{_middle(unary_rates)} calls/s; what was left to flush is flushed during the empty handler's turns"
    return [
        results.Line(
            name="with workers in the server", measured=_ratio(unary_rates, empty_rates) * 100, unit="%", note=note
        )
    ]


async def lag(bench: Bench, extent: Extent) -> list[results.Line]:
    """Flush lag at a steady rate, after all that was before is flushed."""
    connection = await pool.connect(bench.world.postgres.dsn, application_name="meterd bench")
    try:
        await _flushed(connection, 0.0, bench.world.commits)
        begin_s = time.time()
        tally = await bench.paced(LAG_PER_S, extent.lag_s)
        lifecycles = tally.calls // 2
        p50_s, p99_s = await _flushed(connection, begin_s, lifecycles)
    finally:
        await connection.close()
    rate = lifecycles / (tally.end_s - tally.begin_s)
    note = f"p50 {p50_s * 1000:.0f} ms over {lifecycles:,}"
    return [
        results.Line(name="flush lag p99", measured=p99_s * 1000, unit="ms", at_most=1_000, note=note),
        # A lag at a lower rate than the target's would prove nothing.
        results.Line(
            name="lifecycles during the lag's part",
            measured=rate,
            unit="/s",
            at_least=LAG_RATE_SHARE_MIN * LAG_PER_S,
            note=f"{LAG_PER_S:,.0f} were asked for, on one Stream",
        ),
    ]


async def _flushed(connection: asyncpg.Connection, since_s: float, lifecycles: int) -> tuple[float, float]:
    """Waits until so many commits since then are in Postgres; their median and 99th percentile lag in seconds."""
    deadline_s = time.monotonic() + FLUSHED_TIMEOUT_S
    while True:
        row = await connection.fetchrow(_LAG, since_s)
        assert row is not None
        if row["records"] >= lifecycles:
            return float(row["p50"] or 0), float(row["p99"] or 0)
        assert time.monotonic() < deadline_s, f"{row['records']} of {lifecycles} were flushed"
        await asyncio.sleep(0.1)


async def memory(bench: Bench, extent: Extent) -> list[results.Line]:
    """Resident memory of the server over many lifecycles, unary and streamed in turns: its size, and its growth over the second half."""
    process, done = bench.world.server_process, 0
    sizes_mb = list[float]()
    while done < extent.memory_lifecycles:
        for tally in (await bench.full(2.0), await bench.full_stream(2.0)):
            done += tally.calls // 2
        sizes_mb.append(process.memory_info().rss / 1e6)
    middle_mb = sizes_mb[len(sizes_mb) // 2]
    note = f"over {done:,} lifecycles; a million with --long"
    return [
        results.Line(name="server RSS", measured=sizes_mb[-1], unit="MB", at_most=200, note=note),
        results.Line(
            name="RSS growth over the second half", measured=sizes_mb[-1] - middle_mb, unit="MB", at_most=10, note=note
        ),
    ]


_Part = Callable[[Bench, Extent], Awaitable[list[results.Line]]]
# Those of a server without workers, then those of one with them.
PARTS: dict[str, _Part] = {
    "throughput": throughput,
    "single": single,
    "wires": other_wires,
    "burst": burst,
    "race": race,
}
WORKER_PARTS: dict[str, _Part] = {"workers": with_workers, "lag": lag, "memory": memory}


def run(
    directory: pathlib.Path, names: Sequence[str], extent: Extent, tell: Callable[[Sequence[results.Line]], None]
) -> None:
    """Runs the named parts in a world of its own and tells the lines of each."""
    with world.opened(directory) as made:
        for table, workers in ((PARTS, False), (WORKER_PARTS, True)):
            chosen = [part for name, part in table.items() if name in names]
            if not chosen:
                continue
            if workers:
                made.serve(workers=True)
            uvloop.run(_run(made, chosen, extent, tell))


async def _run(
    made: world.World, parts: Sequence[_Part], extent: Extent, tell: Callable[[Sequence[results.Line]], None]
) -> None:
    metering = await h2.connect("127.0.0.1", made.server.port, made.key)
    yardstick = await h2.connect("127.0.0.1", made.empty.port, made.key)
    bench = Bench(made, metering, yardstick)
    for part in parts:
        tell(await part(bench, extent))
    metering.close()
    yardstick.close()
