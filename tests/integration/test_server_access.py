"""Who may call what over real gRPC: every method with every kind of key, tenants apart, TLS, and what is served at all."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import trustme
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meterd.core import errors, ids
from meterd.postgres import keys, pool
from meterd.server import app, auth, options
from meterd_client.v1 import accounts_pb2, metering_pb2
from tests import stripe_fake
from tests.integration import bad_billing, bad_credit, bad_events, bad_input, serving

UNKNOWN = "mk_" + "A" * 43
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
SERVICES = [f"meterd.v1.{name}" for name in ("Accounts", "Billing", "Catalog", "Events", "Metering", "Reports")]
DENIED = grpc.StatusCode.PERMISSION_DENIED
NOT_OF_AN_ACCOUNT = (
    *("Estimate", "CreateAccount", "Revenue", "TopAccounts", "CreateWebhook", "ListWebhooks"),
    *("GetCatalog", "ApplyCatalog"),
)


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        yield server


async def status_of(client: serving.Client, name: str) -> grpc.StatusCode:
    """Of an empty request, or an empty stream."""
    if name == "Stream":
        opened = client.stream()
        await opened.done_writing()
        return await opened.code()
    if name == "Watch":
        return await client.channel.unary_stream("/meterd.v1.Accounts/Watch")(b"", metadata=client.metadata).code()
    try:
        await client.call(name, b"")
    except grpc.aio.AioRpcError as fault:
        return fault.code()
    return grpc.StatusCode.OK


async def test_every_method_admits_the_roles_that_are_declared_for_it(
    server: serving.Server, scene: serving.Scene
) -> None:
    made = {role: (await serving.new_key(scene.dsn, "acme", role)).key for role in ("meter", "read", "admin")}
    found: dict[str, frozenset[str]] = {}
    for path in auth.ROLES:
        name = path.rpartition("/")[2]
        statuses = {role: await status_of(server.client(key), name) for role, key in made.items()}
        # What is admitted fails at the empty message, or, where it says enough, not at all.
        admitted = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK)
        assert {status for status in statuses.values() if status not in admitted} <= {DENIED}, name
        found[path] = frozenset(role for role, status in statuses.items() if status in admitted)
    # Tokens are no keys: test_http_tokens.py has them.
    assert found == {path: roles - {auth.ACCOUNT} for path, roles in auth.ROLES.items()}


async def expired_key(dsn: str) -> str:
    connections = await pool.create(dsn, size_max=1)
    created = await keys.Keys(connections, clock_ms=lambda: serving.now_ms() - 10_000).create("acme", "admin", ttl_s=1)
    await connections.close()
    return created.key


async def test_no_method_is_answered_without_a_valid_key(server: serving.Server, scene: serving.Scene) -> None:
    revoked = await serving.new_key(scene.dsn, "acme", "admin", name="revoked")
    await serving.revoke_key(scene.dsn, revoked)
    bad = ("", UNKNOWN, await expired_key(scene.dsn), revoked.key, "mk_short", "m" * 1_000, scene.key + "A")
    for key in bad:
        for path in auth.ROLES:
            assert await status_of(server.client(key), path.rpartition("/")[2]) is UNAUTHENTICATED, (key, path)


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "bearer  ", "Bearer mk_", ""])
async def test_a_malformed_header_is_no_key(server: serving.Server, header: str) -> None:
    client = server.client("")
    client.metadata = (("authorization", header),)
    assert await status_of(client, "GetAccount") is UNAUTHENTICATED


async def test_keys_of_any_kind_are_told_nothing_of_each_other(server: serving.Server, scene: serving.Scene) -> None:
    revoked = await serving.new_key(scene.dsn, "acme", "admin", name="revoked")
    await serving.revoke_key(scene.dsn, revoked)
    messages = {(await server.client(key).refused("GetAccount", b"")).message for key in (UNKNOWN, revoked.key)}
    assert messages == {"unknown or revoked API key"}


async def test_every_method_of_the_protos_is_served_and_no_other(server: serving.Server, scene: serving.Scene) -> None:
    pool_ = descriptor_pool.Default()
    declared = {
        f"/{service}/{method.name}" for service in SERVICES for method in pool_.FindServiceByName(service).methods
    }
    assert declared == set(auth.ROLES)
    for path in declared:
        assert await status_of(server.client(scene.key), path.rpartition("/")[2]) is not grpc.StatusCode.UNIMPLEMENTED
    other = server.channel.unary_unary("/meterd.v1.Metering/Refund")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await other(b"", metadata=server.client(scene.key).metadata)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as found:
        yield found


async def test_a_tenant_sees_and_touches_nothing_of_another(scene: serving.Scene, stripe: stripe_fake.Stripe) -> None:
    ours = await serving.new_key(scene.dsn, "ours", "admin")
    theirs = await serving.new_key(scene.dsn, "theirs", "admin")
    at_stripe: dict[str, Any] = {"stripe_api_key": stripe_fake.KEY, "stripe_api_base": stripe.url}
    settings = serving.settings_of(scene.dsn, scene.redis_url, **at_stripe)
    async with serving.running(settings) as server, serving.contents(scene.dsn, scene.redis_url) as contents:
        client, thief = server.client(ours.key), server.client(theirs.key)
        world = await made(client, thief)
        await bad_events.add_webhooks(world, thief)
        await bad_credit.add_offers(world, thief)
        await bad_billing.add_purchases(world, thief, "elsewhere")
        before, told = await contents.now(), len(stripe.requests("POST"))
        requests = {
            name: bad_input.request_of(name, world, {})
            for name in bad_input.GOOD
            # What is not about an account has a test of its own.
            if name not in NOT_OF_AN_ACCOUNT
        }
        requests["Estimate"] = metering_pb2.EstimateRequest(account_id=world.account_id, credits=bad_input.credits(1))
        for name, request in requests.items():
            refusal = await thief.refused(name, request)
            assert refusal.code is grpc.StatusCode.NOT_FOUND, (name, refusal)
            assert "no such" in refusal.message
        assert await contents.now() == before
        assert len(stripe.requests("POST")) == told
        # The same name is another account.
        await thief.fund(world.account_id, 5)
        assert await thief.balance(world.account_id) == (5, 0)
        assert (await client.balance(world.account_id))[0] > 5


async def made(client: serving.Client, other: serving.Client) -> bad_input.World:
    """An account with holds, a grant and a settlement; without the things that a price file has."""
    world = bad_input.World(client=client, account_id="acct")
    await client.fund("acct", 10**9)
    world.grant_id = (await client.call("Grant", serving.grant_request("acct", 7))).grant.grant_id
    for name in ("credits", "feature", "model"):
        world.open[name] = (await client.reserve("acct", 10)).hold_id
    world.committed = (await client.reserve("acct", 10)).hold_id
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=world.committed, amount_micros=7))
    await other.fund("elsewhere", 1)
    return world


async def test_a_hold_id_with_anothers_address_finds_nothing(server: serving.Server, scene: serving.Scene) -> None:
    client = server.client(scene.key)
    await client.fund("acct", 1_000)
    hold = await client.reserve("acct", 100)
    thief = server.client((await serving.new_key(scene.dsn, "thief", "admin")).key)
    await thief.fund("acct", 1_000)
    forged = hold.hold_id.partition(".")[0] + "." + ids.account_address("thief", "acct")
    refusal = await thief.refused("Commit", metering_pb2.CommitRequest(hold_id=forged, amount_micros=1))
    assert refusal == serving.Refusal(code=grpc.StatusCode.NOT_FOUND, message="hold_id: no such hold")


async def test_a_revocation_acts_without_a_restart(scene: serving.Scene) -> None:
    created = await serving.new_key(scene.dsn, "acme", "read")
    settings = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(settings, keys_refresh_interval_s=0.05) as server:
        client = server.client(created.key)
        assert await status_of(client, "GetAccount") is grpc.StatusCode.INVALID_ARGUMENT
        await serving.revoke_key(scene.dsn, created)

        async def refused() -> bool:
            return await status_of(client, "GetAccount") is UNAUTHENTICATED

        await serving.eventually(refused, timeout_s=10)


def test_a_revocation_acts_within_thirty_seconds_by_default() -> None:
    assert 2 * auth.REFRESH_INTERVAL_S + auth.LOOKUP_TIMEOUT_S <= 30


async def services_of(channel: grpc.aio.Channel) -> set[str]:
    untyped: Any = channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    async for response in call:
        return {service.name for service in response.list_services_response.service}
    return set()


async def test_reflection_is_served_if_it_is_asked_for(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, reflection=True)) as server:
        assert {*SERVICES, "grpc.health.v1.Health"} <= await services_of(server.channel)


async def test_reflection_is_not_served_by_default(server: serving.Server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await services_of(server.channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_key_and_knows_every_service(server: serving.Server) -> None:
    for service in ("", *SERVICES):
        assert await server.health(service) == "SERVING"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.health("other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_metadata_beyond_its_limit_is_refused_before_the_call(
    server: serving.Server, scene: serving.Scene
) -> None:
    client = server.client(scene.key)
    request = accounts_pb2.GetAccountRequest(account_id="nobody")
    client.metadata += (("x-note", "n" * (options.METADATA_BYTES_MAX // 2)),)
    assert (await client.refused("GetAccount", request)).code is grpc.StatusCode.NOT_FOUND
    client.metadata += (("x-note", "n" * (3 * options.METADATA_BYTES_MAX)),)
    assert (await client.refused("GetAccount", request)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_beyond_its_limit_is_refused(server: serving.Server, scene: serving.Scene) -> None:
    client = server.client(scene.key)
    data = b"\x0a" + b"\x80\x80\x80\x02" + b"a" * options.MESSAGE_BYTES_MAX
    assert (await client.refused("GetAccount", data)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    directory: pathlib.Path
    ca: trustme.CA

    def issued(self, name: str, host: str) -> tuple[str, str]:
        """Paths of a certificate and its key."""
        made = self.ca.issue_cert(host)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        return str(certificate), str(key)

    def trusted(self) -> bytes:
        return self.ca.cert_pem.bytes()


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> Authority:
    return Authority(directory=tmp_path, ca=trustme.CA())


async def reached(address: str, credentials: grpc.ChannelCredentials | None, key: str) -> grpc.StatusCode:
    """Status of a call over a channel of its own."""
    made = grpc.aio.insecure_channel(address) if credentials is None else grpc.aio.secure_channel(address, credentials)
    async with made as channel:
        request = accounts_pb2.GetAccountRequest(account_id="nobody")
        return (await serving.Client(channel, key).refused("GetAccount", request)).code


async def test_tls_serves_those_who_trust_its_authority(scene: serving.Scene, authority: Authority) -> None:
    certificate, key = authority.issued("server", "localhost")
    settings = serving.settings_of(
        scene.dsn, scene.redis_url, listen="localhost:0", tls_cert_file=certificate, tls_key_file=key
    )
    async with serving.running(settings, ready=False) as server:
        trusting = grpc.ssl_channel_credentials(authority.trusted())
        assert await reached(server.address, trusting, scene.key) is grpc.StatusCode.NOT_FOUND
        other = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
        assert await reached(server.address, other, scene.key) is grpc.StatusCode.UNAVAILABLE
        assert await reached(server.address, None, scene.key) is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_serves_only_certificates_of_its_authority(scene: serving.Scene, authority: Authority) -> None:
    certificate, key = authority.issued("server", "localhost")
    authority.ca.cert_pem.write_to_path(str(authority.directory / "ca.pem"))
    tls = {"tls_cert_file": certificate, "tls_key_file": key, "tls_client_ca_file": str(authority.directory / "ca.pem")}
    settings = serving.settings_of(scene.dsn, scene.redis_url, listen="localhost:0", **tls)

    def shown(issuer: Authority, name: str) -> grpc.ChannelCredentials:
        pair = [pathlib.Path(path).read_bytes() for path in issuer.issued(name, "client.example")]
        return grpc.ssl_channel_credentials(authority.trusted(), pair[1], pair[0])

    async with serving.running(settings, ready=False) as server:
        assert await reached(server.address, shown(authority, "client"), scene.key) is grpc.StatusCode.NOT_FOUND
        bare = grpc.ssl_channel_credentials(authority.trusted())
        assert await reached(server.address, bare, scene.key) is grpc.StatusCode.UNAVAILABLE
        stranger = Authority(directory=authority.directory, ca=trustme.CA())
        assert await reached(server.address, shown(stranger, "stranger"), scene.key) is grpc.StatusCode.UNAVAILABLE
        # A certificate is not a key.
        assert await reached(server.address, shown(authority, "keyless"), "") is UNAUTHENTICATED


async def config_error(dsn: str, redis_url: str, **changes: Any) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        await app.App(serving.settings_of(dsn, redis_url, **changes)).serve()
    return str(caught.value)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:8260", "meterd.example:8260"])
async def test_plaintext_off_loopback_is_refused_at_the_start(listen: str) -> None:
    message = await config_error("postgresql://nowhere/x", "redis://127.0.0.1:1/0", listen=listen)
    assert message.startswith(f"{listen} is reachable from other machines") and "allow plaintext" in message


async def test_plaintext_off_loopback_is_served_if_it_is_allowed(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, listen="0.0.0.0:0", allow_plaintext=True)
    async with serving.running(settings, ready=False) as server:
        assert server.address.startswith("0.0.0.0:")


async def test_settings_that_cannot_work_are_told_by_name(scene: serving.Scene, server: serving.Server) -> None:
    stores = (scene.dsn, scene.redis_url)
    assert (await config_error("", scene.redis_url)).startswith("METERD_POSTGRES_DSN: must be given")
    taken = await config_error(*stores, listen=server.address)
    assert taken == f"METERD_LISTEN: cannot listen on {server.address}: address already in use"
    assert (await config_error(*stores, http_listen=server.address)).startswith("METERD_HTTP_LISTEN: cannot listen on")
    assert (await config_error(*stores, prices_file="nowhere.yaml")).startswith("METERD_PRICES_FILE: ")
    tls = {"tls_cert_file": "nowhere.pem", "tls_key_file": "nowhere.key"}
    assert "nowhere.pem" in await config_error(*stores, **tls)


async def test_a_database_that_lacks_migrations_is_told(empty_database: str, redis_url: str) -> None:
    assert "run `meterd migrate`" in await config_error(empty_database, redis_url)
