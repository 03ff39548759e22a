"""The flusher: how fast it drains a backlog of real records from Redis into Postgres."""

from __future__ import annotations

import pathlib
import time

import redis.asyncio
import uvloop

from benchmarks import ledger_load, results, world
from meterd.meter import fence, hydration, lanes
from meterd.postgres import catalog, migrate, partitions, pool
from meterd.redis import runner
from tests.acceptance import processes

_PART = 20_000


async def _prepare(bench: ledger_load.Bench, dsn: str) -> None:
    """Accounts and grants born in Postgres, and a Redis that is armed and has them."""
    await migrate.migrate(dsn, partitions=ledger_load.PARTITIONS)
    connections = await pool.create(dsn)
    try:
        book = catalog.Catalog(connections, partitions=ledger_load.PARTITIONS)
        await book.create_tenant(ledger_load.TENANT)

        async def positions() -> list[partitions.Position]:
            return await partitions.positions(connections)

        async def claim(partition: int, incarnation: str) -> bool:
            return await partitions.claim_incarnation(connections, partition, incarnation)

        await fence.Fence(bench.book, bench.run, positions=positions, claim_incarnation=claim).arm()
        for number, address in enumerate(bench.addresses):
            name = f"account-{number:04d}"
            await book.create_account(catalog.NewAccount(tenant_id=ledger_load.TENANT, account_id=name))
            for at in (1, 2):
                grant = catalog.NewGrant(
                    tenant_id=ledger_load.TENANT,
                    account_id=name,
                    idempotency_key=f"{name}/{at}",
                    wallet="default",
                    amount_micros=ledger_load.GRANT_MICROS,
                    category=at,
                )
                await book.add_grant(grant)
            async with connections.acquire() as connection:
                await hydration.load(connection, bench.book, address)
    finally:
        await connections.close()


async def _drain(valkey: processes.Valkey, postgres: processes.Postgres, count: int) -> list[results.Line]:
    run = runner.Runner(valkey.url)
    await run.start()
    assert await run.wait_connected(5)
    client = redis.asyncio.Redis.from_url(valkey.url)
    try:
        bench = ledger_load.Bench(run)
        await _prepare(bench, postgres.dsn)
        for start in range(0, count, _PART):
            await ledger_load.lifecycles(bench, min(_PART, count - start))
        worker = lanes.Lanes(partitions=ledger_load.PARTITIONS, client=client, dsn=postgres.dsn)
        begin_s, cpu_s = time.perf_counter(), time.process_time()
        drained = await worker.drain()
        wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
        assert worker.stats().flushed == drained >= count and worker.stats().dead == 0, worker.stats()
        await worker.close()
    finally:
        await client.aclose()
        await run.close()
    note = f"{drained:,} records in {wall_s:.1f} s, flusher's own CPU {cpu_s / wall_s:.0%}"
    return [results.Line(name="flusher drains", measured=drained / wall_s, unit="/s", at_least=15_000, note=note)]


def run(directory: pathlib.Path, *, count: int) -> list[results.Line]:
    """Drains `count` records, the flusher on one core. Starts a Valkey and a Postgres of its own, which have all of them: no load is
    there that they could disturb."""
    ours, _ = world.cores()
    with processes.stores(directory) as (valkey, postgres), world.held_to(ours):
        return uvloop.run(_drain(valkey, postgres, count))
