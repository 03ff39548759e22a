"""The same calls on each wire: Connect with JSON and binary messages, gRPC-Web with both and as text, and gRPC beside them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import json_format

from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2
from tests.integration import serving, wires

each_wire = pytest.mark.parametrize("wire", wires.ALL, ids=lambda wire: wire.name)


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncGenerator[serving.Server]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", workers=True)
    async with serving.running(settings, keys_refresh_interval_s=0.1) as found:
        yield found


@pytest_asyncio.fixture
async def http(server: serving.Server) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.http_url, timeout=serving.CALL_TIMEOUT_S) as found:
        yield found


@pytest.fixture
def client(http: httpx.AsyncClient, scene: serving.Scene, request: pytest.FixtureRequest) -> wires.Client:
    """On the wire that the test names."""
    return wires.Client(http, request.node.callspec.params["wire"], scene.key)


@each_wire
async def test_a_life_of_a_hold(client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any) -> None:
    del wire
    await server.client(scene.key).fund("acct", 10_000)
    request = serving.reserve_request("acct", 3_000)
    hold = (await client.call("Reserve", request)).hold
    assert (hold.hold_id.partition(".")[0], hold.amount_micros) == (request.hold_id, 3_000)
    assert (await client.call("Reserve", request)).replayed
    commit = metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=1_000)
    assert (await client.call("Commit", commit)).settlement.charged_micros == 1_000
    balance = await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="acct"))
    assert [wallet.available_micros for wallet in balance.wallets] == [9_000]
    again = await client.refused("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=999))
    assert again == await server.client(scene.key).refused(
        "Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=999)
    )
    assert again.code is grpc.StatusCode.ALREADY_EXISTS


@each_wire
async def test_integers_beyond_doubles_and_any_text_arrive_as_they_were_sent(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    del wire
    name = "账户 🦊 é\u202e\u0301\u2028 <&>'\""
    await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=name))
    grant = serving.grant_request(name, 2**53 - 1, source_id="Ünï ∑")
    answer = await client.call("Grant", grant)
    assert (answer.grant.account_id, answer.grant.amount_micros) == (name, 2**53 - 1)
    for amount_micros in (2**53, 2**63 - 1, -(2**63)):
        wrong = serving.grant_request(name, amount_micros)
        expected = await server.client(scene.key).refused("Grant", wrong)
        assert await client.refused("Grant", wrong) == expected
    missing = accounts_pb2.GetAccountRequest(account_id="nobody's 🦊")
    assert await client.refused("GetAccount", missing) == await server.client(scene.key).refused("GetAccount", missing)


async def test_64_bit_integers_are_strings_in_json(
    http: httpx.AsyncClient, server: serving.Server, scene: serving.Scene
) -> None:
    await server.client(scene.key).fund("acct", 2**53 - 1)
    headers = {"authorization": f"Bearer {scene.key}"}
    answer = await http.post("/meterd.v1.Accounts/GetBalance", json={"accountId": "acct"}, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    (wallet,) = answer.json()["wallets"]
    assert wallet["availableMicros"] == "9007199254740991"
    for amount in (5, "5", 5.0, "5.0", "5e0"):
        charge = {"idempotencyKey": serving.new_id(), "accountId": "acct", "credits": {"amountMicros": amount}}
        answer = await http.post("/meterd.v1.Metering/Charge", json=charge, headers=headers)
        assert answer.json()["settlement"]["chargedMicros"] == "5", amount


@each_wire
async def test_a_watch_tells_of_each_change_until_its_client_goes(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    del wire
    await server.client(scene.key).fund("acct", 10_000)
    stream = client.stream("Watch", accounts_pb2.WatchRequest(account_id="acct"))
    assert [wallet.available_micros for wallet in (await anext(stream)).wallets] == [10_000]
    await client.call("Reserve", serving.reserve_request("acct", 3_000))
    told = await anext(stream)
    assert [(wallet.available_micros, wallet.held_micros) for wallet in told.wallets] == [(7_000, 3_000)]
    watches = server.app.watches
    assert watches is not None and watches.open_count == 1
    await stream.aclose()
    await serving.eventually(lambda: _is_zero(lambda: watches.open_count))


async def _is_zero(count: Any) -> bool:
    return count() == 0


@each_wire
async def test_a_watch_ends_with_its_status(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    del wire
    request = accounts_pb2.WatchRequest(account_id="nobody")
    assert [one async for one in client.stream("Watch", request)] == [
        (grpc.StatusCode.NOT_FOUND, "account_id: no such account")
    ]
    await server.client(scene.key).fund("acct", 1)
    stream = client.stream("Watch", accounts_pb2.WatchRequest(account_id="acct"))
    await anext(stream)
    server.app.stop()
    assert await anext(stream) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping; watch anew")
    assert [one async for one in stream] == []


@each_wire
async def test_a_revoked_key_ends_its_watch(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    made = await serving.new_key(scene.dsn, "acme", "read")
    await server.client(scene.key).fund("acct", 1)
    stream = wires.Client(client.http, wire, made.key).stream("Watch", accounts_pb2.WatchRequest(account_id="acct"))
    await anext(stream)
    await serving.revoke_key(scene.dsn, made)
    assert await anext(stream) == (grpc.StatusCode.UNAUTHENTICATED, "unknown or revoked API key")
    await stream.aclose()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@each_wire
async def test_a_compressed_request(client: wires.Client, wire: Any, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else bytes
    body = pack(wire.encoded(accounts_pb2.CreateAccountRequest(account_id="acct")))
    if not wire.is_grpc_web:
        assert (await client.call("CreateAccount", body, content_encoding=encoding)).account.account_id == "acct"
        return
    path, _, _ = serving.METHODS["CreateAccount"]
    headers = client.headers | {"content-type": "application/grpc-web", "grpc-encoding": encoding}
    if not wire.is_json and not wire.is_text:
        framed = wires.wrapped(body, flags=int(encoding == "gzip"))
        answer = await client.http.post(path, content=framed, headers=headers)
        assert [flags for flags, _ in wires.envelopes(answer.content)] == [0, 0x80]


async def test_a_denial_is_402_where_the_caller_or_the_setting_says_so(scene: serving.Scene) -> None:
    request = json_format.MessageToDict(serving.reserve_request("poor", 5))
    for setting in (False, True):
        settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", http_denial_402=setting)
        async with serving.running(settings) as server, httpx.AsyncClient(base_url=server.http_url) as http:
            await server.client(scene.key).call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="poor"))
            found: dict[str, int] = {}
            cases = {
                "plain": {},
                "asks": {"meterd-denial-status": "402"},
                "declines": {"meterd-denial-status": "200"},
                "a Connect client": {"connect-protocol-version": "1"},
                "one that asks": {"connect-protocol-version": "1", "meterd-denial-status": "402"},
                "nonsense": {"meterd-denial-status": "418"},
            }
            for name, headers in cases.items():
                headers = headers | {"authorization": f"Bearer {scene.key}"}
                answer = await http.post("/meterd.v1.Metering/Reserve", json=request, headers=headers)
                found[name] = answer.status_code
                if answer.status_code != 400:
                    denial = answer.json()["denial"]
                    assert (denial["requiredMicros"], denial.get("availableMicros", "0")) == ("5", "0")
            assert found == {
                "plain": 402 if setting else 200,
                "asks": 402,
                "declines": 200,
                "a Connect client": 200,
                "one that asks": 402,
                "nonsense": 400,
            }
            # What is granted is 200 in any case.
            await server.client(scene.key).fund("rich", 100)
            headers = {"authorization": f"Bearer {scene.key}", "meterd-denial-status": "402"}
            granted = json_format.MessageToDict(serving.reserve_request("rich", 5))
            answer = await http.post("/meterd.v1.Metering/Reserve", json=granted, headers=headers)
            assert (answer.status_code, answer.json()["hold"]["amountMicros"]) == (200, "5")


@each_wire
async def test_a_deadline_ends_a_call_and_what_redis_got_takes_effect(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    await server.client(scene.key).fund("acct", 10_000)
    header = {"grpc_timeout": "200m"} if wire.is_grpc_web else {"connect_timeout_ms": "200"}
    request = serving.reserve_request("acct", 1_000)
    async with serving.contents(scene.dsn, scene.redis_url) as contents:
        async with contents.paused():
            refused = await client.refused("Reserve", request, **header)
            assert refused == serving.Refusal(code=grpc.StatusCode.DEADLINE_EXCEEDED, message="the deadline has passed")
        again = await client.call("Reserve", request)
    assert again.hold.amount_micros == 1_000
    assert (await server.client(scene.key).balance("acct")) == (9_000, 1_000)


@each_wire
async def test_a_deadline_ends_a_watch(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    await server.client(scene.key).fund("acct", 1)
    header = {"grpc_timeout": "300m"} if wire.is_grpc_web else {"connect_timeout_ms": "300"}
    *_, end = [one async for one in client.stream("Watch", accounts_pb2.WatchRequest(account_id="acct"), **header)]
    assert end == (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")


async def test_a_client_that_goes_ends_its_call(server: serving.Server, scene: serving.Scene) -> None:
    await server.client(scene.key).fund("acct", 10_000)
    body = json.dumps(json_format.MessageToDict(serving.reserve_request("acct", 1_000))).encode()
    head = (
        f"POST /meterd.v1.Metering/Reserve HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {scene.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    host, _, port = server.app.http_address.rpartition(":")
    async with serving.contents(scene.dsn, scene.redis_url) as contents, contents.paused():
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body)
        await writer.drain()
        await serving.eventually(lambda: _is_in_flight(server, 1))
        writer.close()
        await serving.eventually(lambda: _is_in_flight(server, 0))


async def _is_in_flight(server: serving.Server, count: int) -> bool:
    gate = server.app.gate
    return gate is not None and gate.count == count


async def test_calls_beyond_the_limit_are_refused_with_a_pushback(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", in_flight_max=1)
    async with serving.running(settings) as server, httpx.AsyncClient(base_url=server.http_url) as http:
        await server.client(scene.key).fund("acct", 10_000)
        json_client = wires.Client(http, wires.JSON, scene.key)
        async with serving.contents(scene.dsn, scene.redis_url) as contents:
            async with contents.paused():
                first = asyncio.create_task(json_client.call("Reserve", serving.reserve_request("acct", 1)))
                await serving.eventually(lambda: _is_in_flight(server, 1))
                for wire in wires.ALL:
                    client = wires.Client(http, wire, scene.key)
                    reply = await client.send("Reserve", serving.reserve_request("acct", 1))
                    assert reply.refusal == serving.Refusal(
                        code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="2 calls are in work; retry later"
                    )
                    if not wire.is_grpc_web:
                        assert (reply.status, reply.headers["trailer-grpc-retry-pushback-ms"]) == (429, "200")
            assert (await first).hold.amount_micros == 1
        _, text = await asyncio.to_thread(serving.http_get, f"{server.http_url}/readyz")
        assert text == "ok\n"


async def test_connectrpcs_own_client_speaks_all_protocols(server: serving.Server, scene: serving.Scene) -> None:
    from connectrpc import client as connect_client
    from connectrpc import code, compat, errors, method, protocol

    def info(name: str, stream_type: method.StreamType) -> Any:
        path, request, answer = serving.METHODS[name]
        return method.MethodInfo(
            name=name,
            service_name=path.split("/")[1],
            input=request,
            output=answer,
            idempotency_level=method.IdempotencyLevel.UNKNOWN,
            stream_type=stream_type,
        )

    await server.client(scene.key).fund("acct", 10_000)
    headers = {"authorization": f"Bearer {scene.key}"}
    codecs = (compat.google_protobuf_binary_codec(), compat.google_protobuf_json_codec())
    for spoken in (protocol.ProtocolType.CONNECT, protocol.ProtocolType.GRPC_WEB):
        for codec in codecs:
            async with connect_client.ConnectClient(server.http_url, codec=codec, protocol=spoken) as caller:
                answer = await caller.execute_unary(
                    request=serving.reserve_request("acct", 7),
                    method=info("Reserve", method.StreamType.UNARY),
                    headers=headers,
                )
                assert answer.hold.amount_micros == 7
                with pytest.raises(errors.ConnectError) as caught:
                    await caller.execute_unary(
                        request=accounts_pb2.GetAccountRequest(account_id="nobody"),
                        method=info("GetAccount", method.StreamType.UNARY),
                        headers=headers,
                    )
                assert (caught.value.code, caught.value.message) == (code.Code.NOT_FOUND, "account_id: no such account")
                stream = caller.execute_server_stream(
                    request=accounts_pb2.WatchRequest(account_id="acct"),
                    method=info("Watch", method.StreamType.SERVER_STREAM),
                    headers=headers,
                    timeout_ms=500,
                )
                seen: list[Any] = []
                with pytest.raises(errors.ConnectError) as caught:
                    async for told in stream:
                        seen.append(told)
                assert [wallet.wallet for wallet in seen[0].wallets] == ["default"]
                assert caught.value.code is code.Code.DEADLINE_EXCEEDED


@each_wire
async def test_calls_are_counted_as_those_over_grpc(
    client: wires.Client, server: serving.Server, scene: serving.Scene, wire: Any
) -> None:
    await server.client(scene.key).fund("acct", 10)
    await client.call("Reserve", serving.reserve_request("acct", 1))
    await client.send("Reserve", serving.reserve_request("acct", 1_000))
    await client.refused("Reserve", b"{" if wire.is_json else b"\xff")
    answer = await client.http.get("/metrics", headers={"authorization": f"Bearer {scene.key}"})
    for code in ("OK", "DENIED", "INVALID_ARGUMENT"):
        assert f'meterd_calls_total{{code="{code}",method="meterd.v1.Metering/Reserve"}} 1.0\n' in answer.text


async def test_models_are_priced_on_each_wire_alike(server: serving.Server, scene: serving.Scene) -> None:
    await server.client(scene.key).fund("acct", 10**9)
    model = types_pb2.ModelCharge(model="gpt-4o-mini", input_tokens=1_200, max_output_tokens=400)
    async with httpx.AsyncClient(base_url=server.http_url) as http:
        found = set[str]()
        for wire in wires.ALL:
            request = metering_pb2.EstimateRequest(account_id="acct", model=model)
            answer = await wires.Client(http, wire, scene.key).call("Estimate", request)
            found.add(json_format.MessageToJson(answer))
        found.add(
            json_format.MessageToJson(
                await server.client(scene.key).call(
                    "Estimate", metering_pb2.EstimateRequest(account_id="acct", model=model)
                )
            )
        )
    assert len(found) == 1
