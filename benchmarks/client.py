"""What the clients add to a call: reserve and commit through them, next to bare stubs or bare fetch, in turns on one server.

The server is not measured: each side's own processor time is, with what grpc does for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
import grpc.aio

import meterd_client
from benchmarks import results, world
from meterd_client.v1 import metering_pb2, metering_pb2_grpc, types_pb2

# A lifecycle is two calls.
LIFECYCLES = 300
MODEL = "gpt-4o-mini"
INPUT_TOKENS, OUTPUT_TOKENS = 1_000, 200
RESPONSE = {"model": MODEL, "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}}
# What a call may cost a caller in its own process; the provider's takes a thousand times as long.
OVERHEAD_MAX_US = 150.0
# Some 10,000 calls on a slow machine.
NODE_TIMEOUT_S = 300
_TYPESCRIPT = pathlib.Path(__file__).resolve().parents[1] / "clients/typescript"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reserve_request(account: str) -> metering_pb2.ReserveRequest:
    model = types_pb2.ModelCharge(model=MODEL, input_tokens=INPUT_TOKENS, max_output_tokens=OUTPUT_TOKENS)
    return metering_pb2.ReserveRequest(hold_id=meterd_client.uuid7(), account_id=account, model=model)


def _commit_request(hold_id: str) -> metering_pb2.CommitRequest:
    usage = types_pb2.Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS)
    return metering_pb2.CommitRequest(hold_id=hold_id, usage=metering_pb2.ReportedUsage(usage=usage))


async def _timed(run: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Processor and wall time of a call in µs."""
    cpu_s, begin_s = _cpu_s(), time.perf_counter()
    for _ in range(LIFECYCLES):
        await run()
    calls = 2 * LIFECYCLES
    return (_cpu_s() - cpu_s) / calls * 1e6, (time.perf_counter() - begin_s) / calls * 1e6


def _timed_sync(run: Callable[[], object]) -> tuple[float, float]:
    """As _timed, without asyncio."""
    cpu_s, begin_s = _cpu_s(), time.perf_counter()
    for _ in range(LIFECYCLES):
        run()
    calls = 2 * LIFECYCLES
    return (_cpu_s() - cpu_s) / calls * 1e6, (time.perf_counter() - begin_s) / calls * 1e6


async def _asynchronous(made: world.World, rounds: int) -> tuple[list[float], list[float]]:
    """Bare and client µs of processor time, round by round."""
    account, metadata = made.accounts[0], (("authorization", f"Bearer {made.key}"),)
    bare_us, client_us = list[float](), list[float]()
    async with (
        grpc.aio.insecure_channel(made.server.address) as channel,
        meterd_client.Meter(made.server.address, key=made.key) as meter,
    ):
        stub = metering_pb2_grpc.MeteringStub(channel)

        async def bare() -> None:
            held = await stub.Reserve(_reserve_request(account), metadata=metadata, timeout=5.0)
            await stub.Commit(_commit_request(held.hold.hold_id), metadata=metadata, timeout=5.0)

        async def through() -> None:
            async with meter.hold(
                account, model=MODEL, input_tokens=INPUT_TOKENS, max_output_tokens=OUTPUT_TOKENS
            ) as hold:
                await hold.commit(RESPONSE)

        for number in range(rounds + 1):
            bare_round, client_round = await _timed(bare), await _timed(through)
            # The first connects and warms up.
            if number:
                bare_us.append(bare_round[0])
                client_us.append(client_round[0])
    return bare_us, client_us


def _synchronous(made: world.World, rounds: int) -> tuple[list[float], list[float]]:
    """As _asynchronous, for the synchronous client."""
    account, metadata = made.accounts[0], (("authorization", f"Bearer {made.key}"),)
    bare_us, client_us = list[float](), list[float]()
    with (
        grpc.insecure_channel(made.server.address) as channel,
        meterd_client.SyncMeter(made.server.address, key=made.key) as meter,
    ):
        stub = metering_pb2_grpc.MeteringStub(channel)

        def bare() -> None:
            held = stub.Reserve(_reserve_request(account), metadata=metadata, timeout=5.0)
            stub.Commit(_commit_request(held.hold.hold_id), metadata=metadata, timeout=5.0)

        def through() -> None:
            with meter.hold(account, model=MODEL, input_tokens=INPUT_TOKENS, max_output_tokens=OUTPUT_TOKENS) as hold:
                hold.commit(RESPONSE)

        for number in range(rounds + 1):
            bare_round, client_round = _timed_sync(bare), _timed_sync(through)
            if number:
                bare_us.append(bare_round[0])
                client_us.append(client_round[0])
    return bare_us, client_us


def _line(name: str, bare_us: Sequence[float], client_us: Sequence[float], *, bare: str = "bare stubs") -> results.Line:
    added = [through - without for without, through in zip(bare_us, client_us, strict=True)]
    own = f"{statistics.median(client_us):,.0f} µs of its processor time a call"
    note = f"{own}, {statistics.median(bare_us):,.0f} by {bare}"
    return results.Line(name=name, measured=statistics.median(added), unit="µs", note=note)


def _typescript(made: world.World, directory: pathlib.Path, rounds: int) -> list[results.Line]:
    """The TypeScript client in Node; a line without a figure where it is not installed."""
    node, esbuild = shutil.which("node"), _TYPESCRIPT / "node_modules/.bin/esbuild"
    if node is None or not esbuild.exists():
        note = "needs Node, and `npm ci` in clients/typescript"
        return [results.Line(name="TypeScript client, added to a call", measured=None, unit="µs", note=note)]
    bundle = directory / "client.mjs"
    source = pathlib.Path(__file__).with_suffix(".mjs")
    flags = ("--bundle", "--platform=node", "--format=esm", "--log-level=error", f"--outfile={bundle}")
    subprocess.run([esbuild, source, *flags], check=True, timeout=NODE_TIMEOUT_S)
    asked = {
        "baseUrl": f"http://127.0.0.1:{made.http_port}",
        "key": made.key,
        "account": made.accounts[0],
        "model": MODEL,
        "inputTokens": INPUT_TOKENS,
        "outputTokens": OUTPUT_TOKENS,
        "lifecycles": LIFECYCLES,
        "rounds": rounds,
    }
    done = subprocess.run(
        [node, bundle, json.dumps(asked)], check=True, timeout=NODE_TIMEOUT_S, text=True, stdout=subprocess.PIPE
    )
    found = json.loads(done.stdout)
    return [
        _line(f"TypeScript client{name}, added to a call", found["bare"], found[side], bare="bare fetch")
        for side, name in (("connect", ""), ("json", "'s /edge"))
    ]


def run(directory: pathlib.Path, rounds: int) -> list[results.Line]:
    """The clients against a server of their own."""
    with world.opened(directory) as made:
        bare_us, client_us = asyncio.run(_asynchronous(made, rounds))
        lines = [_line("Python client, added to a call", bare_us, client_us)]
        bare_us, client_us = _synchronous(made, rounds)
        lines.append(_line("Python client without asyncio, added to a call", bare_us, client_us))
        lines = [dataclasses.replace(line, at_most=OVERHEAD_MAX_US) for line in lines]
        # Node's own fetch takes longer than that and varies by more, so it is for information.
        return lines + _typescript(made, directory, rounds)
