"""Stores that are there and yet do not do their work: locked, read-only, full, or put back from a backup. Nothing is lost by it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest_asyncio

from meterd.embedded import postgres
from meterd_client.v1 import metering_pb2, types_pb2
from tests.integration import serving


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


async def spent(client: serving.Client, amount_micros: int) -> int:
    """One lifecycle: reserve ten more than that, commit. What is available then, as Redis has it."""
    hold = await client.reserve("acct", amount_micros + 10)
    commit = metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=amount_micros)
    return (await client.call("Commit", commit)).balance.available_micros


async def is_fresh(client: serving.Client) -> bool:
    """Whether Postgres has everything. Connections that were ended may fail a call that reads from it."""
    try:
        return await client.is_fresh("acct")
    except grpc.aio.AioRpcError as fault:
        assert fault.code() is grpc.StatusCode.UNAVAILABLE
        return False


def charge(amount_micros: int) -> metering_pb2.ChargeRequest:
    credits = types_pb2.CreditsCharge(amount_micros=amount_micros)
    return metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id="acct", credits=credits)


async def rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM ledger WHERE kind IN ('C', 'H')")
    finally:
        await connection.close()


async def test_a_table_that_is_locked_holds_up_no_call(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await client.fund("acct", 1_000)
        await serving.eventually(lambda: client.is_fresh("acct"))
        locker = await asyncpg.connect(scene.dsn)
        async with locker.transaction():
            await locker.execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
            assert [await spent(client, 20) for _ in range(5)] == [980, 960, 940, 920, 900]
            assert await locker.fetchval("SELECT count(*) FROM ledger WHERE kind = 'C'") == 0
        await locker.close()
        await serving.eventually(lambda: client.is_fresh("acct"))
    assert await rows(scene.dsn) == 5
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_database_that_takes_no_writes_is_written_to_once_it_does(scene: serving.Scene) -> None:
    admin = await asyncpg.connect(scene.dsn)
    name = await admin.fetchval("SELECT current_database()")

    async def set_read_only(value: str) -> None:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
        # Sessions have it from their beginning.
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            name,
        )

    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await client.fund("acct", 1_000)
        await serving.eventually(lambda: client.is_fresh("acct"))
        await set_read_only("on")
        assert [await spent(client, 20) for _ in range(5)] == [980, 960, 940, 920, 900]
        refusal = await client.refused("Grant", serving.grant_request("acct", 1))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE, refusal
        await set_read_only("off")
        await serving.eventually(lambda: is_fresh(client))
    await admin.close()
    assert await rows(scene.dsn) == 5
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_an_outbox_at_its_limit_takes_no_new_work_but_ends_what_is_open(scene: serving.Scene) -> None:
    length_max = 1_000
    settings = serving.settings_of(scene.dsn, scene.redis_url, outbox_length_max=length_max)
    async with serving.running(settings) as server:
        client = server.client(scene.key)
        await client.fund("acct", 1_000_000)
        open_holds = [await client.reserve("acct", 10) for _ in range(2)]
        # The grant's record is there already.
        await asyncio.gather(*(client.call("Charge", charge(1)) for _ in range(length_max - 1)))
        for name, request in (("Charge", charge(1)), ("Reserve", serving.reserve_request("acct", 1))):
            assert (await client.refused(name, request)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        commit = metering_pb2.CommitRequest(hold_id=open_holds[0].hold_id, amount_micros=7)
        assert (await client.call("Commit", commit)).settlement.charged_micros == 7
        await client.call("Release", metering_pb2.ReleaseRequest(hold_id=open_holds[1].hold_id))
        assert await client.balance("acct") == (1_000_000 - (length_max - 1) - 7, 0)
        flushing = serving.settings_of(scene.dsn, scene.redis_url, workers=True, outbox_retention_ms=0)
        async with serving.running(flushing):

            async def has_room() -> bool:
                try:
                    await client.call("Charge", charge(1))
                except grpc.aio.AioRpcError:
                    return False
                return True

            await serving.eventually(has_room)
            await serving.eventually(lambda: client.is_fresh("acct"))
    assert await serving.findings(scene.dsn, scene.redis_url) == []


@pytest_asyncio.fixture
async def backup_name(postgres_server_dsn: str) -> AsyncIterator[str]:
    name = f"meterd_{uuid.uuid4().hex}"
    yield name
    postgres.drop_database(postgres_server_dsn, name)


async def test_a_postgres_that_is_put_back_gets_again_what_it_has_lost(
    scene: serving.Scene, postgres_server_dsn: str, backup_name: str
) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await client.fund("acct", 1_000)
        await spent(client, 100)
        await serving.eventually(lambda: client.is_fresh("acct"))
    original = scene.dsn.rpartition("/")[2].partition("?")[0]
    restored = postgres.create_database(postgres_server_dsn, backup_name, original)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        for _ in range(20):
            await spent(client, 10)
        await serving.eventually(lambda: client.is_fresh("acct"))
    assert (await rows(scene.dsn), await rows(restored)) == (21, 1)
    async with serving.running(serving.settings_of(restored, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await spent(client, 50)
        await serving.eventually(lambda: client.is_fresh("acct"))
        assert await client.balance("acct") == (1_000 - 100 - 200 - 50, 0)
    assert await rows(restored) == 22
    assert await serving.findings(restored, scene.redis_url) == []
