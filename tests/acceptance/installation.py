"""One installation of meterd made of real processes, with keys, and what tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Generator
from typing import Any

import asyncpg
import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterd.core import ids, money
from meterd.replay import plan, play, player, trace, wire
from meterd_client.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    catalog_pb2_grpc,
    events_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
    reports_pb2_grpc,
    types_pb2,
)
from tests.acceptance import processes

CALL_TIMEOUT_S = 10.0


def new_id() -> str:
    """A UUIDv7 for a hold or a charge."""
    return str(ids.uuid7(time.time_ns() // 1_000_000))


class Client:
    """The services with one key, synchronously."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self._services = (
            metering_pb2_grpc.MeteringStub(channel),
            accounts_pb2_grpc.AccountsStub(channel),
            catalog_pb2_grpc.CatalogStub(channel),
            events_pb2_grpc.EventsStub(channel),
            reports_pb2_grpc.ReportsStub(channel),
        )
        self._metadata = [("authorization", f"Bearer {key}")] if key else []

    def call(self, verb: str, request: Any) -> Any:
        """The answer; grpc.RpcError otherwise."""
        stub = next(stub for stub in self._services if hasattr(stub, verb))
        return getattr(stub, verb)(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)

    def refused(self, verb: str, request: Any) -> tuple[grpc.StatusCode, str]:
        """Status and message of a call that has to fail."""
        try:
            answer = self.call(verb, request)
        except grpc.RpcError as fault:
            # A call that failed is its own error.
            call: Any = fault
            return call.code(), call.details()
        raise AssertionError(f"{verb} was answered: {answer}")

    def funded(self, account_id: str, amount_micros: int) -> str:
        """A new account with one grant; its name."""
        self.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id))
        self.call(
            "Grant",
            accounts_pb2.GrantRequest(
                idempotency_key=f"grant-{account_id}",
                account_id=account_id,
                amount_micros=amount_micros,
                category=types_pb2.GRANT_CATEGORY_PAID,
            ),
        )
        return account_id

    def reserve_credits(self, account_id: str, amount_micros: int) -> metering_pb2.ReserveResponse:
        request = metering_pb2.ReserveRequest(
            hold_id=new_id(), account_id=account_id, credits=types_pb2.CreditsCharge(amount_micros=amount_micros)
        )
        return self.call("Reserve", request)


@dataclasses.dataclass
class Installation:
    """Valkey, Postgres and one server; `admin_key` and `meter_key` are of tenant "acme"."""

    valkey: processes.Valkey
    postgres: processes.Postgres
    server: processes.Server
    admin_key: str = ""
    meter_key: str = ""

    def meterd(self, *arguments: str) -> str:
        """Standard output of a meterd command that has to succeed."""
        done = processes.meterd(arguments, redis_url=self.valkey.url, dsn=self.postgres.dsn)
        assert done.returncode == 0, f"meterd {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def make_key(self, tenant_id: str, role: str) -> str:
        return json.loads(self.meterd("keys", "create", "--tenant", tenant_id, "--role", role, "--json"))["key"]

    def verify(self) -> None:
        self.meterd("verify")

    @contextlib.contextmanager
    def client(self, key: str | None = None) -> Generator[Client]:
        """A client with `key`; the admin's if None, without one if empty."""
        with grpc.insecure_channel(self.server.address) as channel:
            yield Client(channel, self.admin_key if key is None else key)

    def is_serving(self) -> bool:
        with grpc.insecure_channel(self.server.address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(  # pyright: ignore[reportAttributeAccessIssue]
                    health_pb2.HealthCheckRequest(), timeout=2
                )
            except grpc.RpcError:
                return False
            return answer.status == health_pb2.HealthCheckResponse.SERVING

    def sql(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        """Rows that Postgres answers."""

        async def ask() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.postgres.dsn)
            try:
                return [dict(row) for row in await connection.fetch(query, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def written(self) -> tuple[int, int, int]:
        """Changes whenever Redis is written by a call: keys, outbox entries ever made, and open holds."""
        with redis.Redis.from_url(self.valkey.url) as client:
            entries = holds = 0
            keys = 0
            for name in client.scan_iter(count=1_000):
                keys += 1
                if name.endswith(b":o"):
                    entries += client.xinfo_stream(name)["entries-added"]
                elif name.endswith(b":d"):
                    holds += client.zcard(name)
            return keys, entries, holds

    def options(self, *, run_id: str = "", address: str = "", **mix: Any) -> play.Options:
        """To play against this installation, with the cost checked and the ledger proven at the end."""
        shares: dict[str, Any] = {"accounts": 20, "abort_share": 0.0, "late_share": 0.0, "seed": 1} | mix
        return play.Options(
            target=wire.Target(
                address=self.server.address, key=self.meter_key, admin_key=self.admin_key, patience_s=60
            ),
            mix=plan.Mix(**shares),
            settings=player.Settings(
                run_id=run_id or play.new_run_id(),
                model="gpt-4o-mini",
                provider="openai",
                grant_micros=1_000_000 * money.MICROS_PER_CREDIT,
            ),
            postgres_dsn=self.postgres.dsn,
            redis_url=self.valkey.url,
            check_cost=True,
        )

    def generated(self, count: int) -> list[trace.Request]:
        return trace.generate(count, seed=7)


@contextlib.contextmanager
def installed(directory: pathlib.Path, **settings: str) -> Generator[Installation]:
    """A running installation in a directory of its own."""
    with processes.stores(directory) as (valkey, postgres):
        server = processes.Server(directory=directory, redis_url=valkey.url, dsn=postgres.dsn, settings=settings)
        made = Installation(valkey=valkey, postgres=postgres, server=server)
        made.meterd("migrate")
        made.admin_key = made.make_key("acme", "admin")
        made.meter_key = made.make_key("acme", "meter")
        try:
            server.start()
            processes.wait_until(made.is_serving, "health SERVING")
            yield made
        finally:
            server.kill()
