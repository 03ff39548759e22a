"""A real Postgres and a real Redis with the real scripts, and one account between them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from meterd.core import ids, ledger
from meterd.meter import hydration, projector
from meterd.postgres import catalog
from meterd.redis import ledger as redis_ledger
from meterd.redis import runner
from tests.integration import outbox


class Stores:
    def __init__(self, world: outbox.World, run: runner.Runner, store: redis_ledger.RedisLedger) -> None:
        self.world, self.run, self.store = world, run, store
        self.projector = projector.Projector(connections=world.pool, store=store, age_s=0.0)
        self.hydrator = hydration.Hydrator(connections=world.pool, store=store)
        self.address = ids.account_address("t", "acct")

    async def account(self) -> None:
        await self.world.catalog.create_account(catalog.NewAccount(tenant_id="t", account_id="acct"))

    async def grant(self, key: str, amount: int) -> catalog.Grant:
        made, _ = await self.world.catalog.add_grant(
            catalog.NewGrant(
                tenant_id="t",
                account_id="acct",
                idempotency_key=key,
                wallet="default",
                amount_micros=amount,
                category=1,
            )
        )
        return made

    async def reserve(self, amount: int, *, ttl_ms: int = 60_000) -> ledger.Held:
        command = ledger.Reserve(
            tenant_id="t",
            address=self.address,
            hold=ids.uuid7(self.world.now_ms),
            wallet="default",
            amount_micros=amount,
            amount_min_micros=amount,
            digest=b"12345678",
            ttl_ms=ttl_ms,
            overage=ledger.Overage.ACCOUNT,
            expiry=ledger.Expiry.RELEASE,
            terms=b'{"item":"credits"}',
        )
        outcome = await self.store.reserve(command)
        assert isinstance(outcome, ledger.Held)
        return outcome

    async def commit(self, held: ledger.Held, amount: int) -> None:
        await self.store.commit(
            ledger.Commit(
                tenant_id="t",
                address=self.address,
                hold=held.hold,
                amount_micros=amount,
                digest=b"abcdefgh",
                detail=b'{"us":1}',
            )
        )

    async def lose_redis(self) -> None:
        """All keys go; the sentinels are put back, as a recovery does."""
        await self.run.command(("FLUSHALL",))
        for partition in range(outbox.PARTITIONS):
            await self.world.client.set(f"{{m:{partition:02d}}}:e", "1:test")

    async def state(self) -> ledger.AccountState:
        found = await self.store.account(self.address)
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def opened(dsn: str, redis_url: str) -> AsyncGenerator[Stores]:
    async with outbox.world(dsn, redis_url) as world:
        run = runner.Runner(redis_url)
        await run.start()
        assert await run.wait_connected(5)
        store = redis_ledger.RedisLedger(run, partitions=outbox.PARTITIONS)
        for script in store.scripts.values():
            await run.command(("SCRIPT", "LOAD", script.text))
        store.sentinels[:] = [b"1:test"] * outbox.PARTITIONS
        yield Stores(world, run, store)
        await run.close()
