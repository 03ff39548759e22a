"""Tokens of accounts: what they open, what they do not, on every wire, and how they end."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
import httpx
import jwt
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ed25519

from meterd.postgres import pool, token_keys
from meterd.server import auth
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, tokens_pb2
from tests.integration import bad_events, bad_input, serving, wires

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
INVALID = "invalid, expired or revoked token"
# Of one account; GetCatalog is the tenant's.
OWN = ("GetBalance", "Watch", "ListTransactions", "GetSubscription")


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene, tmp_path: pathlib.Path) -> AsyncGenerator[serving.Server]:
    prices = tmp_path / "prices.yaml"
    prices.write_text(serving.PRICES)
    settings = serving.settings_of(
        scene.dsn, scene.redis_url, http_address="127.0.0.1:0", prices_file=str(prices), workers=True
    )
    async with serving.running(settings, keys_refresh_interval_s=0.1) as found:
        yield found


@pytest_asyncio.fixture
async def http(server: serving.Server) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.http_url, timeout=serving.CALL_TIMEOUT_S) as found:
        yield found


@pytest_asyncio.fixture
async def admin(server: serving.Server, scene: serving.Scene) -> serving.Client:
    client = server.client(scene.key)
    await client.fund("own", 10_000)
    await client.fund("other", 10_000)
    return client


async def token_of(admin: serving.Client, account_id: str = "own", ttl_ms: int = 0) -> str:
    request = tokens_pb2.CreateTokenRequest(account_id=account_id, ttl_ms=ttl_ms)
    return (await admin.call("CreateToken", request)).token


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Head and claims, unchecked."""
    head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return head, claims


async def watch_status(client: serving.Client, request: Any) -> grpc.StatusCode:
    """OK as soon as the first balance is told."""
    method = client.channel.unary_stream(
        "/meterd.v1.Accounts/Watch", response_deserializer=accounts_pb2.GetBalanceResponse.FromString
    )
    opened = method(request.SerializeToString(), metadata=client.metadata, timeout=serving.CALL_TIMEOUT_S)
    try:
        await opened.read()
    except grpc.aio.AioRpcError as fault:
        return fault.code()
    opened.cancel()
    return grpc.StatusCode.OK


async def status_of(client: serving.Client, name: str, request: Any) -> grpc.StatusCode:
    if name == "Stream":
        opened = client.stream()
        await opened.write(request)
        await opened.done_writing()
        return await opened.code()
    if name == "Watch":
        return await watch_status(client, request)
    try:
        await client.call(name, request)
    except grpc.aio.AioRpcError as fault:
        return fault.code()
    return grpc.StatusCode.OK


async def requests_of(admin: serving.Client, other: serving.Client, account_id: str) -> dict[str, Any]:
    """A good request of every method, about one account where it can be."""
    world = await bad_input.made_world(admin, other, account_id)
    await bad_events.add_webhooks(world, other)
    made = {name: bad_input.request_of(name, world, {}) for name in bad_input.GOOD}
    for name, (_, kind, _) in serving.METHODS.items():
        fields = kind.DESCRIPTOR.fields_by_name
        made.setdefault(name, kind(account_id=account_id) if "account_id" in fields else kind())
    return made


async def test_a_token_opens_the_reads_of_its_account_and_nothing_else(
    server: serving.Server, scene: serving.Scene, http: httpx.AsyncClient
) -> None:
    admin = server.client(scene.key)
    tenant = server.client((await serving.new_key(scene.dsn, "elsewhere", "admin")).key)
    await admin.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="stranger"))
    made = await requests_of(admin, tenant, "own")
    assert made.keys() == serving.METHODS.keys() == {path.rpartition("/")[2] for path in auth.ROLES}
    own, stranger = await token_of(admin, "own"), await token_of(admin, "stranger")
    for name, request in made.items():
        expected = grpc.StatusCode.OK if name in OWN else DENIED
        if name == "GetSubscription":
            expected = grpc.StatusCode.NOT_FOUND  # It has none.
        if name == "GetCatalog":
            assert await status_of(server.client(own), name, request) is grpc.StatusCode.OK
            continue
        assert await status_of(server.client(own), name, request) is expected, name
        assert await status_of(server.client(stranger), name, request) is DENIED, name
        for wire in wires.ALL:
            found: list[grpc.StatusCode] = []
            for token in (own, stranger):
                client = wires.Client(http, wire, token)
                if name == "Stream":
                    continue
                if name == "Watch":
                    stream = client.stream(name, request)
                    told = await anext(stream)
                    await stream.aclose()
                    found.append(told[0] if isinstance(told, tuple) else grpc.StatusCode.OK)
                else:
                    found.append((await client.send(name, request)).code)
            assert found in ([expected, DENIED], []), (name, wire.name)


async def test_an_account_that_is_not_named_is_not_the_tokens(admin: serving.Client, server: serving.Server) -> None:
    client = server.client(await token_of(admin))
    for name in ("GetBalance", "ListTransactions", "GetSubscription"):
        refusal = await client.refused(name, b"")
        assert refusal == serving.Refusal(code=DENIED, message="account_id: the token is another account's")
    refusal = await client.refused("GetAccount", accounts_pb2.GetAccountRequest(account_id="own"))
    assert refusal == serving.Refusal(code=DENIED, message="an account's token may not call this method")


async def test_a_token_of_the_same_name_in_another_tenant_sees_its_own(
    admin: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    other = server.client((await serving.new_key(scene.dsn, "elsewhere", "admin")).key)
    await other.fund("own", 7)
    tokens = [await token_of(one) for one in (admin, other)]
    assert [(await server.client(token).balance("own"))[0] for token in tokens] == [10_000, 7]


async def test_what_a_call_has_cost_is_not_told_to_a_token(admin: serving.Client, server: serving.Server) -> None:
    await admin.call("Grant", serving.grant_request("own", 10**9))
    charge = metering_pb2.ChargeRequest(
        idempotency_key=serving.new_id(),
        account_id="own",
        model_usage=metering_pb2.ModelUsage(model="gpt-4o-mini", usage=bad_input.used(input_tokens=1_000)),
        metadata={"backend": "only"},
    )
    await admin.call("Charge", charge)
    request = accounts_pb2.ListTransactionsRequest(account_id="own")

    async def charges(client: serving.Client) -> list[Any]:
        found = (await client.call("ListTransactions", request)).transactions
        return [one for one in found if one.kind == accounts_pb2.Transaction.KIND_CHARGE]

    async def is_listed() -> bool:
        return bool(await charges(admin))

    await serving.eventually(is_listed)
    (ours,), (told,) = await charges(admin), await charges(server.client(await token_of(admin)))
    assert ours.settlement.cost_usd and ours.settlement.breakdown and ours.metadata == {"backend": "only"}
    assert (told.settlement.cost_usd, list(told.settlement.breakdown), dict(told.metadata)) == ("", [], {})
    assert told.settlement.charged_micros == ours.settlement.charged_micros > 0


async def test_times_to_live(admin: serving.Client) -> None:
    for ttl_ms, expected_ms in ((0, 900_000), (1_000, 1_000), (86_400_000, 86_400_000)):
        before_ms = serving.now_ms()
        answer = await admin.call("CreateToken", tokens_pb2.CreateTokenRequest(account_id="own", ttl_ms=ttl_ms))
        expires_ms = answer.expires_at.ToMilliseconds()
        assert before_ms + expected_ms <= expires_ms <= serving.now_ms() + expected_ms + 1_000
        head, claims = decoded(answer.token)
        assert (head["alg"], claims["iss"], claims["sub"], claims["tid"]) == ("EdDSA", "meterd", "own", "acme")
        assert claims["exp"] * 1_000 == expires_ms
    for ttl_ms in (-1, 1, 999, 86_400_001, 2**63 - 1):
        refusal = await admin.refused("CreateToken", tokens_pb2.CreateTokenRequest(account_id="own", ttl_ms=ttl_ms))
        assert (refusal.code, refusal.message[:8]) == (grpc.StatusCode.INVALID_ARGUMENT, "ttl_ms: ")
    refusal = await admin.refused("CreateToken", tokens_pb2.CreateTokenRequest(account_id="nobody"))
    assert refusal == serving.Refusal(code=grpc.StatusCode.NOT_FOUND, message="account_id: no such account")


async def test_an_expired_token_is_refused_and_its_watch_ends(
    admin: serving.Client, server: serving.Server, http: httpx.AsyncClient
) -> None:
    token = await token_of(admin, ttl_ms=1_000)
    stream = wires.Client(http, wires.WEB, token).stream("Watch", accounts_pb2.WatchRequest(account_id="own"))
    assert (await anext(stream)).account_id == "own"
    assert await anext(stream) == (UNAUTHENTICATED, INVALID)
    await stream.aclose()
    refusal = await server.client(token).refused("GetBalance", accounts_pb2.GetBalanceRequest(account_id="own"))
    assert refusal == serving.Refusal(code=UNAUTHENTICATED, message=INVALID)


async def test_another_server_checks_tokens_too(admin: serving.Client, scene: serving.Scene) -> None:
    token = await token_of(admin)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as second:
        assert (await second.client(token).balance("own"))[0] == 10_000
        # Keys that are known need Postgres no more; both servers sign with the same one.
        assert decoded(token)[0]["kid"] == decoded(await token_of(second.client(scene.key)))[0]["kid"]


async def rotated(dsn: str, *, at_once: bool) -> str:
    connections = await pool.create(dsn, size_max=1)
    try:
        return await token_keys.TokenKeys(connections).rotate(at_once=at_once)
    finally:
        await connections.close()


async def test_a_rotation_keeps_tokens_and_one_at_once_ends_them(
    admin: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    first = await token_of(admin)
    new_id = await rotated(scene.dsn, at_once=False)

    async def signs(key_id: str) -> bool:
        return decoded(await token_of(admin))[0]["kid"] == key_id

    await serving.eventually(lambda: signs(new_id))
    second = await token_of(admin)
    assert [(await server.client(token).balance("own"))[0] for token in (first, second)] == [10_000, 10_000]
    last_id = await rotated(scene.dsn, at_once=True)

    async def refused(token: str) -> bool:
        return await status_of(server.client(token), "GetCatalog", catalog_pb2.GetCatalogRequest()) is UNAUTHENTICATED

    await serving.eventually(lambda: refused(first))
    assert await refused(second)
    await serving.eventually(lambda: signs(last_id))
    assert not await refused(await token_of(admin))


async def test_forged_tokens(admin: serving.Client, server: serving.Server) -> None:
    token = await token_of(admin)
    head, claims = decoded(token)
    own_key = ed25519.Ed25519PrivateKey.generate()
    public = own_key.public_key().public_bytes_raw()

    def raw(head_: dict[str, Any], claims_: dict[str, Any], signature: str = "") -> str:
        parts = (base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in (head_, claims_))
        return ".".join((*parts, signature or token.split(".")[2]))

    forged = {
        "another account": raw(head, claims | {"sub": "other"}),
        "a later expiry": raw(head, claims | {"exp": claims["exp"] + 1}),
        "another tenant": raw(head, claims | {"tid": "elsewhere"}),
        "no signature": raw({"alg": "none", "kid": head["kid"]}, claims, "AA"),
        "another key": jwt.encode(claims, own_key, algorithm="EdDSA", headers={"kid": head["kid"]}),
        "an unknown key": jwt.encode(claims, own_key, algorithm="EdDSA", headers={"kid": "made-up"}),
        "no key": jwt.encode(claims, own_key, algorithm="EdDSA"),
        "a shared secret": jwt.encode(claims, public, algorithm="HS256", headers={"kid": head["kid"]}),
        "broken": token[:-4],
        "not JSON": "eyJx.eyJx.eyJx",
        "deep JSON": base64.urlsafe_b64encode(b'{"a":' + b"[" * 2_000).decode().rstrip("=") + ".eyJx.eyJx",
    }
    for name, one in forged.items():
        refusal = await server.client(one).refused("GetCatalog", b"")
        assert refusal == serving.Refusal(code=UNAUTHENTICATED, message=INVALID), name
    long = await status_of(server.client("eyJ" + "a" * 9_000 + ".a.a"), "GetCatalog", catalog_pb2.GetCatalogRequest())
    assert long is UNAUTHENTICATED
    assert (await server.client(token).balance("own"))[0] == 10_000


async def test_names_of_any_kind_stand_in_tokens(admin: serving.Client, server: serving.Server) -> None:
    for name in ("账户 🦊", "🦊" * 32, '"}', "a" * 128):
        await admin.fund(name, 5)
        assert (await server.client(await token_of(admin, name)).balance(name))[0] == 5
