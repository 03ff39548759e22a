"""The server under load, next to an empty handler on the same gRPC server, in turns within one run."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Awaitable, Callable

import grpc.aio
import psutil

from benchmarks import empty, h2, load, results, world
from meterd.core import ids, money
from meterd.postgres import pool
from meterd_client.v1 import accounts_pb2, accounts_pb2_grpc, metering_pb2, metering_pb2_grpc, types_pb2

IN_FLIGHT = 64
# A slice is long enough for thousands of calls, and short enough that what else the machine does hits both sides alike.
SLICE_S = 1.5
BURST_CALLS = 3_000
RACERS = 100
AFFORDABLE = 37
_LAG = """
SELECT count(*) AS records,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM flushed_at - recorded_at)) AS p99,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM flushed_at - recorded_at)) AS p50
FROM ledger WHERE recorded_at >= to_timestamp($1) AND kind = 'C'
"""


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
        self._message = load.reserve_bodies(["account-0000"])[0]

    async def _slice(self, process: psutil.Process, run: Callable[[], Awaitable[load.Tally]]) -> _Slice:
        before = process.cpu_times()
        tally = await run()
        after = process.cpu_times()
        assert tally.failed == 0, f"{tally.failed} calls failed, the first: {tally.first_failure}"
        assert tally.denied == 0, "a hold was denied: the accounts need larger grants"
        cpu_s = after.user + after.system - before.user - before.system
        return _Slice(tally.calls_per_s, cpu_s / tally.calls * 1e6, tally.latency_us(0.5) if tally.latencies_s else 0.0)

    async def empty(self, slots: int, seconds: float = SLICE_S) -> _Slice:
        message = load.reserve_bodies(["account-0000"])[0]
        body = message[0] + b"0" * 36 + message[1]
        run = load.Runner(self._yardstick, seconds)
        return await self._slice(self.world.empty_process, lambda: run.empty(empty.UNARY, body, slots))

    async def lifecycles(self, slots: int, seconds: float = SLICE_S, *, commit: bool = True) -> _Slice:
        run = load.Runner(self._metering, seconds)
        accounts = self.world.accounts
        return await self._slice(
            self.world.server_process, lambda: run.lifecycles(accounts, slots, commit=commit, ttl_ms=0 if commit else 1_000)
        )

    async def streamed(self, in_flight: int, per_frame: int, seconds: float = SLICE_S) -> _Slice:
        run = load.Runner(self._metering, seconds)
        return await self._slice(
            self.world.server_process, lambda: run.streamed(self.world.accounts, in_flight, per_frame)
        )

    async def paced(self, per_s: float, seconds: float) -> load.Tally:
        return await load.Runner(self._metering, seconds).paced(self.world.accounts, per_s)


async def throughput(bench: Bench, *, rounds: int) -> list[results.Line]:
    """Unary Reserve + Commit and Stream, in turns with the empty handler."""
    await bench.empty(IN_FLIGHT, 0.5)
    await bench.lifecycles(IN_FLIGHT, 1.0)
    ratios, cpu_ratios, stream_ratios = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        yardstick = await bench.empty(IN_FLIGHT)
        unary = await bench.lifecycles(IN_FLIGHT)
        streamed = await bench.streamed(IN_FLIGHT * 2, 32)
        ratios.append(unary.calls_per_s / yardstick.calls_per_s)
        cpu_ratios.append(yardstick.cpu_us / unary.cpu_us)
        stream_ratios.append(streamed.calls_per_s / unary.calls_per_s)
    note = f"{unary.calls_per_s:,.0f} of {yardstick.calls_per_s:,.0f} calls/s in the last round; median of {rounds}"
    cpu = f"{yardstick.cpu_us:.0f} µs of {unary.cpu_us:.0f} µs a call in the last round"
    return [
        results.Line(
            name="Reserve + Commit ÷ empty handler", measured=statistics.median(ratios) * 100, unit="%", at_least=70, note=note
        ),
        results.Line(name="the same by CPU a call", measured=statistics.median(cpu_ratios) * 100, unit="%", note=cpu),
        results.Line(
            name="Stream ÷ unary",
            measured=statistics.median(stream_ratios),
            unit="×",
            at_least=2.5,
            note=f"{streamed.calls_per_s:,.0f} calls/s, {IN_FLIGHT * 2} in flight on one stream",
        ),
    ]


async def single(bench: Bench, *, rounds: int) -> list[results.Line]:
    """Reserve alone, one in flight."""
    extra_us, last = list[float](), ""
    for _ in range(rounds):
        yardstick = await bench.empty(1, 1.0)
        reserve = await bench.lifecycles(1, 1.0, commit=False)
        extra_us.append(reserve.p50_us - yardstick.p50_us)
        last = f"p50 {reserve.p50_us:.0f} µs, empty {yardstick.p50_us:.0f} µs in the last round"
    return [
        results.Line(
            name="Reserve, 1 in flight, p50 − empty", measured=statistics.median(extra_us), unit="µs", at_most=120, note=last
        )
    ]


async def burst(bench: Bench) -> list[results.Line]:
    """3,000 Reserves at once on one channel of grpc's own client."""
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
    return [results.Line(name=f"failures of {BURST_CALLS:,} Reserves at once", measured=len(failed), unit="", at_most=0, note=note)]


async def last_credit(bench: Bench) -> list[results.Line]:
    """100 tasks race for credits that cover 37 of them."""
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


async def lag(bench: Bench, *, per_s: float, seconds: float) -> list[results.Line]:
    """Flush lag at a steady rate."""
    begin_s = time.time()
    tally = await bench.paced(per_s, seconds)
    assert tally.failed == 0, tally.first_failure
    lifecycles = tally.calls // 2
    connection = await pool.connect(bench.world.postgres.dsn, application_name="meterd bench")
    try:
        deadline_s = time.monotonic() + 30
        while (row := await connection.fetchrow(_LAG, begin_s))["records"] < lifecycles:
            assert time.monotonic() < deadline_s, f"{row['records']} of {lifecycles} were flushed"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    rate = lifecycles / (tally.end_s - tally.begin_s)
    note = f"p50 {float(row['p50']) * 1000:.0f} ms over {lifecycles:,} at {rate:,.0f} lifecycles/s"
    return [results.Line(name="flush lag p99", measured=float(row["p99"]) * 1000, unit="ms", at_most=1_000, note=note)]


async def memory(bench: Bench, *, lifecycles: int) -> list[results.Line]:
    """Resident memory of the server over many lifecycles: its size, and how much it grew over the second half."""
    process, done = bench.world.server_process, 0
    sizes = list[float]()
    while done < lifecycles:
        run = load.Runner(bench._metering, 5.0)  # pyright: ignore[reportPrivateUsage]
        tally = await run.lifecycles(bench.world.accounts, IN_FLIGHT)
        assert tally.failed == 0, tally.first_failure
        done += tally.calls // 2
        sizes.append(process.memory_info().rss / 1e6)
    middle = sizes[len(sizes) // 2]
    note = f"after {done:,} lifecycles"
    return [
        results.Line(name="server RSS", measured=sizes[-1], unit="MB", at_most=200, note=note),
        results.Line(name="RSS growth over the second half", measured=sizes[-1] - middle, unit="MB", at_most=10, note=note),
    ]
