"""Limits over gRPC on real stores: what they deny and say, that no cap is passed, and that they outlive Redis."""

from __future__ import annotations

import asyncio
import collections
import datetime
from collections.abc import AsyncIterator
from typing import Any

import grpc
import orjson
import pytest
import pytest_asyncio
import redis.asyncio

from meterd.core import errors, ids, ledger, limits
from meterd.meter import sweeper
from meterd.postgres import limits as definitions
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests.integration import serving, stores

CREDIT = 1_000_000


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def client(scene: serving.Scene) -> AsyncIterator[serving.Client]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=False)) as server:
        yield server.client(scene.key)


def limit(limit_id: str, amount: int, subject: str = "ACCOUNT", **fields: Any) -> accounts_pb2.SetLimitRequest:
    values: dict[str, Any] = {
        "metric": types_pb2.LIMIT_METRIC_CREDITS,
        "window": types_pb2.LIMIT_WINDOW_MONTH,
        "subject": f"LIMIT_SUBJECT_{subject}",
    }
    made = accounts_pb2.Limit(limit_id=limit_id, amount=amount, **values | fields)
    return accounts_pb2.SetLimitRequest(account_id="org", limit=made)


def subject(**fields: Any) -> types_pb2.Subject:
    return types_pb2.Subject(**fields)


async def reserve(client: serving.Client, amount: int, **fields: str) -> metering_pb2.ReserveResponse:
    return await client.call("Reserve", serving.reserve_request("org", amount, subject=subject(**fields)))


async def listed(client: serving.Client) -> dict[str, dict[str, int]]:
    """What is used, by limit and value."""
    found = await client.call("ListLimits", accounts_pb2.ListLimitsRequest(account_id="org"))
    return {one.limit.limit_id: {use.value: use.used for use in one.uses} for one in found.limits}


async def dump(url: str) -> dict[bytes, bytes]:
    store: Any = redis.asyncio.Redis.from_url(url)
    try:
        return {key: await store.dump(key) for key in sorted(await store.keys("*"))}
    finally:
        await store.aclose()


async def test_fifty_users_of_one_organisation_race_under_a_team_cap_a_key_cap_and_the_wallet(
    client: serving.Client, scene: serving.Scene
) -> None:
    """Each of the three lacks one micro-credit for one call more: 19 calls of a team, 8 of a key, 70 of the wallet."""
    each = 333_333
    await client.fund("org", 70 * each - 1)
    await client.call("SetLimit", limit("teams", 19 * each - 1, "TEAM"))
    await client.call("SetLimit", limit("keys", 8 * each - 1, "KEY", window=types_pb2.LIMIT_WINDOW_ROLLING_DAY))
    await client.call("SetLimit", limit("users", 900_000, "USER", metric=types_pb2.LIMIT_METRIC_CREDITS, observe=True))
    denied: collections.Counter[str] = collections.Counter()

    async def user(number: int, own: serving.Client) -> list[tuple[types_pb2.Subject, str]]:
        who = {"user": f"u{number}", "team": f"t{number % 4}", "key": f"k{number % 10}"}
        held: list[tuple[types_pb2.Subject, str]] = []
        for _ in range(12):
            answer = await reserve(own, each, **who)
            if answer.WhichOneof("outcome") == "hold":
                held.append((subject(**who), answer.hold.hold_id))
            denied.update(reason.limit_id or reason.scope for reason in answer.denial.reasons)
        return held

    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=False)) as second:
        servers = (client, second.client(scene.key))
        races = await asyncio.gather(*(user(number, servers[number % 2]) for number in range(50)))
    held = [one for many in races for one in many]
    teams = collections.Counter(who.team for who, _ in held)
    keys = collections.Counter(who.key for who, _ in held)
    # Teams and keys would let through 35 calls of the even users and 35 of the odd ones; the wallet takes the last one.
    assert len(held) == 69
    assert sorted(keys.values()) == [6, *[7] * 9]
    assert max(teams.values()) == 18 and sum(teams.values()) == 69
    assert denied.keys() == {"teams", "keys", "wallet:default"}
    used = await listed(client)
    assert used["teams"] == {name: count * each for name, count in teams.items()}
    assert used["keys"] == {name: count * each for name, count in keys.items()}
    assert (await client.balance("org")) == (each - 1, 69 * each)
    # Not one more fits anywhere, and to ask leaves no trace.
    before = await dump(scene.redis_url)
    again = await asyncio.gather(
        *(reserve(client, each, user="u", team=f"t{at % 4}", key=f"k{at % 10}") for at in range(20))
    )
    assert {answer.WhichOneof("outcome") for answer in again} == {"denial"}
    assert await dump(scene.redis_url) == before
    # Released and committed ones give their room back, to the micro-credit.
    for at, (_, hold_id) in enumerate(held):
        if at % 2:
            await client.call("Release", metering_pb2.ReleaseRequest(hold_id=hold_id))
        else:
            await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold_id, amount_micros=1))
    spent = collections.Counter(who.key for who, _ in held[::2])
    assert (await listed(client))["keys"] == dict(spent)


async def test_a_denial_names_every_limit_with_its_use_and_when_it_resets(client: serving.Client) -> None:
    await client.fund("org", 5)
    await client.call("SetLimit", limit("month", 10))
    hour = {"metric": types_pb2.LIMIT_METRIC_ACTIONS, "window": types_pb2.LIMIT_WINDOW_HOUR}
    await client.call("SetLimit", limit("actions", 1, "USER", **hour))
    await client.call("SetLimit", limit("open", 0, "TEAM", metric=types_pb2.LIMIT_METRIC_OPEN_HOLDS, window=0))
    assert (await reserve(client, 4, user="alice")).hold.amount_micros == 4
    denial = (await reserve(client, 7, user="alice", team="red")).denial
    now = datetime.datetime.now(tz=datetime.UTC)
    reasons = {reason.limit_id or reason.scope: reason for reason in denial.reasons}
    assert sorted(reasons) == ["actions", "month", "open", "wallet:default"]
    month, actions, opened = (reasons[name] for name in ("month", "actions", "open"))
    assert {one.code for one in (month, actions, opened)} == {types_pb2.Denial.CODE_LIMIT_EXCEEDED}
    assert (month.scope, month.limit_micros, month.used_micros) == ("account", 10, 4)
    first = (now.replace(day=1) + datetime.timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert month.resets_at.ToDatetime(datetime.UTC) == first
    assert (actions.scope, actions.limit_micros, actions.used_micros) == ("user:alice", 1, 1)
    assert (actions.metric, actions.window) == tuple(hour.values())
    assert datetime.timedelta(0) < actions.resets_at.ToDatetime(datetime.UTC) - now <= datetime.timedelta(hours=1)
    assert (opened.scope, opened.limit_micros, opened.window) == ("team:red", 0, types_pb2.LIMIT_WINDOW_UNSPECIFIED)
    assert not opened.HasField("resets_at") and not denial.HasField("retry_at")
    assert reasons["wallet:default"].code == types_pb2.Denial.CODE_INSUFFICIENT_CREDITS
    assert (denial.required_micros, denial.available_micros) == (7, 1)


async def test_a_charge_and_an_extension_are_denied_like_a_reserve(client: serving.Client) -> None:
    await client.fund("org", CREDIT)
    await client.call("SetLimit", limit("day", 100, window=types_pb2.LIMIT_WINDOW_DAY))
    hold = await client.reserve("org", 60)
    extended = await client.call(
        "Extend", metering_pb2.ExtendRequest(hold_id=hold.hold_id, ttl_ms=60_000, amount_micros=101)
    )
    assert [reason.limit_id for reason in extended.denial.reasons] == ["day"]
    charge = metering_pb2.ChargeRequest(
        idempotency_key=serving.new_id(), account_id="org", credits=types_pb2.CreditsCharge(amount_micros=41)
    )
    refused = await client.call("Charge", charge)
    assert [reason.used_micros for reason in refused.denial.reasons] == [60]
    charge.credits.amount_micros = 40
    charge.idempotency_key = serving.new_id()
    assert (await client.call("Charge", charge)).settlement.charged_micros == 40


async def test_a_limit_is_set_changed_and_deleted_once_however_often_it_is_said(client: serving.Client) -> None:
    await client.fund("org", CREDIT)
    first = await client.call("SetLimit", limit("day", 100, window=types_pb2.LIMIT_WINDOW_DAY))
    again = await client.call("SetLimit", limit("day", 100, window=types_pb2.LIMIT_WINDOW_DAY))
    assert (first.replayed, first.projected, again.replayed) == (False, True, True)
    assert again.limit == first.limit
    await client.reserve("org", 100)
    assert (await reserve(client, 1)).WhichOneof("outcome") == "denial"
    # Raised: at once, and on what was used already.
    raised = await client.call("SetLimit", limit("day", 130, window=types_pb2.LIMIT_WINDOW_DAY))
    assert raised.limit.counts_from == first.limit.counts_from
    await client.reserve("org", 30)
    assert await listed(client) == {"day": {"": 130}}
    # Counted otherwise: from nothing.
    await client.call("SetLimit", limit("day", 130, "USER", window=types_pb2.LIMIT_WINDOW_DAY))
    assert await listed(client) == {"day": {}}
    gone = [
        await client.call("DeleteLimit", accounts_pb2.DeleteLimitRequest(account_id="org", limit_id="day"))
        for _ in range(2)
    ]
    assert [answer.replayed for answer in gone] == [False, True]
    await client.reserve("org", 1_000)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"limit_id": ""}, "limit.limit_id"),
        ({"subject": 7}, "limit.subject"),
        ({"subject": 0}, "limit.subject"),
        ({"metric": 0}, "limit.metric"),
        ({"window": 0}, "limit.window"),
        ({"window": 12}, "limit.window"),
        ({"metric": types_pb2.LIMIT_METRIC_OPEN_HOLDS}, "limit.window"),
        ({"value": "x"}, "limit.value"),
        ({"value": "a\0b", "subject": types_pb2.LIMIT_SUBJECT_USER}, "limit.value"),
        ({"amount": -1}, "limit.amount"),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(
    client: serving.Client, fields: dict[str, Any], named: str
) -> None:
    await client.fund("org", CREDIT)
    values: dict[str, Any] = {"limit_id": "l", "subject": 1, "metric": 1, "window": 3, "amount": 1}
    request = accounts_pb2.SetLimitRequest(account_id="org", limit=accounts_pb2.Limit(**values | fields))
    refusal = await client.refused("SetLimit", request)
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT and named in refusal.message


async def test_an_account_has_32_limits_at_most_and_must_exist(client: serving.Client) -> None:
    assert (await client.refused("SetLimit", limit("l", 1))).code == grpc.StatusCode.NOT_FOUND
    refusal = await client.refused("ListLimits", accounts_pb2.ListLimitsRequest(account_id="org"))
    assert refusal.code == grpc.StatusCode.NOT_FOUND
    await client.fund("org", CREDIT)
    for number in range(32):
        await client.call("SetLimit", limit(f"l{number}", CREDIT, "USER"))
    assert (await client.refused("SetLimit", limit("more", 1))).code == grpc.StatusCode.FAILED_PRECONDITION
    assert (await client.call("SetLimit", limit("l3", 7, "USER"))).limit.amount == 7
    # All of them apply to one call.
    denial = (await reserve(client, 8, user="ann")).denial
    assert [reason.limit_id for reason in denial.reasons] == ["l3"]
    await client.call("DeleteLimit", accounts_pb2.DeleteLimitRequest(account_id="org", limit_id="l3"))
    assert (await reserve(client, CREDIT, user="ann")).hold.amount_micros == CREDIT


async def test_a_limit_by_period_goes_by_the_plan(client: serving.Client) -> None:
    catalog = "currency: usd\nplans:\n  pro: {name: Pro, price: 19, period: 30_days, allowances: {general: 20}}\n"
    await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=catalog))
    await client.fund("org", CREDIT)
    await client.call("SetLimit", limit("period", 100, window=types_pb2.LIMIT_WINDOW_PERIOD))
    await client.reserve("org", 100)
    now = datetime.datetime.now(tz=datetime.UTC)
    month = (await reserve(client, 1)).denial.reasons[0].resets_at.ToDatetime(datetime.UTC)
    assert (month.day, month.hour) == (1, 0) and month > now
    subscribed = await client.call(
        "Subscribe",
        accounts_pb2.SubscribeRequest(idempotency_key=serving.new_id(), account_id="org", plan_id="pro"),
    )
    # The plan's period began after what was counted: it counts anew.
    await client.reserve("org", 100)
    reason = (await reserve(client, 1)).denial.reasons[0]
    assert reason.resets_at == subscribed.subscription.period_end
    (found,) = (await client.call("ListLimits", accounts_pb2.ListLimitsRequest(account_id="org"))).limits
    assert found.uses[0].resets_at == subscribed.subscription.period_end


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        yield opened


def _new(limit_id: str, subject: limits.Subject, metric: limits.Metric, window: limits.Window) -> definitions.NewLimit:
    return definitions.NewLimit(
        limit_id=limit_id, subject=subject, value="", metric=metric, window=window, cap=10**9, observe=False
    )


async def _use(both: stores.Stores, amount: int, actual: int | None, **fields: Any) -> None:
    """A hold that is committed with `actual`, or released."""
    terms = {"item": "credits", "at": both.world.now_ms} | fields
    packed = orjson.dumps(terms)
    command = ledger.Reserve(
        tenant_id="t",
        address=both.address,
        hold=ids.uuid7(both.world.now_ms),
        wallet="default",
        amount_micros=amount,
        amount_min_micros=amount,
        digest=b"12345678",
        ttl_ms=60_000,
        overage=ledger.Overage.ACCOUNT,
        expiry=ledger.Expiry.RELEASE,
        terms=packed,
    )
    held = await both.store.reserve(command)
    assert isinstance(held, ledger.Held), held
    if actual is None:
        await both.store.release(ledger.Release(tenant_id="t", address=both.address, hold=held.hold, detail=b""))
        return
    detail = {"us": 1}
    if "model" in fields:
        detail |= {"cost": "0.0000123", "usage": {"input_tokens": 7, "output_tokens": 5}}
    await both.store.commit(
        ledger.Commit(
            tenant_id="t",
            address=both.address,
            hold=held.hold,
            amount_micros=actual,
            digest=b"abcdefgh",
            detail=orjson.dumps(detail),
        )
    )


async def test_what_was_used_comes_back_from_the_ledger_when_redis_is_lost(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 10_000)
    made = definitions.Limits(both.world.pool, clock_ms=lambda: both.world.now_ms - 1)
    for subject_ in (limits.Subject.ACCOUNT, limits.Subject.USER, limits.Subject.FEATURE, limits.Subject.MODEL):
        for metric in (limits.Metric.CREDITS, limits.Metric.COST, limits.Metric.ACTIONS, limits.Metric.TOKENS):
            window = limits.Window.ROLLING_MONTH if metric == limits.Metric.COST else limits.Window.LIFETIME
            name = f"{subject_.name} {metric.name}"
            await made.set_limit("t", "acct", _new(name, subject_, metric, window))
    operation = _new("op", limits.Subject.USER, limits.Metric.CREDITS, limits.Window.OPERATION)
    await made.set_limit("t", "acct", operation)
    await both.projector.project(both.address)
    model = {"item": "model:m", "model": "m", "in": 9, "out": 90, "cost": "0.5"}
    await _use(both, 50, 30, user="ann", op="o1", **model)
    await _use(both, 50, 20, user="bob", op="o1", **model)
    await _use(both, 50, None, user="bob", **model)
    await _use(both, 25, 25, user="ann", item="feature:f", qty="3")
    before = [use for use in await both.store.limit_uses(both.address) if use.used]
    assert {use.used for use in before if use.value == "ann" and not use.operation} == {55, 13, 4, 12}
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()
    await both.lose_redis()
    await both.hydrator.hydrate("t", both.address)
    after = await both.store.limit_uses(both.address)

    def comparable(uses: Any) -> list[tuple[int, str, str, int]]:
        return [(use.limit_no, use.value, use.operation, use.used) for use in uses]

    assert comparable(after) == comparable(before)


async def test_a_limit_that_was_set_later_does_not_count_what_was_before(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 10_000)
    await both.projector.project(both.address)
    await _use(both, 50, 50, user="ann")
    flush = both.world.flusher()
    await flush.drain()
    made = definitions.Limits(both.world.pool, clock_ms=lambda: both.world.now_ms + 1)
    await made.set_limit(
        "t", "acct", _new("late", limits.Subject.ACCOUNT, limits.Metric.CREDITS, limits.Window.LIFETIME)
    )
    await both.projector.project(both.address)
    await flush.drain()
    await flush.close()
    await both.lose_redis()
    await both.hydrator.hydrate("t", both.address)
    assert [use.used for use in await both.store.limit_uses(both.address)] == []


async def test_the_tidier_takes_out_what_counts_no_more(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 10_000)
    made = definitions.Limits(both.world.pool)
    for name, metric in (("kept", limits.Metric.CREDITS), ("gone", limits.Metric.ACTIONS)):
        await made.set_limit("t", "acct", _new(name, limits.Subject.USER, metric, limits.Window.LIFETIME))
    open_ = _new("open", limits.Subject.USER, limits.Metric.HOLDS, limits.Window.LIFETIME)
    await made.set_limit("t", "acct", open_)
    await both.projector.project(both.address)
    for number in range(30):
        await _use(both, 1, 1, user=f"u{number}")
    await made.delete_limit("t", "acct", "gone")
    await both.projector.project(both.address)
    key = f"{{m:{ids.partition_of(both.address, both.store.partitions):02d}}}:k:{both.address}"
    assert await both.run.command(("HLEN", key)) == 90
    tidier = sweeper.Tidier(
        both.store,
        limited=lambda: definitions.limited_accounts(both.world.pool),
        owned=lambda: list(range(both.store.partitions)),
    )
    await tidier.tidy(asyncio.Event())
    assert (tidier.removed, await both.run.command(("HLEN", key))) == (60, 30)
    # Without limits nothing is left.
    for name in ("kept", "open"):
        await made.delete_limit("t", "acct", name)
    await both.projector.project(both.address)
    assert await both.run.command(("EXISTS", key)) == 0


async def test_an_account_that_is_not_loaded_has_no_uses_yet(both: stores.Stores) -> None:
    with pytest.raises(errors.AccountNotLoadedError):
        await both.store.limit_uses(both.address)
