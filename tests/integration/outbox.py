"""Makes outbox entries as the scripts write them, and keeps the balances that they claim: what Postgres must add up to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import asyncpg
import redis.asyncio

from meterd.core import ids
from meterd.meter import flusher, lanes
from meterd.postgres import catalog, migrate, partitions, pool, records
from meterd.redis import keys

PARTITIONS = 4

TERMS = {
    "item": "model:openai/gpt-4o-mini",
    "user": "u1",
    "team": "t1",
    "op": "op-1",
    "pv": "2026-11-01.1",
    "model": "gpt-4o-mini",
}
DETAIL = {
    "us": 1,
    "cost": "0.00012345",
    "model": "gpt-4o-mini-2024-07-18",
    "usage": {"input_tokens": 1200, "output_tokens": 300},
    "lines": [["input", "1200", "0.00000015", "0.00018"], ["output", "300", "0.0000006", "0.00018"]],
    "exact": "123450.5",
}


@dataclasses.dataclass
class Writer:
    """Writes the records of one account. `available` is by grant."""

    address: str
    partition: int
    epoch: int = 1
    seq: int = 0
    txn: str = ""
    wallet: str = "default"
    available: dict[uuid.UUID, int] = dataclasses.field(default_factory=dict[uuid.UUID, int])
    granted: int = 0
    spent: int = 0
    expired: int = 0
    revoked: int = 0
    entries: list[dict[bytes, bytes]] = dataclasses.field(default_factory=list[dict[bytes, bytes]])

    def entry(self, kind: str, txn: uuid.UUID, **fields: Any) -> dict[bytes, bytes]:
        self.seq += 1
        values: dict[str, Any] = dict.fromkeys((name.decode() for name in records.NAMES), "0")
        values |= {"k": kind, "t": txn.hex, "p": self.txn or "-", "a": self.address, "e": self.epoch, "s": self.seq}
        values |= {"at": ids.uuid7_ms(txn), "w": self.wallet, "d": "-", "y": "-", "z": "-", "f": "-", "m": "", "j": ""}
        values |= {"b": sum(self.available.values())} | fields
        assert len(values) == len(records.NAMES)
        self.txn = kind + txn.hex
        terms, detail = (
            text if isinstance(text, bytes) else text.encode() for text in (values.pop("m"), values.pop("j"))
        )
        core = " ".join(str(values[name.decode()]) for name in records.NAMES[:-2])
        encoded = {b"r": core.encode(), b"m": terms, b"j": detail}
        self.entries.append(encoded)
        return encoded

    def grant(self, row: catalog.Grant) -> dict[bytes, bytes]:
        self.available[row.grant_id] = row.amount_micros
        self.granted += row.amount_micros
        return self.entry("G", row.grant_id, g=row.amount_micros, i=row.change_no)

    def commit(
        self, amount: int, *, now_ms: int, terms: Any = TERMS, detail: Any = DETAIL, **fields: Any
    ) -> dict[bytes, bytes]:
        txn = ids.uuid7(now_ms)
        grant_id = next(grant for grant, left in self.available.items() if left >= amount)
        self.available[grant_id] -= amount
        self.spent += amount
        settled = {"h": amount + 5, "c": amount, "r": 5, "d": f"{grant_id.hex}:{amount}", "l": 2}
        settled |= {"f": hashlib.sha256(txn.bytes).digest()[:8].hex(), "m": json.dumps(terms), "j": json.dumps(detail)}
        return self.entry("C", txn, **settled | fields)

    def revoke(self, revocation: catalog.Revocation) -> dict[bytes, bytes]:
        grant_id = revocation.grant.grant_id
        amount, self.available[grant_id] = self.available[grant_id], 0
        self.revoked += amount
        return self.entry("V", revocation.revocation_id, v=amount, z=f"{grant_id.hex}:{amount}", i=revocation.change_no)

    def expire_grant(self, grant_id: uuid.UUID) -> dict[bytes, bytes]:
        amount, self.available[grant_id] = self.available[grant_id], 0
        self.expired += amount
        return self.entry("X", grant_id, x=amount, y=f"{grant_id.hex}:{amount}")

    async def send(self, client: Any) -> None:
        """XADDs what was made since the last time."""
        pipeline = client.pipeline(transaction=False)
        for fields in self.entries:
            pipeline.xadd(keys.outbox(self.partition), fields)
        self.entries = []
        await pipeline.execute()


@dataclasses.dataclass
class World:
    """A migrated database and an empty Redis that know each other, with tenant "t"."""

    dsn: str
    pool: asyncpg.Pool
    client: Any
    catalog: catalog.Catalog
    now_ms: int

    def flusher(self, **options: Any) -> flusher.Flusher:
        return flusher.Flusher(client=self.client, dsn=self.dsn, partitions=range(PARTITIONS), **options)

    def lanes(self, **options: Any) -> lanes.Lanes:
        return lanes.Lanes(partitions=PARTITIONS, client=self.client, dsn=self.dsn, **options)

    async def writer(self, account_id: str, *amounts: int, tenant_id: str = "t") -> Writer:
        """A new account with grants whose records wait to be sent."""
        account, _ = await self.catalog.create_account(catalog.NewAccount(tenant_id=tenant_id, account_id=account_id))
        made = Writer(address=account.address, partition=account.partition)
        for at, amount in enumerate(amounts):
            granted, _ = await self.catalog.add_grant(
                catalog.NewGrant(
                    tenant_id=tenant_id,
                    account_id=account_id,
                    idempotency_key=f"{account_id}-{at}",
                    wallet="default",
                    amount_micros=amount,
                    category=1,
                )
            )
            made.grant(granted)
        return made

    async def has_rows(self, count: int) -> bool:
        return await self.pool.fetchval("SELECT count(*) FROM ledger") >= count

    async def assert_folded(self, *writers: Writer) -> None:
        """Postgres has every record once and adds up to what the writers say."""
        for writer in writers:
            account = await self.pool.fetchrow("SELECT * FROM accounts WHERE address = $1", writer.address)
            counted = (
                account["granted_micros"],
                account["spent_micros"],
                account["expired_micros"],
                account["revoked_micros"],
            )
            assert counted == (writer.granted, writer.spent, writer.expired, writer.revoked)
            assert (account["last_seq"], account["last_txn"]) == (writer.seq, writer.txn)
            seqs = await self.pool.fetch(
                "SELECT seq FROM ledger WHERE account_no = $1 ORDER BY seq", account["account_no"]
            )
            assert [row["seq"] for row in seqs] == list(range(1, writer.seq + 1))
            left = await self.pool.fetch(
                "SELECT grant_id, amount_micros - spent_micros - expired_micros - revoked_micros AS available FROM grants "
                "WHERE account_no = $1",
                account["account_no"],
            )
            assert {row["grant_id"]: row["available"] for row in left} == writer.available


async def until(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 20.0) -> None:
    """Returns as soon as `holds` does; TimeoutError if it does not."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world(dsn: str, redis_url: str) -> AsyncGenerator[World]:
    await migrate.migrate(dsn, partitions=PARTITIONS)
    connections = await pool.create(dsn)
    client = redis.asyncio.Redis.from_url(redis_url)
    try:
        for partition in range(PARTITIONS):
            await partitions.claim_incarnation(connections, partition, "test")
            await client.set(keys.sentinel(partition), "1:test")
        made = catalog.Catalog(connections, partitions=PARTITIONS)
        await made.create_tenant("t")
        yield World(dsn=dsn, pool=connections, client=client, catalog=made, now_ms=time.time_ns() // 1_000_000)
    finally:
        await client.aclose()
        await connections.close()
