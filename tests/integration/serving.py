"""A server of this process on real stores, reached over real gRPC: keys, stubs, and what both stores hold."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import asyncpg
import grpc
import grpc.aio
import redis.asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterd import settings
from meterd.cli import stores
from meterd.core import ids
from meterd.embedded import process
from meterd.meter import verification
from meterd.postgres import keys, pool
from meterd.server import app
from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, metering_pb2, reports_pb2, types_pb2

# What a call may take on a busy machine; no test waits for it to pass.
CALL_TIMEOUT_S = 20.0
START_TIMEOUT_S = 30.0
PRICES = """
features:
  cover_letter: {credits: 12}
rates:
  vm_minute: {credits: 0.5}
"""
# As METERING of the generated descriptors: what a client can call, by method name.
_METHODS: dict[str, tuple[str, Any, Any]] = {
    method.name: (
        f"/{service.full_name}/{method.name}",
        getattr(module, method.input_type.name),
        getattr(module, method.output_type.name),
    )
    for module in (metering_pb2, accounts_pb2, catalog_pb2, reports_pb2, events_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id(ahead_ms: int = 0) -> str:
    """A UUIDv7 for a hold or a charge."""
    return str(ids.uuid7(now_ms() + ahead_ms))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    code: grpc.StatusCode
    message: str


def _encoded(request: Any) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


class Client:
    """All methods with one key. `key` "" sends none."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.channel = channel
        self.metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {key}"),) if key else ()

    def start(self, name: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The call, begun. `request` may be bytes, which are sent as they are."""
        path, _, answer = _METHODS[name]
        method = self.channel.unary_unary(path, request_serializer=_encoded, response_deserializer=answer.FromString)
        return method(request, metadata=self.metadata, timeout=timeout_s)

    async def call(self, name: str, request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The answer; grpc.aio.AioRpcError otherwise."""
        return await self.start(name, request, timeout_s)

    async def refused(self, name: str, request: Any) -> Refusal:
        """Status and message of a call that has to fail."""
        try:
            answer = await self.call(name, request)
        except grpc.aio.AioRpcError as fault:
            return Refusal(code=fault.code(), message=fault.details() or "")
        raise AssertionError(f"{name} was answered: {answer}")

    def stream(self, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """A Stream, opened."""
        method = self.channel.stream_stream(
            "/meterd.v1.Metering/Stream",
            request_serializer=_encoded,
            response_deserializer=metering_pb2.StreamResponse.FromString,
        )
        return method(metadata=self.metadata, timeout=timeout_s)

    async def fund(self, account_id: str, amount_micros: int, **settings_: Any) -> types_pb2.Balance:
        """Makes the account if it is not there, and grants it the amount; its balance after it."""
        await self.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id, **settings_))
        return (await self.call("Grant", grant_request(account_id, amount_micros))).balance

    async def reserve(self, account_id: str, amount_micros: int, **fields: Any) -> types_pb2.Hold:
        """A hold of plain credits."""
        answer = await self.call("Reserve", reserve_request(account_id, amount_micros, **fields))
        assert answer.WhichOneof("outcome") == "hold", answer
        return answer.hold

    async def balance(self, account_id: str) -> tuple[int, int]:
        """Available and held micro-credits of the wallet "default"."""
        found = await self.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id))
        (wallet,) = (wallet for wallet in found.wallets if wallet.wallet == "default")
        return wallet.available_micros, wallet.held_micros

    async def is_fresh(self, account_id: str) -> bool:
        """Whether Postgres has all records of the account."""
        found = await self.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id))
        return found.freshness_ms == 0


def grant_request(account_id: str, amount_micros: int, **fields: Any) -> accounts_pb2.GrantRequest:
    values: dict[str, Any] = {
        "idempotency_key": new_id(),
        "account_id": account_id,
        "amount_micros": amount_micros,
        "category": types_pb2.GRANT_CATEGORY_PAID,
    }
    return accounts_pb2.GrantRequest(**values | fields)


def reserve_request(account_id: str, amount_micros: int, **fields: Any) -> metering_pb2.ReserveRequest:
    credits = types_pb2.CreditsCharge(amount_micros=amount_micros)
    values: dict[str, Any] = {"hold_id": new_id(), "account_id": account_id, "credits": credits}
    return metering_pb2.ReserveRequest(**values | fields)


@dataclasses.dataclass
class Server:
    """A running server; `task` ends with its exit status."""

    address: str
    settings: settings.Settings
    app: app.App
    task: asyncio.Task[int]
    channel: grpc.aio.Channel

    def client(self, key: str) -> Client:
        return Client(self.channel, key)

    async def stopped(self) -> int:
        """Asks it to stop; its exit status."""
        self.app.stop()
        return await self.task

    async def health(self, service: str = "") -> str:
        """SERVING or NOT_SERVING."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_TIMEOUT_S)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a probe."""
        return await asyncio.to_thread(http_get, f"http://{self.settings.http_listen}{path}")


def http_get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settings_of(dsn: str, redis_url: str, **changes: Any) -> settings.Settings:
    """Quick to stop, on ports of its own, without workers: then nothing is written but by calls."""
    values: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "http_listen": "",
        "redis_url": redis_url,
        "postgres_dsn": dsn,
        "workers": False,
        # The tests' stores keep nothing on disk.
        "allow_unsafe": True,
        "lame_duck_ms": 0,
        "drain_ms": 5_000,
    }
    return settings.Settings(**values | changes)


@contextlib.asynccontextmanager
async def running(
    given: settings.Settings, *, ready: bool = True, options: list[tuple[str, Any]] | None = None, **app_options: Any
) -> AsyncGenerator[Server]:
    """The server until the block ends. `ready`: waits until all calls can be decided."""
    made = app.App(given, **app_options)
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(made.serve(address.set_result))
    try:
        await asyncio.wait((task, address), timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            raise AssertionError(f"the server ended with {task.result()}")
        async with grpc.aio.insecure_channel(address.result(), options=options) as channel:
            server = Server(address=address.result(), settings=given, app=made, task=task, channel=channel)
            if ready:
                await eventually(lambda: _is(server, "SERVING"))
            yield server
    finally:
        made.stop()
        await task


async def _is(server: Server, status: str) -> bool:
    return await server.health() == status


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = START_TIMEOUT_S) -> float:
    """Asks again and again until it holds; the seconds that it took."""
    begin_s = time.monotonic()
    while not await holds():
        assert time.monotonic() - begin_s < timeout_s, "it does not come true"
        await asyncio.sleep(0.01)
    return time.monotonic() - begin_s


async def new_key(dsn: str, tenant_id: str, role: str, **options: Any) -> keys.CreatedKey:
    connections = await pool.create(dsn, size_max=1)
    try:
        return await keys.Keys(connections).create(tenant_id, role, **options)
    finally:
        await connections.close()


async def revoke_key(dsn: str, created: keys.CreatedKey) -> None:
    connections = await pool.create(dsn, size_max=1)
    try:
        await keys.Keys(connections).revoke(created.row.tenant_id, created.row.key_id)
    finally:
        await connections.close()


Snapshot = dict[str, Any]


class Contents:
    """All that both stores hold, to be compared."""

    def __init__(self, client: Any, connection: Any) -> None:
        self._client = client
        self._connection = connection
        self._next_xid = ""
        self._rows: Snapshot = {}

    async def now(self) -> Snapshot:
        """Each key's content and expiry, and a digest of each table's rows."""
        names = sorted(await self._client.keys("*"))
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.dump(name)
            pipeline.pexpiretime(name)
        values = await pipeline.execute()
        # Where no transaction was given an id, none has written.
        next_xid = await self._connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        if next_xid != self._next_xid:
            self._next_xid, self._rows = next_xid, await self._digests()
        return {name.decode(): pair for name, *pair in zip(names, values[::2], values[1::2], strict=True)} | self._rows

    async def forget(self, pattern: str) -> None:
        """Deletes keys, as nothing in production does."""
        names = await self._client.keys(pattern)
        assert names
        await self._client.delete(*names)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncGenerator[None]:
        """Redis takes scripts that write meanwhile, and runs them after it."""
        await self._client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            yield
        finally:
            await self._client.execute_command("CLIENT", "UNPAUSE")

    async def _digests(self) -> Snapshot:
        tables = await self._connection.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        )
        assert tables
        digests = (
            f"SELECT '{table['name']}', count(*) || md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))"
            f" FROM {table['name']} t"
            for table in tables
        )
        return dict(await self._connection.fetch(" UNION ALL ".join(digests)))


@contextlib.asynccontextmanager
async def contents(dsn: str, redis_url: str) -> AsyncGenerator[Contents]:
    connection = await asyncpg.connect(dsn)
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    try:
        async with client:
            yield Contents(client, connection)
    finally:
        await connection.close()


async def findings(dsn: str, redis_url: str) -> list[str]:
    """What `meterd verify` finds; nothing if the ledger is proven."""
    async with stores.opened(dsn, redis_url, "meterd tests") as found:
        verdict = await verification.Verification(
            connection=found.connection, run=found.run, store=found.store, on_progress=lambda _: None
        ).verify()
        return [f"{one.account_id} {one.check}: {one.expected}, {one.actual}" for one in verdict.findings]


async def metric(server: Server, name: str) -> float:
    """The value of one line of /metrics, 0 where there is none."""
    _, text = await server.probe("/metrics")
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(values[0]) if values else 0.0


def http_address() -> str:
    """host:port on which nothing listens."""
    return f"127.0.0.1:{process.free_port()}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Two migrated stores, and an admin key of tenant "acme"."""

    dsn: str
    redis_url: str
    key: str


async def scene(dsn: str, redis_url: str) -> Scene:
    return Scene(dsn=dsn, redis_url=redis_url, key=(await new_key(dsn, "acme", "admin")).key)
