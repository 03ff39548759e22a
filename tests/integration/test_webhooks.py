"""Webhooks are delivered to a real receiver over HTTP: signed, tried again, given up, replayed; and no endpoint holds up another."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import standardwebhooks
from aiohttp import web

from meterd.core import addresses, errors, signing
from meterd.core import events as core_events
from meterd.meter import webhooks
from meterd.postgres import events
from meterd.postgres import webhooks as stored
from tests.integration import outbox
from tests.integration.receiver import receiving, status

DAY_MS = 24 * 3600 * 1000


@dataclasses.dataclass
class Desk:
    """One account whose events are written by the test, at a time that the test moves."""

    world: outbox.World
    account_no: int
    now_ms: int
    count: int = 0

    def deliverer(self, *, allow_private: bool = True, timeout_s: float = 10.0) -> webhooks.Deliverer:
        return webhooks.Deliverer(
            self.world.pool, allow_private=allow_private, clock_ms=lambda: self.now_ms, timeout_s=timeout_s
        )

    async def endpoint(self, url: str, *types: str) -> tuple[uuid.UUID, bytes]:
        secret = os.urandom(signing.SECRET_BYTES)
        new = stored.NewEndpoint(tenant_id="t", idempotency_key=str(uuid.uuid4()), url=url, types=types)
        made, _ = await stored.create(self.world.pool, new, secret, self.now_ms)
        return made.endpoint_id, secret

    async def tell(self, count: int = 1, kind: core_events.Type = core_events.Type.BALANCE_LOW) -> None:
        drafts = [
            core_events.Draft(
                tenant_id="t",
                account_no=self.account_no,
                account_id="a",
                type=kind,
                subject="default",
                once=str(self.count + at),
                payload={"wallet": "default", "left_micros": at},
                at_ms=self.now_ms,
            )
            for at in range(count)
        ]
        self.count += count
        async with self.world.pool.acquire() as connection:
            assert await events.add(connection, drafts, self.now_ms) == count

    async def deliveries(self) -> list[Any]:
        return await self.world.pool.fetch(
            "SELECT *, meterd_ms(next_at) AS next_ms FROM webhook_deliveries ORDER BY event_id, endpoint_id"
        )

    async def replay(self, endpoint_id: uuid.UUID, *, include_delivered: bool = False) -> int:
        count, _ = await stored.replay(
            self.world.pool,
            "t",
            endpoint_id,
            since_ms=0,
            until_ms=self.now_ms + 1,
            event_ids=[],
            include_delivered=include_delivered,
            after=uuid.UUID(int=0),
            now_ms=self.now_ms,
        )
        return count


@pytest_asyncio.fixture
async def desk(database: str, redis_url: str) -> AsyncIterator[Desk]:
    async with outbox.world(database, redis_url) as world:
        await world.writer("a")
        account_no = await world.pool.fetchval("SELECT account_no FROM accounts")
        yield Desk(world=world, account_no=account_no, now_ms=world.now_ms)


async def test_an_event_is_signed_so_that_the_reference_implementation_accepts_it(desk: Desk) -> None:
    async with receiving() as receiver:
        _, secret = await desk.endpoint(receiver.url)
        await desk.tell()
        deliverer = desk.deliverer()
        assert await deliverer.round() == 1
        await deliverer.close()
        (document,) = receiver.verified(signing.secret_text(secret))
        assert document["type"] == "balance.low"
        assert document["data"] == {"account_id": "a", "wallet": "default", "left_micros": 0}
        (delivery,) = await desk.deliveries()
        assert receiver.ids == [str(delivery["event_id"])]
        assert (delivery["attempts"], delivery["last_status"], delivery["next_at"]) == (1, 200, None)
        assert await deliverer.round() == 0
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verified(signing.secret_text(os.urandom(32)))


async def test_while_a_secret_is_rotated_both_sign_and_then_the_new_one_alone(desk: Desk) -> None:
    async with receiving() as receiver:
        endpoint_id, old = await desk.endpoint(receiver.url)
        new = os.urandom(32)
        await stored.rotate(desk.world.pool, "t", endpoint_id, new, desk.now_ms, force=False)
        with pytest.raises(errors.FailedPreconditionError):
            await stored.rotate(desk.world.pool, "t", endpoint_id, os.urandom(32), desk.now_ms, force=False)
        deliverer = desk.deliverer()
        await desk.tell()
        await deliverer.round()
        receiver.verified(signing.secret_text(old))
        receiver.verified(signing.secret_text(new))
        desk.now_ms += stored.ROTATION_MS + 1
        receiver.requests.clear()
        await desk.tell()
        await deliverer.round()
        await deliverer.close()
        (headers, data) = receiver.requests[0]
        expected = signing.signature(new, headers["webhook-id"], desk.now_ms // 1000, data)
        assert headers["webhook-signature"] == expected


async def test_an_error_is_tried_again_with_growing_waits_until_it_is_taken(desk: Desk) -> None:
    async with receiving(
        status(500, 302, 429, 204, text="busy", headers={"location": "http://127.0.0.1:9/"})
    ) as receiver:
        await desk.endpoint(receiver.url)
        await desk.tell()
        deliverer = desk.deliverer()
        waits: list[float] = []
        for code in (500, 302, 429):
            assert await deliverer.round() == 1
            (delivery,) = await desk.deliveries()
            assert (delivery["last_status"], delivery["last_error"]) == (code, f"HTTP {code}: busy")
            waits.append((delivery["next_ms"] - desk.now_ms) / 1000)
            desk.now_ms = delivery["next_ms"] - 1
            assert await deliverer.round() == 0
            desk.now_ms += 1
        assert await deliverer.round() == 1
        await deliverer.close()
        for wait, expected in zip(waits, (5, 20, 80), strict=True):
            assert 0.8 * expected <= wait <= 1.2 * expected
        (delivery,) = await desk.deliveries()
        assert (delivery["attempts"], delivery["last_status"], delivery["last_error"]) == (4, 204, "")
        # One event, whatever was tried.
        assert len(set(receiver.ids)) == 1
        assert len({data for _, data in receiver.requests}) == 1


async def test_a_receiver_that_does_not_answer_in_time_is_tried_again(desk: Desk) -> None:
    done = asyncio.Event()

    async def hang(number: int) -> web.Response:
        if number == 1:
            await done.wait()
        return web.Response()

    async with receiving(hang) as receiver:
        await desk.endpoint(receiver.url)
        await desk.tell()
        deliverer = desk.deliverer(timeout_s=0.3)
        assert await deliverer.round() == 1
        (delivery,) = await desk.deliveries()
        assert (delivery["last_status"], delivery["last_error"]) == (0, "no answer within 0.3 s")
        desk.now_ms = delivery["next_ms"]
        await deliverer.round()
        await deliverer.close()
        done.set()
        (delivery,) = await desk.deliveries()
        assert (delivery["attempts"], delivery["last_status"]) == (2, 200)


@pytest.mark.parametrize(("text", "wait_s"), [("120", 120), ("date", 300), ("nonsense", 5), ("999999999", 86_400)])
async def test_retry_after_is_heeded_within_a_day(desk: Desk, text: str, wait_s: int) -> None:
    desk.now_ms = desk.now_ms // 1000 * 1000
    header = email.utils.formatdate(desk.now_ms / 1000 + 300, usegmt=True) if text == "date" else text
    async with receiving(status(503, headers={"retry-after": header})) as receiver:
        await desk.endpoint(receiver.url)
        await desk.tell()
        deliverer = desk.deliverer()
        await deliverer.round()
        await deliverer.close()
        (delivery,) = await desk.deliveries()
        wait_ms = delivery["next_ms"] - desk.now_ms
        assert 0.8 * wait_s * 1000 <= wait_ms <= 1.2 * wait_s * 1000
        if wait_s != 5:
            assert wait_ms == wait_s * 1000


async def test_what_fails_for_three_days_is_given_up_and_can_be_replayed(desk: Desk) -> None:
    begin_ms = desk.now_ms
    async with receiving(status(500)) as receiver:
        endpoint_id, secret = await desk.endpoint(receiver.url)
        await desk.tell()
        deliverer = desk.deliverer()
        while (delivery := (await desk.deliveries())[0])["dead_at"] is None:
            desk.now_ms = max(desk.now_ms, delivery["next_ms"])
            assert await deliverer.round() == 1
        tried_ms = desk.now_ms - begin_ms
        assert 2 * DAY_MS < tried_ms <= 3 * DAY_MS
        assert 10 <= delivery["attempts"] <= 16
        desk.now_ms += DAY_MS
        assert await deliverer.round() == 0
        receiver.answer = None
        receiver.requests.clear()
        assert await desk.replay(endpoint_id) == 1
        await deliverer.round()
        assert receiver.ids == [str(delivery["event_id"])]
        # Nothing is dead any more, and what was delivered is replayed only if it is asked for.
        assert await desk.replay(endpoint_id) == 0
        assert await desk.replay(endpoint_id, include_delivered=True) == 1
        await deliverer.round()
        await deliverer.close()
        assert len(receiver.ids) == 2
        # A clock that a test has moved is too far for the reference's tolerance; the signature is right all the same.
        headers, data = receiver.requests[-1]
        expected = signing.signature(secret, headers["webhook-id"], desk.now_ms // 1000, data)
        assert headers["webhook-signature"] == expected


async def test_a_new_webhook_gets_what_happened_before_it_only_by_replay(desk: Desk) -> None:
    await desk.tell(3)
    await desk.tell(2, core_events.Type.HOLD_EXPIRED)
    async with receiving() as receiver:
        endpoint_id, _ = await desk.endpoint(receiver.url, "hold.expired")
        deliverer = desk.deliverer()
        assert await deliverer.round() == 0
        assert await desk.replay(endpoint_id) == 2
        await deliverer.round()
        await deliverer.close()
        assert receiver.types() == ["hold.expired"] * 2


async def test_a_gone_endpoint_is_disabled_and_gets_nothing_more(desk: Desk) -> None:
    async with receiving(status(410)) as receiver:
        endpoint_id, _ = await desk.endpoint(receiver.url)
        await desk.tell(3)
        deliverer = desk.deliverer()
        await deliverer.round()
        await desk.tell()
        assert await deliverer.round() == 0
        await deliverer.close()
        (found,) = await stored.listed(desk.world.pool, "t", desk.now_ms)
        assert (found.endpoint_id, found.disabled_ms, found.waiting_count) == (endpoint_id, desk.now_ms, 0)
        with pytest.raises(errors.FailedPreconditionError):
            await desk.replay(endpoint_id)


async def test_a_slow_endpoint_holds_up_no_other_and_has_few_requests_at_once(desk: Desk) -> None:
    done = asyncio.Event()

    async def hang(_number: int) -> web.Response:
        await done.wait()
        return web.Response()

    async with receiving(hang) as slow, receiving() as quick:
        await desk.endpoint(slow.url)
        await desk.endpoint(quick.url)
        await desk.tell(20)
        stop = asyncio.Event()
        running = asyncio.create_task(desk.deliverer(timeout_s=20.0).run(stop))
        await outbox.until(lambda: len(quick.requests) == 20)
        await outbox.until(lambda: slow.in_flight == webhooks.ROOM_MAX)
        assert len(slow.requests) == webhooks.ROOM_MAX
        done.set()
        await outbox.until(lambda: len(slow.requests) == 20)
        stop.set()
        await running
        assert slow.in_flight_max == webhooks.ROOM_MAX
        assert len(set(slow.ids)) == len(set(quick.ids)) == 20
        assert all(delivery["delivered_at"] for delivery in await desk.deliveries())


async def test_any_number_of_servers_deliver_each_event_once(desk: Desk) -> None:
    async with receiving() as receiver:
        await desk.endpoint(receiver.url)
        await desk.tell(60)
        deliverers = [desk.deliverer() for _ in range(4)]
        counts = await asyncio.gather(*(deliverer.round() for deliverer in deliverers))
        for deliverer in deliverers:
            await deliverer.close()
        assert sum(counts) == 60
        assert len(receiver.ids) == len(set(receiver.ids)) == 60


async def test_what_a_dead_server_had_claimed_another_one_delivers(desk: Desk) -> None:
    async with receiving() as receiver:
        await desk.endpoint(receiver.url)
        await desk.tell()
        claimed = await stored.claim(
            desk.world.pool, desk.now_ms, lease_ms=webhooks.LEASE_MS, room=4, rooms={}, count_max=10
        )
        assert len(claimed) == 1
        deliverer = desk.deliverer()
        assert await deliverer.round() == 0
        desk.now_ms += webhooks.LEASE_MS
        assert await deliverer.round() == 1
        await deliverer.close()
        # The first one wakes again: its word does not count any more.
        await stored.settle(desk.world.pool, claimed[0], stored.Result(dead_ms=desk.now_ms, status=0, error="late"))
        (delivery,) = await desk.deliveries()
        assert (delivery["dead_at"], delivery["last_status"]) == (None, 200)
        assert len(receiver.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"])
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(desk: Desk, host: str) -> None:
    async with receiving() as receiver:
        # As if the name had led elsewhere when the webhook was made.
        await desk.endpoint(receiver.url.replace("127.0.0.1", host))
        await desk.tell()
        deliverer = desk.deliverer(allow_private=False)
        await deliverer.round()
        await deliverer.close()
        (delivery,) = await desk.deliveries()
        # The last one is refused as no host at all.
        assert "is not a public address" in delivery["last_error"] or "not a canonical" in delivery["last_error"]
        assert receiver.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:0a00:0001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "nonsense",
    ],
)
def test_an_address_that_is_not_public_is_told(text: str) -> None:
    assert not addresses.is_public(text)


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_is_told(text: str) -> None:
    assert addresses.is_public(text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "https://127.0.0.1/",
        "https://[::1]:8443/",
        "https://localhost/",
        "https://metadata.google.internal/",
        "https:// example.com/",
        "https://example.com:99999/",
        "https://example.com\\@evil.example/",
        "https://äxample.com/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_a_url_that_could_do_harm_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        addresses.checked_url(url, "url", allow_private=False)


def test_a_url_on_the_internet_is_taken_as_it_is() -> None:
    url = "https://example.com:8443/hooks/meterd?source=1"
    assert addresses.checked_url(url, "url", allow_private=False) == url


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks libraries.
    secret = signing.secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signing.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_body_has_type_time_and_data() -> None:
    attempt = stored.Attempt(
        event_id=uuid.UUID(int=1),
        endpoint_id=uuid.UUID(int=2),
        tenant_id="t",
        attempts=1,
        queued_ms=0,
        url="",
        secrets=[],
        type="balance.low",
        payload={"b": 1, "a": "ä"},
        at_ms=1_795_250_228_857,
    )
    assert json.loads(webhooks.body(attempt)) == {
        "type": "balance.low",
        "timestamp": "2026-11-21T08:37:08.857Z",
        "data": {"a": "ä", "b": 1},
    }
