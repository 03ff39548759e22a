"""Who calls: keys known and unknown, floods, and a Postgres that is away. Time is given; lookups are counted."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from meterd.core import errors
from meterd.postgres import keys
from meterd.server import auth
from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, metering_pb2, reports_pb2

NOW_MS = 1_800_000_000_000


def new_key() -> str:
    return "mk_" + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """Metadata as gRPC hands it out, with what clients send besides."""
    return (("user-agent", "grpc-python-asyncio/1.85.1"), ("authorization", f"Bearer {key}"))


class Table:
    """The rows of api_keys, in memory. It counts the queries and can be away."""

    def __init__(self) -> None:
        self.rows: dict[bytes, keys.KeyRow] = {}
        self.queries: list[list[bytes]] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, key: str, **changes: Any) -> None:
        digest = keys.digest_of(key)
        values: dict[str, Any] = {"tenant_id": "acme", "key_id": "k1", "role": "meter", "digest": digest, "name": ""}
        values |= {"created_ms": NOW_MS, "expires_ms": 0, "revoked_ms": 0}
        self.rows[digest] = keys.KeyRow(**values | changes)

    def change(self, key: str, **changes: Any) -> None:
        digest = keys.digest_of(key)
        self.rows[digest] = dataclasses.replace(self.rows[digest], **changes)

    async def find(self, digests: Sequence[bytes]) -> Sequence[keys.KeyRow]:
        self.queries.append(list(digests))
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return [self.rows[digest] for digest in digests if digest in self.rows]


class World:
    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.table = Table()
        self.authenticator = auth.Authenticator(self.table.find, clock_ms=lambda: self.now_ms)

    async def known(self, **changes: Any) -> str:
        key = new_key()
        self.table.add(key, **changes)
        await self.authenticator.authenticate(bearer(key))
        self.table.queries.clear()
        return key

    async def refused(self, metadata: Any) -> str:
        with pytest.raises(errors.UnauthenticatedError) as caught:
            await self.authenticator.authenticate(metadata)
        return str(caught.value)


@pytest.fixture(name="world")
async def _world() -> World:  # pyright: ignore[reportUnusedFunction]
    return World()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(authenticator: auth.Authenticator) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(authenticator.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_a_key_is_looked_up_once_and_then_known_without_awaiting(world: World) -> None:
    key = new_key()
    world.table.add(key, tenant_id="acme", role="admin", key_id="k7", expires_ms=NOW_MS + 1)
    assert world.authenticator.principal(bearer(key)) is None
    expected = auth.Principal(tenant_id="acme", role="admin", key_id="k7", expires_ms=NOW_MS + 1)
    assert await world.authenticator.authenticate(bearer(key)) == expected
    assert world.authenticator.principal(bearer(key)) == expected
    assert await world.authenticator.authenticate(bearer(key)) == expected
    assert world.table.queries == [[keys.digest_of(key)]]


async def test_the_scheme_may_be_written_in_any_case(world: World) -> None:
    key = await world.known()
    for scheme in ("bearer", "BEARER", "bEaReR", "Bearer  "):
        assert (await world.authenticator.authenticate([("authorization", f"{scheme} {key}")])).tenant_id == "acme"
    assert world.table.queries == [], "other spellings must not cost a lookup"


async def test_the_first_header_counts_on_both_paths(world: World) -> None:
    key = await world.known()
    metadata = [("authorization", "Bearer mk_x"), ("authorization", f"Bearer {key}")]
    assert world.authenticator.principal(metadata) is None
    assert "malformed" in await world.refused(metadata)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "mk_" + "a" * 43,
        "Bearer sk_" + "a" * 43,
        "Bearer MK_" + "a" * 43,
        "Bearer mk_" + "a" * 42,
        "Bearer mk_" + "a" * 44,
        "Bearer mk_" + "a" * 42 + "=",
        "Bearer mk_" + "a" * 42 + "\n",
        "Bearer mk_" + "a" * 43 + "\n",
        "Bearer mk_" + "a" * 42 + "é",
        "Bearer mk_" + "a" * 42 + "\u0661",
        "Bearer mk_" + "a" * 42 + "\x00",
        "Bearer\tmk_" + "a" * 43,
        "Bearer mk_" + "a" * 2**20,
        " " * 2**20,
        b"Bearer mk_" + b"a" * 43,
    ],
)
async def test_a_malformed_key_is_refused_before_it_is_hashed(
    world: World, value: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_digest(_key: str) -> bytes:
        raise AssertionError("a malformed key was hashed")

    monkeypatch.setattr(keys, "digest_of", no_digest)
    assert world.authenticator.principal([("authorization", value)]) is None
    assert "malformed" in await world.refused([("authorization", value)])
    assert world.table.queries == []


@pytest.mark.parametrize("metadata", [None, (), (("x-authorization", "Bearer mk_" + "a" * 43),)])
async def test_no_key_is_refused(world: World, metadata: Any) -> None:
    assert world.authenticator.principal(metadata) is None
    assert "no API key" in await world.refused(metadata)


async def test_an_outsider_does_not_learn_whether_a_key_existed(world: World) -> None:
    revoked = new_key()
    world.table.add(revoked, revoked_ms=NOW_MS - 1)
    assert await world.refused(bearer(revoked)) == await world.refused(bearer(new_key()))


async def test_a_key_expires_to_the_millisecond_and_without_a_refresh(world: World) -> None:
    key = await world.known(expires_ms=NOW_MS + 1_000)
    world.now_ms = NOW_MS + 999
    assert world.authenticator.principal(bearer(key)) is not None
    world.now_ms = NOW_MS + 1_000
    assert world.authenticator.principal(bearer(key)) is None
    assert await world.refused(bearer(key)) == "expired API key"


async def test_a_key_that_has_expired_before_its_first_call_is_refused(world: World) -> None:
    key = new_key()
    world.table.add(key, expires_ms=NOW_MS)
    assert await world.refused(bearer(key)) == "expired API key"


async def test_calls_at_once_with_one_new_key_share_a_lookup(world: World) -> None:
    key = new_key()
    world.table.add(key)
    found = await asyncio.gather(*(world.authenticator.authenticate(bearer(key)) for _ in range(500)))
    assert {principal.tenant_id for principal in found} == {"acme"}
    assert len(world.table.queries) == 1


async def test_a_caller_that_gives_up_does_not_take_the_others_along(world: World) -> None:
    key = new_key()
    world.table.add(key)
    world.table.gate.clear()
    first = asyncio.create_task(world.authenticator.authenticate(bearer(key)))
    second = asyncio.create_task(world.authenticator.authenticate(bearer(key)))
    await until(lambda: bool(world.table.queries))
    first.cancel()
    world.table.gate.set()
    assert (await second).key_id == "k1"
    assert first.cancelled()


async def test_a_refused_key_costs_no_second_lookup_for_five_seconds(world: World) -> None:
    key = new_key()
    await world.refused(bearer(key))
    world.now_ms = NOW_MS + auth.REFUSED_TTL_MS - 1
    await world.refused(bearer(key))
    assert len(world.table.queries) == 1
    world.table.add(key)
    world.now_ms = NOW_MS + auth.REFUSED_TTL_MS
    assert (await world.authenticator.authenticate(bearer(key))).key_id == "k1"


async def test_a_clock_that_was_set_back_does_not_prolong_a_refusal(world: World) -> None:
    key = new_key()
    await world.refused(bearer(key))
    world.now_ms = NOW_MS - 3_600_000
    world.table.add(key)
    assert (await world.authenticator.authenticate(bearer(key))).key_id == "k1"


async def test_a_flood_of_unknown_keys_costs_few_queries_and_bounded_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFUSED_KEYS_MAX", 100)
    good = new_key()
    world.table.add(good)
    calls = [world.authenticator.authenticate(bearer(new_key())) for _ in range(2_000)]
    calls.append(world.authenticator.authenticate(bearer(good)))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in found[:-1]} == {errors.UnauthenticatedError}
    assert isinstance(found[-1], auth.Principal)
    assert [len(query) for query in world.table.queries] == [1_000, 1_000, 1]
    assert world.authenticator.refused_count == 100


async def test_too_many_unknown_keys_at_once_are_overload_while_known_ones_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "LOOKUPS_WAITING_MAX", 3)
    known = await world.known()
    world.table.gate.clear()
    waiting = [asyncio.create_task(world.authenticator.authenticate(bearer(new_key()))) for _ in range(3)]
    await until(lambda: bool(world.table.queries))
    with pytest.raises(errors.OverloadedError):
        await world.authenticator.authenticate(bearer(new_key()))
    assert world.authenticator.principal(bearer(known)) is not None
    world.table.gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_most_keys_known_at_once_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KNOWN_KEYS_MAX", 2)
    first, second, third = [await world.known(key_id=name) for name in ("k1", "k2", "k3")]
    assert world.authenticator.principal(bearer(first)) is None
    assert world.authenticator.principal(bearer(second)) is not None
    assert world.authenticator.principal(bearer(third)) is not None
    assert (await world.authenticator.authenticate(bearer(first))).key_id == "k1"
    assert world.authenticator.principal(bearer(second)) is None


async def test_a_revocation_acts_with_the_next_refresh(world: World) -> None:
    key, other = await world.known(), await world.known(key_id="k2")
    world.table.change(key, revoked_ms=NOW_MS)
    assert world.authenticator.principal(bearer(key)) is not None
    await world.authenticator.refresh()
    assert world.authenticator.principal(bearer(key)) is None
    assert world.authenticator.principal(bearer(other)) is not None
    assert len(world.table.queries) == 1, "all known keys are read in one query"
    assert "unknown or revoked" in await world.refused(bearer(key))
    assert len(world.table.queries) == 1, "a revoked key is refused without another one"


async def test_a_key_that_was_deleted_is_refused_after_a_refresh(world: World) -> None:
    key = await world.known()
    world.table.rows.clear()
    await world.authenticator.refresh()
    assert world.authenticator.principal(bearer(key)) is None


async def test_a_changed_expiry_acts_with_the_next_refresh(world: World) -> None:
    key = await world.known()
    world.table.change(key, expires_ms=NOW_MS + 5)
    await world.authenticator.refresh()
    principal = world.authenticator.principal(bearer(key))
    assert principal is not None
    assert principal.expires_ms == NOW_MS + 5
    world.now_ms = NOW_MS + 5
    await world.authenticator.refresh()
    assert await world.refused(bearer(key)) == "expired API key"


async def test_a_revocation_acts_within_30_s_even_if_one_refresh_fails() -> None:
    longest_s = 2 * (auth.REFRESH_INTERVAL_S + auth.LOOKUP_TIMEOUT_S)
    assert longest_s <= 30


async def test_the_running_refresh_sees_a_revocation(world: World) -> None:
    world.authenticator = auth.Authenticator(world.table.find, clock_ms=lambda: world.now_ms, refresh_interval_s=0.005)
    key = await world.known()
    async with running(world.authenticator):
        world.table.change(key, revoked_ms=NOW_MS)
        await until(lambda: world.authenticator.principal(bearer(key)) is None)


async def test_known_keys_outlive_a_postgres_that_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.authenticator = auth.Authenticator(world.table.find, clock_ms=lambda: world.now_ms, refresh_interval_s=0.002)
    key = await world.known(expires_ms=NOW_MS + 60_000)
    world.table.fault = errors.UnavailableError("Postgres: connection refused")
    async with running(world.authenticator):
        await until(lambda: len(world.table.queries) >= 3)
        assert world.authenticator.principal(bearer(key)) is not None
        assert world.authenticator.is_stale
        world.now_ms = NOW_MS + 60_000
        assert await world.refused(bearer(key)) == "expired API key"
        world.now_ms = NOW_MS
        world.table.fault = None
        await until(lambda: not world.authenticator.is_stale)
    messages = [record.getMessage() for record in caplog.records if record.name == auth.__name__]
    assert len(messages) == 2, "one line when it goes away, one when it is back"


@pytest.mark.parametrize("fault", [errors.UnavailableError("away"), OSError("refused"), RuntimeError("defect")])
async def test_an_unknown_key_is_unavailable_not_unauthenticated_while_postgres_is_away(
    world: World, fault: Exception
) -> None:
    key = new_key()
    world.table.add(key)
    world.table.fault = fault
    for _ in range(2):
        with pytest.raises(errors.UnavailableError):
            await world.authenticator.authenticate(bearer(key))
    world.table.fault = None
    assert (await world.authenticator.authenticate(bearer(key))).key_id == "k1"


async def test_a_postgres_that_does_not_answer_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "LOOKUP_TIMEOUT_S", 0.01)
    world.table.gate.clear()
    with pytest.raises(errors.UnavailableError):
        await world.authenticator.authenticate(bearer(new_key()))


async def test_a_stop_leaves_nobody_waiting(world: World) -> None:
    world.table.gate.clear()
    stop = asyncio.Event()
    task = asyncio.create_task(world.authenticator.run(stop))
    waiting = asyncio.create_task(world.authenticator.authenticate(bearer(new_key())))
    await until(lambda: bool(world.table.queries))
    stop.set()
    await task
    with pytest.raises(errors.UnavailableError):
        await waiting


async def test_no_key_is_shown_or_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    known, unknown, away = await world.known(), new_key(), new_key()
    shown = [repr(world.authenticator), repr(world.authenticator.principal(bearer(known)))]
    shown.append(await world.refused(bearer(unknown)))
    shown.append(await world.refused(bearer(unknown + "x")))
    world.table.fault = OSError("refused")
    with pytest.raises(errors.UnavailableError) as caught:
        await world.authenticator.authenticate(bearer(away))
    shown += [repr(caught.value), caplog.text]
    for key in (known, unknown, away):
        assert not any(key[3:20] in text for text in shown)


def test_every_method_of_all_services_has_roles_and_no_other_method_has() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in (metering_pb2, accounts_pb2, catalog_pb2, events_pb2, reports_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(auth.ROLES)


def test_a_method_without_declared_roles_admits_nobody() -> None:
    with pytest.raises(LookupError):
        auth.roles_of("/meterd.v1.Metering/Mint")


def test_the_database_and_the_methods_know_the_same_roles() -> None:
    assert {role.value for role in auth.Role} == set(keys.ROLES)


ADMIN_ONLY = {
    *("CreateAccount", "UpdateAccount", "Grant", "RevokeGrant", "Transfer", "ClawBack", "SetTopUp", "DeleteTopUp"),
    *("Subscribe", "UpdateSubscription", "CancelSubscription", "ApplyCatalog"),
    *("SetLimit", "DeleteLimit"),
    *("CreateWebhook", "DeleteWebhook", "RotateWebhookSecret", "ReplayEvents", "SetLowBalance"),
}


@pytest.mark.parametrize(
    ("role", "denied"),
    [
        (
            "read",
            {"Reserve", "Commit", "Release", "Extend", "Report", "Charge", "Stream", "ClaimReward"} | ADMIN_ONLY,
        ),
        ("meter", {"Usage", "Revenue", "Burn", "TopAccounts"} | ADMIN_ONLY),
        ("admin", set[str]()),
        ("root", {method.rpartition("/")[2] for method in auth.ROLES}),
    ],
)
def test_roles_admit_what_the_contract_says(role: str, denied: set[str]) -> None:
    principal = auth.Principal(tenant_id="acme", role=role, key_id="k1", expires_ms=0)
    refused = set[str]()
    for method in auth.ROLES:
        try:
            auth.check_role(principal, auth.roles_of(method))
        except errors.PermissionDeniedError:
            refused.add(method.rpartition("/")[2])
    assert refused == denied
