"""API keys on a real Postgres: what is kept of them, rotation, and that a revocation reaches every server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from meterd.core import errors
from meterd.postgres import keys, pool
from meterd.server import auth
from tests.integration import outbox

NOW_MS = 1_800_000_000_000
DAY_S = 86_400


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(name="connections")
async def _connections(database: str) -> AsyncIterator[asyncpg.Pool]:  # pyright: ignore[reportUnusedFunction]
    connections = await pool.create(database)
    yield connections
    await connections.close()


@pytest.fixture
def made(connections: asyncpg.Pool, clock: Clock) -> keys.Keys:
    return keys.Keys(connections, clock_ms=clock)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


async def test_a_key_has_256_bits_and_is_found_by_its_digest(made: keys.Keys) -> None:
    created = await made.create("acme", "meter", name="backend", ttl_s=90 * DAY_S)
    assert re.fullmatch(r"mk_[A-Za-z0-9_-]{43}", created.key)
    assert await made.find([keys.digest_of(created.key)]) == [created.row]
    assert (created.row.tenant_id, created.row.role, created.row.name) == ("acme", "meter", "backend")
    assert (created.row.created_ms, created.row.expires_ms) == (NOW_MS, NOW_MS + 90 * DAY_S * 1000)


async def test_the_database_and_repr_hold_no_key(made: keys.Keys, connections: asyncpg.Pool) -> None:
    created = await made.create("acme", "meter")
    dump = await connections.fetchval("SELECT string_agg(k::text, ' ') FROM api_keys AS k")
    assert keys.digest_of(created.key).hex() in dump
    for part in (created.key, created.key[3:15], created.key.encode().hex()):
        assert part not in dump
        assert part not in repr(created)


async def test_many_keys_are_found_in_one_query_and_unknown_ones_left_out(made: keys.Keys) -> None:
    created = [await made.create(f"tenant-{number}", "read") for number in range(5)]
    digests = [one.row.digest for one in created]
    found = await made.find([*digests, b"\0" * 32])
    assert sorted(row.digest for row in found) == sorted(digests)
    assert await made.find([]) == []


async def test_a_tenant_is_created_with_its_first_key_only(made: keys.Keys, connections: asyncpg.Pool) -> None:
    await made.create("acme", "meter")
    await made.create("acme", "admin")
    assert await connections.fetchval("SELECT array_agg(tenant_id) FROM tenants") == ["acme"]


async def test_a_third_live_key_of_a_name_is_refused_until_one_is_revoked(made: keys.Keys) -> None:
    first = await made.create("acme", "meter", name="backend")
    await made.create("acme", "meter", name="backend")
    with pytest.raises(errors.FailedPreconditionError, match=f"revoke one first.*{first.row.key_id}"):
        await made.create("acme", "meter", name="backend")
    await made.create("acme", "meter", name="other")
    await made.create("acme", "read", name="backend")
    await made.create("umbrella", "meter", name="backend")
    await made.revoke("acme", first.row.key_id)
    await made.create("acme", "meter", name="backend")


async def test_an_expired_key_makes_room_for_another(made: keys.Keys, clock: Clock) -> None:
    await made.create("acme", "meter", ttl_s=10)
    await made.create("acme", "meter")
    clock.now_ms = NOW_MS + 9_999
    with pytest.raises(errors.FailedPreconditionError):
        await made.create("acme", "meter")
    clock.now_ms = NOW_MS + 10_000
    await made.create("acme", "meter")


async def test_of_many_creations_at_once_two_succeed(made: keys.Keys) -> None:
    found = await asyncio.gather(*(made.create("acme", "meter") for _ in range(8)), return_exceptions=True)
    refused = [one for one in found if isinstance(one, errors.FailedPreconditionError)]
    assert len(refused) == 6
    assert len(await made.list("acme")) == 2


async def test_a_repeated_revocation_keeps_the_first_time(made: keys.Keys, clock: Clock) -> None:
    created = await made.create("acme", "meter")
    first = await made.revoke("acme", created.row.key_id)
    clock.now_ms += 1_000
    assert await made.revoke("acme", created.row.key_id) == first
    assert first.revoked_ms == NOW_MS


async def test_another_tenants_key_cannot_be_revoked(made: keys.Keys) -> None:
    created = await made.create("acme", "meter")
    for tenant_id, key_id in (("umbrella", created.row.key_id), ("acme", "no-such-key")):
        with pytest.raises(errors.NotFoundError):
            await made.revoke(tenant_id, key_id)
    assert [row.revoked_ms for row in await made.list()] == [0]


async def test_keys_are_listed_by_tenant_oldest_first_with_revoked_ones(made: keys.Keys, clock: Clock) -> None:
    first = await made.create("umbrella", "meter")
    clock.now_ms += 1
    second = await made.create("umbrella", "read")
    clock.now_ms += 1
    third = await made.create("acme", "admin")
    await made.revoke("umbrella", first.row.key_id)
    assert [row.key_id for row in await made.list()] == [third.row.key_id, first.row.key_id, second.row.key_id]
    assert [row.key_id for row in await made.list("umbrella")] == [first.row.key_id, second.row.key_id]
    assert await made.list("nobody") == []


async def test_a_tenant_sees_its_own_keys_only(made: keys.Keys, connections: asyncpg.Pool) -> None:
    await made.create("acme", "meter")
    await made.create("umbrella", "meter")
    async with pool.as_tenant(connections, "acme") as connection:
        assert await connection.fetchval("SELECT array_agg(tenant_id) FROM api_keys") == ["acme"]


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("tenant_id", {"tenant_id": ""}),
        ("tenant_id", {"tenant_id": "a" * 129}),
        ("tenant_id", {"tenant_id": "a\0b"}),
        ("tenant_id", {"tenant_id": "a\ud800"}),
        ("role", {"role": "root"}),
        ("role", {"role": ""}),
        ("name", {"name": "x" * 129}),
        ("name", {"name": "x\n"}),
        ("ttl_s", {"ttl_s": 0}),
        ("ttl_s", {"ttl_s": -1}),
        ("ttl_s", {"ttl_s": keys.TTL_MAX_S + 1}),
    ],
)
async def test_bad_input_names_the_field_and_writes_nothing(
    made: keys.Keys, connections: asyncpg.Pool, field: str, arguments: dict[str, object]
) -> None:
    values: dict[str, object] = {"tenant_id": "acme", "role": "meter", "name": "", "ttl_s": None} | arguments
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await made.create(str(values.pop("tenant_id")), str(values.pop("role")), **values)  # pyright: ignore[reportArgumentType]
    assert caught.value.field == field
    assert await connections.fetchval("SELECT (SELECT count(*) FROM tenants) + (SELECT count(*) FROM api_keys)") == 0


async def test_without_tables_the_message_says_migrate(empty_database: str) -> None:
    connections = await pool.create(empty_database)
    try:
        with pytest.raises(errors.FailedPreconditionError, match="meterd migrate"):
            await keys.Keys(connections).find([b"\0" * 32])
    finally:
        await connections.close()


async def test_a_revocation_reaches_every_server(made: keys.Keys, clock: Clock) -> None:
    created = await made.create("acme", "meter")
    servers = [auth.Authenticator(made.find, clock_ms=clock, refresh_interval_s=0.02) for _ in range(2)]
    metadata = bearer(created.key)
    for server in servers:
        assert (await server.authenticate(metadata)).tenant_id == "acme"
    stop = asyncio.Event()
    tasks = [asyncio.create_task(server.run(stop)) for server in servers]
    await made.revoke("acme", created.row.key_id)
    await outbox.until(lambda: all(server.principal(metadata) is None for server in servers))
    for server in servers:
        with pytest.raises(errors.UnauthenticatedError):
            await server.authenticate(metadata)
    stop.set()
    await asyncio.gather(*tasks)


async def test_known_keys_work_while_postgres_is_away_and_unknown_ones_are_unavailable(
    made: keys.Keys, clock: Clock, database: str, postgres_server_dsn: str
) -> None:
    known, unknown = await made.create("acme", "meter"), await made.create("acme", "admin")
    server = auth.Authenticator(made.find, clock_ms=clock)
    await server.authenticate(bearer(known.key))
    name = database.rpartition("/")[2].partition("?")[0]
    admin = await asyncpg.connect(postgres_server_dsn)
    try:
        # Nobody gets in any more, and who is in is thrown out.
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        with pytest.raises(errors.UnavailableError):
            await server.refresh()
        with pytest.raises(errors.UnavailableError):
            await server.authenticate(bearer(unknown.key))
        assert server.principal(bearer(known.key)) is not None
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    finally:
        await admin.close()
    assert (await server.authenticate(bearer(unknown.key))).role == "admin"
    await server.refresh()
    assert server.principal(bearer(known.key)) is not None
