"""Bad input over real gRPC, method by method: the status, the field that the message names, and that neither store changed."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
import redis

from meterd.embedded import postgres
from meterd.server import methods
from tests.integration import bad_credit, bad_events, bad_input, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD = grpc.StatusCode.INVALID_ARGUMENT
CASES = [*bad_input.CASES, *bad_events.CASES, *bad_credit.CASES]
EMPTY = bad_events.EMPTY | bad_credit.EMPTY


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dsn(postgres_server_dsn: str, database_template: str) -> AsyncIterator[str]:
    name = f"meterd_{uuid.uuid4().hex}"
    yield postgres.create_database(postgres_server_dsn, name, database_template)
    postgres.drop_database(postgres_server_dsn, name)


@dataclasses.dataclass
class Scene:
    world: bad_input.World
    fresh: bad_input.World
    contents: serving.Contents
    before: serving.Snapshot

    async def changed(self) -> list[str]:
        """The keys and tables that differ since the last time."""
        now, before = await self.contents.now(), self.before
        self.before = now
        return [name for name in sorted(now | before) if now.get(name) != before.get(name)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(dsn: str, redis_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    with redis.Redis.from_url(redis_server_url) as flushed:
        flushed.flushall()
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    prices.write_text(serving.PRICES)
    key = (await serving.new_key(dsn, "acme", "admin")).key
    other = (await serving.new_key(dsn, "other", "admin")).key
    settings = serving.settings_of(dsn, redis_server_url, prices_file=str(prices))
    async with (
        serving.running(settings, options=[("grpc.max_send_message_length", -1)]) as server,
        serving.contents(dsn, redis_server_url) as contents,
    ):
        fresh = await bad_input.made_world(server.client(key), server.client(other), "fresh")
        world = await bad_input.made_world(server.client(key), server.client(other), "acct")
        for made in (fresh, world):
            await bad_events.add_webhooks(made, server.client(other))
            await bad_credit.add_offers(made, server.client(other))
        yield Scene(world=world, fresh=fresh, contents=contents, before=await contents.now())


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.method}" for n, case in enumerate(CASES)])
async def test_bad_input_is_refused_by_name_and_writes_nothing(scene: Scene, case: bad_input.Case) -> None:
    refusal = await scene.world.client.refused(
        case.method, bad_input.request_of(case.method, scene.world, case.changes)
    )
    assert refusal.code is case.code, f"{case.label}: {refusal}"
    assert refusal.message.startswith(case.field), f"{case.label}: {refusal}"
    assert len(refusal.message) < 400, case.label
    assert await scene.changed() == [], case.label


# To a message without fields nearly all bytes are fields that it does not know.
@pytest.mark.parametrize("name", sorted(bad_input.GOOD.keys() - {"ListWebhooks", "GetCatalog"}))
async def test_bytes_that_are_no_message_are_the_clients_fault(scene: Scene, name: str) -> None:
    for data in (b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x0b" * 200):
        refusal = await scene.world.client.refused(name, data)
        assert refusal == serving.Refusal(code=BAD, message="request: not a message of the method's type")
    assert await scene.changed() == []


@pytest.mark.parametrize("name", sorted(bad_input.GOOD))
async def test_an_empty_message_writes_nothing(scene: Scene, name: str) -> None:
    if name in EMPTY:
        await scene.world.client.call(name, b"")
    else:
        assert (await scene.world.client.refused(name, b"")).code is BAD
    assert await scene.changed() == []


async def test_the_cases_spoil_requests_that_are_answered(scene: Scene) -> None:
    """Otherwise a case could be refused for another reason than its own. On an account of its own."""
    assert bad_input.GOOD.keys() == {path.rpartition("/")[2] for path in methods.declared()}
    for name in [*bad_input.ORDER, *bad_events.GOOD, *bad_credit.GOOD]:
        await scene.fresh.client.call(name, bad_input.request_of(name, scene.fresh, {}))
    assert await scene.changed() != []
