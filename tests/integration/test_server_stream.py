"""Stream over real gRPC: pipelining, errors that stay with their call, and every way in which a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from meterd.postgres import catalog, pool
from meterd.server import stream
from meterd_client.v1 import metering_pb2, types_pb2
from tests import conftest
from tests.integration import serving

# gRPC's stubs leave it out.
EOF: Any = getattr(grpc.aio, "EOF")  # noqa: B009
CREDITS = types_pb2.CreditsCharge(amount_micros=100)


def call(call_id: int, **request: Any) -> metering_pb2.StreamCall:
    return metering_pb2.StreamCall(call_id=call_id, **request)


def frame(*calls: metering_pb2.StreamCall) -> metering_pb2.StreamRequest:
    return metering_pb2.StreamRequest(calls=calls)


def reserve(call_id: int, account_id: str = "acct", **fields: Any) -> metering_pb2.StreamCall:
    return call(call_id, reserve=serving.reserve_request(account_id, 100, **fields))


def estimate(call_id: int) -> metering_pb2.StreamCall:
    return call(call_id, estimate=metering_pb2.EstimateRequest(credits=CREDITS))


async def answers(opened: Any, count: int) -> dict[int, metering_pb2.StreamReply]:
    """The next `count` answers by call_id."""
    found: dict[int, metering_pb2.StreamReply] = {}
    while len(found) < count:
        response = await opened.read()
        assert response is not EOF, f"the stream ended after {len(found)} answers: {await opened.code()}"
        for reply in response.replies:
            assert reply.call_id not in found, "each call is answered once"
            found[reply.call_id] = reply
    assert len(found) == count
    return found


async def ending(opened: Any) -> tuple[int, grpc.StatusCode, str]:
    """How many more answers come, and the status with which the stream ends."""
    count = 0
    try:
        while (response := await opened.read()) is not EOF:
            count += len(response.replies)
    except grpc.aio.AioRpcError:
        pass
    return count, await opened.code(), await opened.details()


async def asked(client: serving.Client, *calls: metering_pb2.StreamCall) -> list[metering_pb2.StreamReply]:
    """The answers to one frame, in the order of its calls."""
    opened = client.stream()
    await opened.write(frame(*calls))
    await opened.done_writing()
    found = await answers(opened, len(calls))
    assert await opened.read() is EOF
    assert await opened.code() is grpc.StatusCode.OK
    return [found[one.call_id] for one in calls]


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_listen=serving.http_address(), in_flight_max=20_000)
    async with serving.running(settings) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    client = server.client(scene.key)
    await client.fund("acct", 10**12)
    return client


async def test_every_request_of_a_stream_is_answered_as_its_unary_call_is(client: serving.Client) -> None:
    (held,) = await asked(client, reserve(7))
    hold_id = held.reserve.hold.hold_id
    model = types_pb2.ModelCharge(model="gpt-4o-mini", input_tokens=10, max_output_tokens=10)
    (modelled,) = await asked(client, reserve(8, credits=None, model=model))
    usage = types_pb2.Usage(input_tokens=10, output_tokens=1)
    charge = metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id="acct", credits=CREDITS)
    extended, reported, charged, estimated = await asked(
        client,
        call(1, extend=metering_pb2.ExtendRequest(hold_id=hold_id, ttl_ms=60_000, amount_micros=150)),
        call(2, report=metering_pb2.ReportRequest(hold_id=modelled.reserve.hold.hold_id, usage=usage)),
        call(3, charge=charge),
        estimate(2**64 - 1),
    )
    assert extended.extend.hold.amount_micros == 150
    assert reported.report.advice == metering_pb2.ReportResponse.ADVICE_CONTINUE
    assert charged.charge.settlement.charged_micros == 100
    assert estimated.estimate.amount_micros == 100
    committed, released = await asked(
        client,
        call(4, commit=metering_pb2.CommitRequest(hold_id=hold_id, amount_micros=30)),
        call(5, release=metering_pb2.ReleaseRequest(hold_id=modelled.reserve.hold.hold_id)),
    )
    assert committed.commit.settlement.charged_micros == 30
    assert released.release.settlement.state == types_pb2.HOLD_STATE_RELEASED
    assert await client.balance("acct") == (10**12 - 130, 0)
    names = {field.name for field in metering_pb2.StreamCall.DESCRIPTOR.oneofs_by_name["request"].fields}
    assert names == {"reserve", "commit", "release", "extend", "report", "charge", "estimate"}


async def test_an_error_stays_with_its_call(client: serving.Client) -> None:
    replies = await asked(
        client,
        reserve(1, "nobody"),
        reserve(2),
        call(3),
        reserve(4, ttl_ms=-1),
        call(5, commit=metering_pb2.CommitRequest(hold_id="x")),
        reserve(6),
    )
    told = [(reply.WhichOneof("reply"), reply.error.code, reply.error.message.partition(":")[0]) for reply in replies]
    assert told == [
        ("error", grpc.StatusCode.NOT_FOUND.value[0], "account_id"),
        ("reserve", 0, ""),
        ("error", grpc.StatusCode.INVALID_ARGUMENT.value[0], "request"),
        ("error", grpc.StatusCode.INVALID_ARGUMENT.value[0], "ttl_ms"),
        ("error", grpc.StatusCode.INVALID_ARGUMENT.value[0], "hold_id"),
        ("reserve", 0, ""),
    ]


async def test_a_denial_is_an_answer(client: serving.Client) -> None:
    dear = types_pb2.CreditsCharge(amount_micros=2**53 - 1)
    (reply,) = await asked(client, reserve(1, credits=dear))
    assert reply.reserve.denial.required_micros == 2**53 - 1


async def test_five_thousand_pipelined_calls_have_one_effect_each(client: serving.Client, scene: serving.Scene) -> None:
    opened = client.stream(timeout_s=60)
    reading = asyncio.create_task(answers(opened, 5_000))
    for start in range(0, 5_000, 250):
        await opened.write(frame(*(reserve(number) for number in range(start, start + 250))))
    found = await reading
    await opened.done_writing()
    assert {reply.WhichOneof("reply") for reply in found.values()} == {"reserve"}
    assert len({reply.reserve.hold.hold_id for reply in found.values()}) == 5_000
    assert await client.balance("acct") == (10**12 - 500_000, 500_000)
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_the_same_call_twice_in_a_frame_is_one_hold_and_its_replay(client: serving.Client) -> None:
    request = serving.reserve_request("acct", 100)
    first, second = await asked(client, call(1, reserve=request), call(2, reserve=request))
    assert first.reserve.hold.hold_id == second.reserve.hold.hold_id
    assert sorted((first.reserve.replayed, second.reserve.replayed)) == [False, True]
    assert (await client.balance("acct"))[1] == 100


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (frame(*(estimate(number) for number in range(stream.FRAME_CALLS_MAX + 1))), "calls: more than"),
        (b"\xff\xff", "request: not a StreamRequest"),
    ],
    ids=["too large", "no message"],
)
async def test_a_frame_that_cannot_be_taken_ends_the_stream_after_the_answers_before_it(
    client: serving.Client, bad: Any, field: str
) -> None:
    opened = client.stream()
    await opened.write(frame(reserve(1), reserve(2)))
    await opened.write(bad)
    assert {reply.WhichOneof("reply") for reply in (await answers(opened, 2)).values()} == {"reserve"}
    count, code, details = await ending(opened)
    assert (count, code) == (0, grpc.StatusCode.INVALID_ARGUMENT)
    assert details.startswith(field)


async def test_the_largest_frame_is_taken(client: serving.Client) -> None:
    replies = await asked(client, *(estimate(number) for number in range(stream.FRAME_CALLS_MAX)))
    assert {reply.estimate.amount_micros for reply in replies} == {100}


async def test_answers_too_large_for_one_message_come_in_several(client: serving.Client, scene: serving.Scene) -> None:
    """A client's limit is 4 MB; an answer that draws on 250 grants has 12 KB."""
    connections = await pool.create(scene.dsn)
    book = catalog.Catalog(connections, partitions=conftest.PARTITIONS)
    await book.create_account(catalog.NewAccount(tenant_id="acme", account_id="many"))
    for number in range(250):
        made: dict[str, Any] = {
            "account_id": "many",
            "idempotency_key": str(number),
            "wallet": "default",
            "amount_micros": 1_000,
        }
        await book.add_grant(catalog.NewGrant(tenant_id="acme", category=1, **made))
    await connections.close()
    request = serving.reserve_request("many", 250_000)
    replies = await asked(client, *(call(number, reserve=request) for number in range(500)))
    assert {len(reply.reserve.hold.grants) for reply in replies} == {250}


async def test_a_cancelled_stream_leaves_a_provable_ledger_and_retries_hear_of_it(
    client: serving.Client, scene: serving.Scene
) -> None:
    calls = [reserve(number) for number in range(1_000)]
    opened = client.stream()
    for start in range(0, 1_000, 100):
        await opened.write(frame(*calls[start : start + 100]))
    await opened.read()
    opened.cancel()
    replies = await asked(client, *calls)
    assert {reply.reserve.hold.amount_micros for reply in replies} == {100}
    assert any(reply.reserve.replayed for reply in replies)
    assert (await client.balance("acct"))[1] == 100_000
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_draining_answers_what_was_read_and_ends_with_unavailable(
    server: serving.Server, client: serving.Client
) -> None:
    opened = client.stream()
    await opened.write(frame(*(reserve(number) for number in range(500))))
    first = await opened.read()
    server.app.stop()
    count, code, details = await ending(opened)
    assert len(first.replies) + count == 500
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping; open the stream anew")
    assert await server.task == 0


async def test_an_idle_stream_does_not_hold_up_the_stop(server: serving.Server, client: serving.Client) -> None:
    opened = client.stream()
    await opened.write(frame(reserve(1)))
    await answers(opened, 1)
    assert await asyncio.wait_for(server.stopped(), server.settings.drain_ms / 1000) == 0
    assert (await ending(opened))[:2] == (0, grpc.StatusCode.UNAVAILABLE)


def padded(call_id: int) -> metering_pb2.StreamCall:
    """An estimate of 1 KB: nobody looks at a wallet without an account."""
    return call(call_id, estimate=metering_pb2.EstimateRequest(wallet="w" * 1_000, credits=CREDITS))


async def written(opened: Any, calls_max: int) -> int:
    """Writes frames of 100 estimates, 1 KB each, until flow control stops it; how many calls it wrote."""
    count = 0
    while count < calls_max:
        try:
            await asyncio.wait_for(opened.write(frame(*(padded(count + n) for n in range(100)))), 1.5)
        except TimeoutError:
            return count
        count += 100
    return count


async def test_a_client_that_reads_no_answers_is_stopped_and_not_buffered_for(
    server: serving.Server, scene: serving.Scene
) -> None:
    # Otherwise gRPC widens its window to megabytes.
    options = [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 65_536),
        ("grpc.http2.write_buffer_size", 65_536),
    ]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        client = serving.Client(channel, scene.key)
        opened = client.stream(timeout_s=60)
        assert await written(opened, 60_000) < 60_000, "the client has to be stopped"
        decided = await serving.metric(server, 'meterd_calls_total{code="OK",method="meterd.v1.Metering/Estimate"}')
        # What the server keeps, and answers that are on the way in both kernels and gRPC's windows.
        assert 0 < decided < 10_000
        assert await serving.metric(server, "meterd_in_flight") <= stream.UNANSWERED_MAX + stream.FRAME_CALLS_MAX
        opened.cancel()
        assert (await asked(client, estimate(1)))[0].estimate.amount_micros == 100


async def test_a_slow_reader_gets_all_answers_in_the_end(client: serving.Client) -> None:
    opened = client.stream(timeout_s=60)

    async def write() -> None:
        for start in range(0, 10_000, 500):
            await opened.write(frame(*(estimate(start + n) for n in range(500))))
        await opened.done_writing()

    writing = asyncio.create_task(write())
    # Not before flow control had its say, or all is written.
    await asyncio.wait((writing,), timeout=0.5)
    found = await answers(opened, 10_000)
    await writing
    assert sorted(found) == list(range(10_000))


async def end_of(opened: Any, calls: Sequence[metering_pb2.StreamCall]) -> grpc.StatusCode:
    """Writes frames until the stream ends; its status."""
    while not opened.done():
        try:
            await opened.write(frame(*calls))
            await opened.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            break
    return await opened.code()


async def test_a_revoked_key_ends_its_streams(scene: serving.Scene) -> None:
    created = await serving.new_key(scene.dsn, "acme", "meter")
    settings = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(settings, keys_refresh_interval_s=0.05) as server:
        opened = server.client(created.key).stream()
        await opened.write(frame(estimate(1)))
        await answers(opened, 1)
        await serving.revoke_key(scene.dsn, created)
        assert await asyncio.wait_for(end_of(opened, [estimate(2)]), 10) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_needs_a_key_that_may_meter(server: serving.Server, scene: serving.Scene) -> None:
    reader = (await serving.new_key(scene.dsn, "acme", "read")).key
    for key, code in (("", "UNAUTHENTICATED"), ("mk_" + "a" * 43, "UNAUTHENTICATED"), (reader, "PERMISSION_DENIED")):
        opened = server.client(key).stream()
        count, found, _ = await ending(opened)
        assert (count, found.name) == (0, code)


async def test_each_call_of_a_stream_counts_against_the_calls_in_work(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, in_flight_max=50)
    async with serving.running(settings) as server:
        client = server.client(scene.key)
        await client.fund("acct", 10**12)
        replies = await asked(client, *(reserve(number) for number in range(200)))
        codes = [reply.error.code for reply in replies]
        assert codes == [0] * 50 + [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 150
        assert (await client.balance("acct"))[1] == 5_000
        assert (await asked(client, reserve(1)))[0].WhichOneof("reply") == "reserve"
