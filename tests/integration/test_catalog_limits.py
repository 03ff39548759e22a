"""Limits of a catalog are those of every account, new or old; an account's own goes before. Over gRPC, on real stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest_asyncio

from meterd_client.v1 import accounts_pb2, catalog_pb2, types_pb2
from tests.integration import serving

CREDIT = 1_000_000
TWO = """
limits:
  - {id: user-day, subject: user, window: day, amount: 10}
  - {id: calls, metric: actions, window: period, amount: 3}
"""


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    return server.client(scene.key)


async def apply(client: serving.Client, document: str) -> catalog_pb2.ApplyCatalogResponse:
    return await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document))


async def listed(client: serving.Client, account_id: str = "old") -> dict[str, tuple[int, bool]]:
    """Amount of each limit, and whether it is the catalog's."""
    found = await client.call("ListLimits", accounts_pb2.ListLimitsRequest(account_id=account_id))
    return {one.limit.limit_id: (one.limit.amount, one.limit.from_catalog) for one in found.limits}


async def becomes(client: serving.Client, account_id: str, expected: dict[str, tuple[int, bool]]) -> None:
    async def is_so() -> bool:
        if await listed(client, account_id) != expected:
            return False
        # To delete what is not there changes nothing, and tells whether Redis has all that was decided.
        request = accounts_pb2.DeleteLimitRequest(account_id=account_id, limit_id="never-there")
        return (await client.call("DeleteLimit", request)).projected

    await serving.eventually(is_so)


async def reserve(client: serving.Client, amount: int, account_id: str = "old") -> Any:
    return await client.call(
        "Reserve", serving.reserve_request(account_id, amount, subject=types_pb2.Subject(user="u"))
    )


async def denied_by(client: serving.Client, amount: int, account_id: str = "old") -> list[str]:
    """The limits that deny a call; none if it is let through."""
    answer = await reserve(client, amount, account_id)
    return [reason.limit_id for reason in answer.denial.reasons]


def own(limit_id: str, amount: int, account_id: str = "old") -> accounts_pb2.SetLimitRequest:
    made = accounts_pb2.Limit(
        limit_id=limit_id,
        subject=types_pb2.LIMIT_SUBJECT_USER,
        metric=types_pb2.LIMIT_METRIC_CREDITS,
        window=types_pb2.LIMIT_WINDOW_DAY,
        amount=amount,
    )
    return accounts_pb2.SetLimitRequest(account_id=account_id, limit=made)


async def test_a_catalogs_limits_hold_for_accounts_that_were_there_and_for_new_ones(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.fund("old", 100 * CREDIT)
    answer = await apply(client, TWO)
    assert list(answer.changes) == [
        "limit user-day: new (subject user, metric credits, window day, amount 10, mode enforce)",
        "limit calls: new (subject account, metric actions, window period, amount 3, mode enforce)",
    ]
    both = {"calls": (3, True), "user-day": (10 * CREDIT, True)}
    await becomes(client, "old", both)
    await client.fund("new", 100 * CREDIT)
    assert await listed(client, "new") == both
    for account_id in ("old", "new"):
        assert await denied_by(client, 11 * CREDIT, account_id) == ["user-day"]
        assert [await denied_by(client, CREDIT, account_id) for _ in range(4)] == [[], [], [], ["calls"]]
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_changed_amount_acts_on_what_was_used_and_what_is_removed_goes(client: serving.Client) -> None:
    await client.fund("old", 100 * CREDIT)
    await apply(client, "limits: [{id: day, window: day, amount: 10}]")
    await becomes(client, "old", {"day": (10 * CREDIT, True)})
    assert await denied_by(client, 8 * CREDIT) == []
    await apply(client, "limits: [{id: day, window: day, amount: 12}]")
    await becomes(client, "old", {"day": (12 * CREDIT, True)})
    assert await denied_by(client, 5 * CREDIT) == ["day"]
    assert await denied_by(client, 4 * CREDIT) == []
    changed = await apply(client, "{}")
    assert list(changed.changes) == ["limit day: removed"]
    await becomes(client, "old", {})
    assert await denied_by(client, 50 * CREDIT) == []


async def test_an_accounts_own_limit_goes_before_the_catalogs_until_it_is_deleted(client: serving.Client) -> None:
    await client.fund("old", 100 * CREDIT)
    await apply(client, "limits: [{id: day, subject: user, window: day, amount: 10}]")
    await becomes(client, "old", {"day": (10 * CREDIT, True)})
    assert await denied_by(client, 9 * CREDIT) == []
    await client.call("SetLimit", own("day", 30 * CREDIT))
    # It counts the same, so what was used stays used.
    assert await denied_by(client, 22 * CREDIT) == ["day"]
    assert await denied_by(client, 21 * CREDIT) == []
    await apply(client, "limits: [{id: day, subject: user, window: day, amount: 11}, {id: x, window: day, amount: 99}]")
    await becomes(client, "old", {"day": (30 * CREDIT, False), "x": (99 * CREDIT, True)})
    await client.call("DeleteLimit", accounts_pb2.DeleteLimitRequest(account_id="old", limit_id="day"))
    assert await listed(client) == {"day": (11 * CREDIT, True), "x": (99 * CREDIT, True)}
    refusal = await client.refused("DeleteLimit", accounts_pb2.DeleteLimitRequest(account_id="old", limit_id="x"))
    assert (refusal.code, refusal.message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "limit_id: is the catalog's for all accounts; set one of the same id for this one",
    )


async def test_limits_of_a_catalog_come_besides_the_32_of_the_account(client: serving.Client) -> None:
    await client.fund("old", CREDIT)
    for at in range(32):
        await client.call("SetLimit", own(f"own-{at}", CREDIT))
    await apply(client, "limits: [{id: day, window: day, amount: 0}]")

    async def has_all() -> bool:
        return len(await listed(client)) == 33

    await serving.eventually(has_all)
    refusal = await client.refused("SetLimit", own("day", 5))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    await client.call("SetLimit", own("own-3", 5))
    assert await denied_by(client, 1) == ["day"]


async def test_many_accounts_follow_while_a_second_catalog_comes_and_they_are_used(
    client: serving.Client, scene: serving.Scene
) -> None:
    names = [f"a{at}" for at in range(40)]
    await asyncio.gather(*(client.fund(name, 100 * CREDIT) for name in names))
    await apply(client, "limits: [{id: day, window: day, amount: 1}, {id: gone, window: day, amount: 1}]")
    await asyncio.gather(*(reserve(client, CREDIT, name) for name in names))
    await apply(
        client, "limits: [{id: day, window: day, amount: 5}, {id: more, metric: actions, window: day, amount: 1000}]"
    )
    for name in names:
        await becomes(client, name, {"day": (5 * CREDIT, True), "more": (1000, True)})
    assert [await denied_by(client, 6 * CREDIT, name) for name in names] == [["day"]] * len(names)
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_another_tenants_accounts_have_no_limits(
    client: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    rival = server.client((await serving.new_key(scene.dsn, "rival", "admin")).key)
    await rival.fund("old", 100 * CREDIT)
    await client.fund("old", 100 * CREDIT)
    await apply(client, TWO)
    await becomes(client, "old", {"calls": (3, True), "user-day": (10 * CREDIT, True)})
    assert await listed(rival) == {}
    assert await denied_by(rival, 50 * CREDIT) == []


async def test_the_catalog_that_clients_read_has_its_limits(client: serving.Client) -> None:
    await apply(client, "limits: [{id: open, subject: key, value: web, metric: open-holds, amount: 4, mode: observe}]")
    (found,) = (await client.call("GetCatalog", catalog_pb2.GetCatalogRequest())).limits
    assert found == catalog_pb2.LimitDefault(
        limit_id="open",
        subject=types_pb2.LIMIT_SUBJECT_KEY,
        value="web",
        metric=types_pb2.LIMIT_METRIC_OPEN_HOLDS,
        amount=4,
        observe=True,
    )


async def test_a_bad_limit_names_its_line_and_changes_nothing(client: serving.Client) -> None:
    await client.fund("old", CREDIT)
    refusal = await client.refused(
        "ApplyCatalog",
        catalog_pb2.ApplyCatalogRequest(document="limits:\n  - id: day\n    window: week\n    amount: 1\n"),
    )
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.message.startswith("document: line 3: limits[0].window: 'week' is not one of minute, hour, day")
    assert await listed(client) == {}
