"""What is refused over HTTP: every case of bad input as over gRPC, and bodies, headers and paths that are no calls."""

from __future__ import annotations

import dataclasses
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import redis
from google.protobuf import json_format

from meterd.embedded import postgres
from meterd.server import framing, options
from meterd_client.v1 import accounts_pb2
from tests import stripe_fake
from tests.integration import bad_billing, bad_credit, bad_events, bad_input, serving, wires

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD = grpc.StatusCode.INVALID_ARGUMENT
CASES = [*bad_input.CASES, *bad_events.CASES, *bad_credit.CASES, *bad_billing.CASES]
BALANCE = "/meterd.v1.Accounts/GetBalance"
WATCH = "/meterd.v1.Accounts/Watch"


@dataclasses.dataclass
class Scene:
    world: bad_input.World
    http: httpx.AsyncClient
    key: str

    def client(self, wire: wires.Wire) -> wires.Client:
        return wires.Client(self.http, wire, self.key)

    async def post(self, path: str, content: bytes, content_type: str, **headers: str) -> httpx.Response:
        given = {"authorization": f"Bearer {self.key}", "content-type": content_type}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, content=content, headers=given)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    postgres_server_dsn: str, database_template: str, redis_server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    with redis.Redis.from_url(redis_server_url) as flushed:
        flushed.flushall()
    name = f"meterd_{uuid.uuid4().hex}"
    dsn = postgres.create_database(postgres_server_dsn, name, database_template)
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    prices.write_text(serving.PRICES)
    key = (await serving.new_key(dsn, "acme", "admin")).key
    other = (await serving.new_key(dsn, "other", "admin")).key
    with stripe_fake.running() as stripe:
        at_stripe: dict[str, Any] = {"stripe_api_key": stripe_fake.KEY, "stripe_api_base": stripe.url}
        settings = serving.settings_of(
            dsn, redis_server_url, prices_file=str(prices), http_address="127.0.0.1:0", **at_stripe
        )
        async with (
            serving.running(settings, options=[("grpc.max_send_message_length", -1)]) as server,
            httpx.AsyncClient(base_url=server.http_url, timeout=serving.CALL_TIMEOUT_S) as http,
        ):
            world = await bad_input.made_world(server.client(key), server.client(other), "acct")
            await bad_events.add_webhooks(world, server.client(other))
            await bad_credit.add_offers(world, server.client(other))
            await bad_billing.add_purchases(world, server.client(other))
            yield Scene(world=world, http=http, key=key)
    postgres.drop_database(postgres_server_dsn, name)


@pytest.mark.parametrize(
    ("number", "case"), enumerate(CASES), ids=[f"{n}-{case.method}" for n, case in enumerate(CASES)]
)
async def test_bad_input_is_refused_as_over_grpc(scene: Scene, number: int, case: bad_input.Case) -> None:
    """A method's first case goes over all wires, each of the others over one of them in turns."""
    request = bad_input.request_of(case.method, scene.world, case.changes)
    expected = await scene.world.client.refused(case.method, request)
    try:
        json_format.MessageToJson(request)
    except json_format.SerializeToJsonError:
        # A time that JSON cannot write, and so nobody can send.
        spoken = [wire for wire in wires.ALL if not wire.is_json]
    else:
        spoken = list(wires.ALL)
    if case.method in {before.method for before in CASES[:number]}:
        spoken = [spoken[number % len(spoken)]]
    for wire in spoken:
        if len(request.SerializeToString()) > options.MESSAGE_BYTES_MAX:
            expected = serving.Refusal(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message=framing.too_large().message)
        reply = await scene.client(wire).send(case.method, request)
        assert reply.refusal == expected, (case.label, wire.name)
        if not wire.is_grpc_web:
            assert reply.status == framing.STATUSES[expected.code]


@pytest.mark.parametrize("name", sorted(bad_input.GOOD.keys() - {"ListWebhooks", "GetCatalog"}))
async def test_bytes_that_are_no_message_are_the_clients_fault(scene: Scene, name: str) -> None:
    for wire in (wires.BINARY, wires.WEB, wires.TEXT):
        refusal = await scene.client(wire).refused(name, b"\x0b" * 200)
        assert refusal == serving.Refusal(code=BAD, message="request: not a message of the method's type")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "request: not JSON: "),
        ("{", "request: not JSON: "),
        ("\xff", "request: not JSON: "),
        ('{"accountId": "\ud83d"}'.encode("utf-8", "surrogatepass").decode("latin-1"), "request: not JSON: "),
        ("[]", "request: must be an object"),
        ("null", "request: must be an object"),
        ('"x"', "request: must be an object"),
        ('{"account": 1}', "account: there is no such field in GetBalanceRequest"),
        ('{"accountId": 5}', "account_id: must be a string"),
        ('{"accountId": ["a"]}', "account_id: must be a string"),
        ('{"accountId": "a", "account_id": "b"}', "account_id: given twice"),
        ("[" * 2_000, "request: not JSON: "),
    ],
)
async def test_what_is_no_json_of_the_message_is_named(scene: Scene, text: str, message: str) -> None:
    answer = await scene.post(BALANCE, text.encode("latin-1"), "application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert answer.json()["message"].startswith(message)
    assert len(answer.json()["message"]) < 400


@pytest.mark.parametrize(
    ("charge", "message"),
    [
        ({"credits": {"amountMicros": "1.5"}}, "credits.amount_micros: must be an integer"),
        ({"credits": {"amountMicros": True}}, "credits.amount_micros: must be an integer"),
        ({"credits": {"amountMicros": "1_000"}}, "credits.amount_micros: must be an integer"),
        ({"credits": {"amountMicros": " 1"}}, "credits.amount_micros: must be an integer"),
        ({"credits": {"amountMicros": "9223372036854775808"}}, "credits.amount_micros: "),
        ({"credits": {"amountMicros": 1e300}}, "credits.amount_micros: "),
        ({"credits": {"amountMicros": "9" * 5_000}}, "credits.amount_micros: must be an integer"),
        ({"credits": {}, "feature": {"feature": "x"}}, "feature: no other field of its kind may be given beside it"),
        ({"credits": "5"}, "credits: must be an object"),
        ({"metadata": {"a": 1}}, "metadata: must be a string"),
        ({"metadata": []}, "metadata: must be an object"),
        ({"expiryPolicy": "NOPE"}, "expiry_policy: must be one of "),
    ],
)
async def test_fields_of_the_wrong_type_are_named(scene: Scene, charge: dict[str, Any], message: str) -> None:
    body = {"holdId": serving.new_id(), "accountId": "acct"} | charge
    answer = await scene.post("/meterd.v1.Metering/Reserve", json.dumps(body).encode(), "application/json")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(message), answer.json()


async def test_unknown_fields_of_newer_clients_are_passed_over(scene: Scene) -> None:
    body = b'{"accountId": "acct", "newer": {"a": [1]}}'
    assert (await scene.post(BALANCE, body, "application/json")).status_code == 400
    answer = await scene.post(BALANCE, body, "application/json", connect_protocol_version="1")
    assert (answer.status_code, answer.json()["accountId"]) == (200, "acct")


async def test_bodies_up_to_grpcs_limit_are_read(scene: Scene) -> None:
    def body(size: int) -> bytes:
        return b'{"accountId": "acct"' + b" " * (size - 21) + b"}"

    assert len(body(100)) == 100
    answer = await scene.post(BALANCE, body(options.MESSAGE_BYTES_MAX), "application/json")
    assert answer.status_code == 200

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1_000_000

    headers = {"authorization": f"Bearer {scene.key}", "content-type": "application/json"}
    for content in (body(options.MESSAGE_BYTES_MAX + 6), chunks()):
        answer = await scene.http.post(BALANCE, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
        assert answer.headers["connection"] == "close"
    bomb = gzip.compress(body(options.MESSAGE_BYTES_MAX + 1))
    assert len(bomb) < 10_000
    answer = await scene.post(BALANCE, bomb, "application/json", content_encoding="gzip")
    assert (answer.status_code, answer.json()["message"]) == (429, framing.too_large().message)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", BAD, "request: the envelope is cut short"),
        (b"\0\0\0\0", BAD, "request: the envelope is cut short"),
        (wires.PREFIX.pack(0, 9) + b"short", BAD, "request: the envelope promises 9 bytes and has 5"),
        (wires.wrapped(b"", flags=4), BAD, "request: the envelope has unknown flags"),
        (wires.wrapped(b"", flags=1), BAD, "request: a compressed envelope, and no header names the compression"),
        (wires.wrapped(b"") * 2, grpc.StatusCode.UNIMPLEMENTED, "more than one message"),
        (wires.PREFIX.pack(0, 2**32 - 1), grpc.StatusCode.RESOURCE_EXHAUSTED, "the request is larger than"),
    ],
)
async def test_bad_envelopes(scene: Scene, body: bytes, code: grpc.StatusCode, message: str) -> None:
    for path in (BALANCE, WATCH):
        answer = await scene.post(path, body, "application/grpc-web+proto")
        ((flags, end),) = wires.envelopes(answer.content)
        found = wires.end_of(wires.WEB, flags, end)
        assert (found[0], found[1][: len(message)]) == (code, message), path
    answer = await scene.post(WATCH, body, "application/connect+json")
    ((flags, end),) = wires.envelopes(answer.content)
    found = wires.end_of(wires.JSON, flags, end)
    assert (found[0], found[1][: len(message)]) == (code, message)


@pytest.mark.parametrize(
    ("name", "value", "status", "message"),
    [
        ("content-encoding", "br", 501, "unknown compression 'br': supported are gzip, identity"),
        ("content-encoding", "gzip", 400, "request: not gzip"),
        ("connect-timeout-ms", "-1", 400, "connect-timeout-ms: must be a number"),
        ("connect-timeout-ms", "12345678901", 400, "connect-timeout-ms: must be a number"),
        ("connect-timeout-ms", "1e3", 400, "connect-timeout-ms: must be a number"),
        ("connect-timeout-ms", "0", 504, "the deadline has passed"),
        ("connect-protocol-version", "2", 400, "connect-protocol-version: must be 1"),
    ],
)
async def test_bad_headers(scene: Scene, name: str, value: str, status: int, message: str) -> None:
    answer = await scene.post(BALANCE, b'{"accountId": "acct"}', "application/json", **{name: value})
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)


@pytest.mark.parametrize("value", ["5", "m", "1x", "-1m", "123456789m", ""])
async def test_bad_deadlines_of_grpc_web(scene: Scene, value: str) -> None:
    refusal = await scene.client(wires.WEB).refused("GetBalance", b"", grpc_timeout=value)
    assert refusal.code is BAD
    assert refusal.message.startswith("grpc-timeout: ")


async def test_bytes_that_are_no_base64(scene: Scene) -> None:
    answer = await scene.post(BALANCE, b"***", "application/grpc-web-text")
    assert answer.status_code == 200
    reply = await scene.client(wires.TEXT).send("GetBalance", accounts_pb2.GetBalanceRequest(account_id="acct"))
    assert reply.code is grpc.StatusCode.OK


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/grpc"])
async def test_other_content_types_are_told_what_is_spoken(scene: Scene, content_type: str) -> None:
    answer = await scene.post(BALANCE, b"{}", content_type)
    assert (answer.status_code, answer.headers["accept-post"]) == (415, "application/json, application/proto")
    assert answer.text.startswith("content-type must be one of application/json, ")


async def test_streams_and_calls_are_not_confused(scene: Scene) -> None:
    assert (await scene.post(BALANCE, wires.wrapped(b"{}"), "application/connect+json")).status_code == 415
    assert (await scene.post(WATCH, b"{}", "application/json")).status_code == 415
    answer = await scene.post("/meterd.v1.Metering/Stream", b"{}", "application/json")
    assert (answer.status_code, answer.json()["code"]) == (501, "unimplemented")


async def test_what_is_not_there(scene: Scene) -> None:
    for path in ("/meterd.v1.Metering/Refund", "/", "/meterd.v1.Metering/", "/" + "x" * 5_000, "/%00"):
        answer = await scene.post(path, b"{}", "application/json")
        assert (answer.status_code, answer.json()["code"]) == (404, "unimplemented")
        assert len(answer.content) < 400
    refusal = wires.envelopes((await scene.post("/x.Y/Z", b"", "application/grpc-web")).content)
    assert wires.trailers_of(refusal[0][1]) == (grpc.StatusCode.UNIMPLEMENTED, "there is no /x.Y/Z")
    for verb in ("GET", "PUT", "DELETE", "HEAD"):
        answer = await scene.http.request(verb, BALANCE)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_no_call_is_answered_without_a_key(scene: Scene) -> None:
    for key in ("", "mk_" + "A" * 43, "nonsense", "é"):
        for wire in wires.ALL:
            client = wires.Client(scene.http, wire, "")
            client.headers = {"authorization": f"Bearer {key}".encode()} if key else {}  # type: ignore[dict-item]
            for name in serving.METHODS.keys() - {"Stream", "Watch"}:
                reply = await client.send(name, b"\xff")
                assert reply.code is grpc.StatusCode.UNAUTHENTICATED, (key, name)
                assert wire.is_grpc_web or reply.status == 401
            (end,) = [one async for one in client.stream("Watch", b"\xff")]
            assert end[0] is grpc.StatusCode.UNAUTHENTICATED
