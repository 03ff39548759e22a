"""What could not be delivered: kept across processes, delivered once, bounded, and never dropped in silence."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from concurrent import futures
from typing import Any

import grpc
import pytest

import meterd_client
from meterd_client import spool, wire
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2
from tests.acceptance import processes
from tests.client import proxy, scenes
from tests.integration import serving

_ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}
RESPONSE_MICROS = 270_000


def _charge(account: str, amount_micros: int = 7) -> metering_pb2.ChargeRequest:
    return metering_pb2.ChargeRequest(
        idempotency_key=meterd_client.uuid7(),
        account_id=account,
        credits=types_pb2.CreditsCharge(amount_micros=amount_micros),
        overage_policy=types_pb2.OVERAGE_POLICY_DRAW,
    )


@contextlib.asynccontextmanager
async def _victim(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = processes.meterd_environment(redis_url="", dsn="")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.client.victim",
        *arguments,
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _said(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    assert (await process.stdout.readline()).decode().strip() == word


async def test_a_commit_of_a_killed_process_is_delivered_by_the_next(
    world: scenes.World, tmp_path: pathlib.Path
) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    async with (
        proxy.running(world.target) as between,
        _victim("commit", between.address, world.key, account, str(path)) as process,
    ):
        await _said(process, "reserved")
        between.is_refusing = True
        between.cut()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await _said(process, "ready")
        process.kill()
    assert (await world.client.balance(account))[1] == 750_000
    async with meterd_client.Meter(world.target, key=world.key, spool=path):
        await world.settled(account)
    assert await world.spent(account) == RESPONSE_MICROS


async def test_a_stream_of_a_killed_process_is_charged_as_reported(
    database: str, redis_url: str, tmp_path: pathlib.Path
) -> None:
    scene = await serving.scene(database, redis_url)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await client.fund("ada", scenes.FUNDS_MICROS)
        async with _victim("reported", server.address, scene.key, "ada", str(tmp_path / "spool.db")) as process:
            await _said(process, "ready")
            process.kill()
        expected = (scenes.FUNDS_MICROS - RESPONSE_MICROS, 0)

        async def is_charged() -> bool:
            return await client.balance("ada") == expected

        await serving.eventually(is_charged)


async def test_processes_share_a_spool_and_each_charge_is_made_once(
    world: scenes.World, tmp_path: pathlib.Path
) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    with meterd_client.Spool(path) as kept:
        for _ in range(60):
            kept.put(wire.entry(_charge(account)))
    meters = [meterd_client.Meter(world.target, key=world.key, spool=path) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for meter in meters:
            await stack.enter_async_context(meter)
        expected = (scenes.FUNDS_MICROS - 60 * 7, 0)

        async def is_delivered() -> bool:
            with meterd_client.Spool(path) as looked:
                return looked.count() == 0

        await serving.eventually(is_delivered)
    assert await world.client.balance(account) == expected


async def test_what_meterd_refuses_is_put_aside_with_its_reason(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    await world.client.call("UpdateAccount", accounts_pb2.UpdateAccountRequest(account_id=account, frozen=True))
    frozen, unknown = _charge(account), _charge("nobody")
    with meterd_client.Spool(path) as kept:
        for request in (frozen, unknown):
            kept.put(wire.entry(request))
        async with meterd_client.Meter(world.target, key=world.key, spool=kept):

            async def is_empty() -> bool:
                return kept.count() == 0

            await serving.eventually(is_empty)
        found = {entry.id: reason for entry, reason in kept.refused()}
    assert found.keys() == {frozen.idempotency_key, unknown.idempotency_key}
    assert "ACCOUNT_FROZEN" in found[frozen.idempotency_key]
    assert "no such account" in found[unknown.idempotency_key]


async def test_a_wrong_key_keeps_what_a_right_one_delivers(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    with meterd_client.Spool(path) as kept:
        kept.put(wire.entry(_charge(account)))
        async with meterd_client.Meter(world.target, key="mk_wrong", spool=kept):

            async def was_tried() -> bool:
                return kept.due(all_entries=True)[0].attempts > 0

            await serving.eventually(was_tried)
        async with meterd_client.Meter(world.target, key=world.key, spool=kept):

            async def is_charged() -> bool:
                return await world.spent(account) == 7

            await serving.eventually(is_charged)


async def test_a_full_spool_does_not_keep_a_commit_from_meterd(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account = await world.funded("ada")
    with meterd_client.Spool(tmp_path / "spool.db", entries_max=0) as kept:
        async with (
            meterd_client.Meter(world.target, key=world.key, spool=kept) as meter,
            meter.hold(account, **MODEL) as hold,
        ):
            await hold.commit(scenes.OPENAI_RESPONSE)
    assert await world.spent(account) == RESPONSE_MICROS


def test_a_spool_is_bounded(tmp_path: pathlib.Path) -> None:
    with meterd_client.Spool(tmp_path / "spool.db", entries_max=2) as kept:
        for _ in range(2):
            kept.put(wire.entry(_charge("ada")))
        with pytest.raises(meterd_client.SpoolFullError):
            kept.put(wire.entry(_charge("ada")))
        assert kept.count() == 2


def test_the_first_end_of_a_hold_is_its_end(tmp_path: pathlib.Path) -> None:
    commit = metering_pb2.CommitRequest(hold_id="h", amount_micros=5)
    with meterd_client.Spool(tmp_path / "spool.db") as kept:
        kept.put(wire.entry(commit))
        kept.put(wire.entry(metering_pb2.ReleaseRequest(hold_id="h")))
        (entry,) = kept.due(all_entries=True)
    assert entry == spool.Entry(id="h", method="Commit", request=commit.SerializeToString())


def test_a_fresh_entry_is_its_own_process_to_send(tmp_path: pathlib.Path) -> None:
    with meterd_client.Spool(tmp_path / "spool.db") as one, meterd_client.Spool(tmp_path / "spool.db") as other:
        one.put(wire.entry(_charge("ada")))
        assert other.due() == []
        assert len(other.due(all_entries=True)) == 1


def test_only_its_owner_reads_the_file(tmp_path: pathlib.Path) -> None:
    with meterd_client.Spool(tmp_path / "spool.db"):
        assert stat.S_IMODE((tmp_path / "spool.db").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        meterd_client.Meter("localhost:1", spool=tmp_path / "nowhere" / "spool.db")


def test_threads_may_write_at_once(tmp_path: pathlib.Path) -> None:
    with meterd_client.Spool(tmp_path / "spool.db") as one, meterd_client.Spool(tmp_path / "spool.db") as other:
        with futures.ThreadPoolExecutor(max_workers=8) as pool:
            done = [pool.submit(kept.put, wire.entry(_charge("ada"))) for kept in (one, other) * 50]
            for each in done:
                each.result()
        assert one.count() == 100


def test_a_refusal_that_may_pass_is_not_final() -> None:
    assert not wire.is_final(meterd_client.AuthenticationError("", grpc.StatusCode.UNAUTHENTICATED))
    assert not wire.is_final(meterd_client.UndecidedError("", grpc.StatusCode.UNAVAILABLE))
    assert wire.is_final(meterd_client.ConflictError("", grpc.StatusCode.ALREADY_EXISTS))
