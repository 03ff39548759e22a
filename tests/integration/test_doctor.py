"""`meterd doctor` on real stores whose settings are changed."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import click.testing
import pytest
import redis

from meterd.cli import doctor as doctor_command
from meterd.core import findings
from meterd.embedded import postgres, process
from meterd.postgres import migrate, pool
from meterd.postgres import settings_check as postgres_check
from meterd.redis import keys, runner
from meterd.redis import settings_check as redis_check
from tests import places
from tests.integration import stores

PARTITIONS = 4
SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "0",
}
Levels = dict[str, findings.Level]
Run = Callable[..., click.testing.Result]


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[str]:
    """The shared one is quick because it is unsafe."""
    with places.store_directory("doctor") as directory:
        server = postgres.Postgres(pathlib.Path(directory))
        server.start()
        yield server.dsn
        server.kill()


@pytest.fixture
def dsn(durable_postgres: str) -> Iterator[str]:
    """A fresh, migrated database of it."""
    name = "meterd_doctor"
    found = postgres.create_database(durable_postgres, name)
    asyncio.run(migrate.migrate(found, partitions=PARTITIONS))
    yield found
    postgres.drop_database(durable_postgres, name)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """An administrator of a Redis that is set up as it should be; its settings are put back at the end."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as found:
        before: dict[str, Any] = {name: found.config_get(name)[name] for name in SAFE}
        for name, value in SAFE.items():
            found.config_set(name, value)
        yield found
        for name, value in before.items():
            found.config_set(name, value)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("DSN", "DSN_FILE"):
        monkeypatch.delenv(f"METERD_POSTGRES_{name}", raising=False)

    def invoke(dsn: str, redis_url: str, *arguments: str, code: int = 0) -> click.testing.Result:
        given = ("--postgres", dsn, "--redis", redis_url, *arguments)
        done = click.testing.CliRunner().invoke(doctor_command.doctor, given)
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    return invoke


def of_redis(url: str) -> list[findings.Finding]:
    async def check() -> list[findings.Finding]:
        found = runner.Runner(url)
        await found.start()
        assert await found.wait_connected(5)
        try:
            return await redis_check.check_redis(found)
        finally:
            await found.close()

    return asyncio.run(check())


def bad(found: list[findings.Finding]) -> Levels:
    """What is not as it should be; how near Redis is depends on the machine."""
    return {one.subject: one.level for one in found if one.level != findings.Level.OK and one.subject != "round trip"}


def of_postgres(dsn: str, **arguments: int) -> Levels:
    return bad(asyncio.run(postgres_check.check_postgres(dsn, **arguments)))


def sql(dsn: str, *statements: str) -> None:
    async def play() -> None:
        connection = await pool.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(play())


def test_a_redis_as_it_should_be_has_nothing_to_find(client: redis.Redis, redis_url: str) -> None:
    found = of_redis(redis_url)
    assert bad(found) == {}
    assert {one.subject for one in found} >= {"version", "role", "maxmemory-policy", "appendfsync", "permissions"}
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("name", "value", "subject", "level"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy", findings.Level.UNSAFE),
        ("maxmemory-policy", "volatile-ttl", "maxmemory-policy", findings.Level.UNSAFE),
        ("appendonly", "no", "appendonly", findings.Level.UNSAFE),
        ("appendfsync", "no", "appendfsync", findings.Level.UNSAFE),
        ("appendfsync", "everysec", "appendfsync", findings.Level.WARN),
        ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite", findings.Level.WARN),
        ("maxmemory", "1mb", "maxmemory", findings.Level.WARN),
        ("maxmemory", "900000gb", "maxmemory", findings.Level.WARN),
    ],
)
def test_an_unsafe_setting_of_redis_is_found_and_what_to_change_is_said(
    client: redis.Redis, redis_url: str, name: str, value: str, subject: str, level: findings.Level
) -> None:
    client.config_set(name, value)
    found = of_redis(redis_url)
    assert bad(found) == {subject: level}
    one = next(one for one in found if one.subject == subject)
    assert one.why and one.change


def test_a_replica_is_no_place_for_money(client: redis.Redis, redis_url: str) -> None:
    # Nobody listens there; a replica it is all the same.
    client.replicaof("127.0.0.1", str(process.free_port()))
    try:
        assert bad(of_redis(redis_url))["role"] == findings.Level.UNSAFE
    finally:
        client.replicaof("NO", "ONE")


def test_a_user_who_may_not_look_is_told_what_cannot_be_seen(client: redis.Redis, redis_url: str) -> None:
    rights = ["~{m:*", "+@all", "-@dangerous", "+script", "+eval", "+evalsha", "+info"]
    client.execute_command("ACL", "SETUSER", "meterd", "reset", "on", ">secret", *rights)
    url = redis_url.replace("redis://", "redis://meterd:secret@")
    try:
        found = of_redis(url)
        assert bad(found) == {"appendfsync": findings.Level.WARN}
        assert "cannot see" in next(one.seen for one in found if one.subject == "appendfsync")
        client.execute_command("ACL", "SETUSER", "meterd", "+config|get")
        assert bad(of_redis(url)) == {}
        client.execute_command("ACL", "SETUSER", "meterd", "-info")
        assert bad(of_redis(url)) == {"INFO": findings.Level.WARN}
    finally:
        client.execute_command("ACL", "DELUSER", "meterd")


@pytest.mark.parametrize(
    ("rights", "named"),
    [
        (["-xadd"], "XADD"),
        (["-hset", "-evalsha"], "HSET, EVALSHA"),
        (["-script|load"], "SCRIPT LOAD"),
        (["resetkeys", "~other:*"], "GET"),
    ],
)
def test_a_command_that_the_user_may_not_use_is_named(
    client: redis.Redis, redis_url: str, rights: list[str], named: str
) -> None:
    client.execute_command("ACL", "SETUSER", "meterd", "reset", "on", ">secret", "~{m:*", "+@all", *rights)
    try:
        found = of_redis(redis_url.replace("redis://", "redis://meterd:secret@"))
        assert bad(found) == {"permissions": findings.Level.UNSAFE}
        assert named in next(one.why for one in found if one.subject == "permissions")
    finally:
        client.execute_command("ACL", "DELUSER", "meterd")


def test_a_postgres_as_it_should_be_has_nothing_to_find(dsn: str) -> None:
    assert of_postgres(dsn) == {}


def test_settings_that_lose_records_are_found(database: str) -> None:
    """The Postgres of the other tests, which is quick because of them."""
    unsafe = ("fsync", "full_page_writes", "synchronous_commit")
    assert of_postgres(database) == dict.fromkeys(unsafe, findings.Level.UNSAFE)


@pytest.mark.parametrize(
    ("setting", "subject"),
    [
        ("synchronous_commit = off", "synchronous_commit"),
        ("default_transaction_read_only = on", "default_transaction_read_only"),
    ],
)
def test_a_setting_of_the_database_counts(dsn: str, setting: str, subject: str) -> None:
    sql(dsn, f"ALTER DATABASE meterd_doctor SET {setting}")
    assert of_postgres(dsn) == {subject: findings.Level.UNSAFE}


def test_too_few_connections_are_found(dsn: str) -> None:
    assert of_postgres(dsn, connections_max=10_000) == {"max_connections": findings.Level.WARN}


def test_a_user_who_cannot_act_as_the_roles_is_found(dsn: str) -> None:
    sql(dsn, "CREATE ROLE stranger LOGIN PASSWORD 'stranger'", "GRANT SELECT ON schema_migrations TO stranger")
    try:
        user, _, place = dsn.removeprefix("postgresql://").partition("@")
        assert user
        assert of_postgres(f"postgresql://stranger:stranger@{place}") == {"roles": findings.Level.UNSAFE}
    finally:
        sql(dsn, "DROP OWNED BY stranger", "DROP ROLE stranger")


def test_tables_that_are_not_there_are_pending(durable_postgres: str) -> None:
    empty = postgres.create_database(durable_postgres, "meterd_doctor_empty")
    try:
        assert of_postgres(empty)["migrations"] == findings.Level.UNSAFE
    finally:
        postgres.drop_database(durable_postgres, "meterd_doctor_empty")


@pytest.mark.parametrize(
    ("difference_ms", "level"),
    [
        (1_000, findings.Level.OK),
        (-1_001, findings.Level.WARN),
        (30_000, findings.Level.WARN),
        (30_001, findings.Level.UNSAFE),
        (-30_001, findings.Level.UNSAFE),
    ],
)
def test_a_clock_that_differs_is_found(difference_ms: int, level: findings.Level) -> None:
    one = findings.clock("redis", difference_ms)
    assert one.level == level
    assert one.seen == f"{abs(difference_ms):,} ms {'ahead of' if difference_ms > 0 else 'behind'} this machine's"


async def life(dsn: str, redis_url: str, *, flushed: bool) -> None:
    async with stores.opened(dsn, redis_url) as both:
        await both.account()
        await both.grant("first", 1_000)
        await both.projector.project(both.address)
        await both.commit(await both.reserve(300), 120)
        if flushed:
            flush = both.world.flusher()
            await flush.drain()
            await flush.close()


def test_the_command_says_that_all_is_safe(client: redis.Redis, redis_url: str, dsn: str, run: Run) -> None:
    asyncio.run(life(dsn, redis_url, flushed=True))
    shown = run(dsn, redis_url).stdout
    assert f"fence: {PARTITIONS} partitions agree" in shown
    assert " 0 unsafe." in shown
    document = json.loads(run(dsn, redis_url, "--json").stdout)
    assert document["safe"] is True
    assert document["away"] == []
    assert {one["store"] for one in document["findings"]} == {"redis", "postgres", "ledger"}
    assert client.config_get("appendfsync")["appendfsync"] == "always"


def test_a_warning_fails_only_the_strict(client: redis.Redis, redis_url: str, dsn: str, run: Run) -> None:
    client.config_set("appendfsync", "everysec")
    run(dsn, redis_url)
    shown = run(dsn, redis_url, "--strict", code=1).stdout
    assert "change: CONFIG SET appendfsync always" in shown


def test_an_unsafe_store_fails_the_command(client: redis.Redis, redis_url: str, dsn: str, run: Run) -> None:
    client.config_set("maxmemory-policy", "allkeys-random")
    document = json.loads(run(dsn, redis_url, "--json", code=1).stdout)
    assert document["safe"] is False
    assert [one["subject"] for one in document["findings"] if one["level"] == "unsafe"] == ["maxmemory-policy"]


def test_stores_that_do_not_agree_are_found(client: redis.Redis, redis_url: str, dsn: str, run: Run) -> None:
    asyncio.run(life(dsn, redis_url, flushed=True))
    client.delete(keys.sentinel(1))
    shown = run(dsn, redis_url, code=1).stdout
    assert f"fence: 1 of {PARTITIONS} partitions do not agree" in shown
    assert "partition 1: Redis has no sentinel" in shown
    assert "change: meterd recover" in shown


def test_records_that_wait_too_long_are_found(
    client: redis.Redis, redis_url: str, dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(life(dsn, redis_url, flushed=False))
    assert client.exists(*(keys.outbox(partition) for partition in range(PARTITIONS)))
    run(dsn, redis_url, "--strict")
    monkeypatch.setattr(doctor_command, "OUTBOX_AGE_MAX_MS", -1)
    assert "warn   ledger   outbox: 2 records kept" in run(dsn, redis_url, "--strict", code=1).stdout


def test_a_store_that_is_away_does_not_hide_the_other(redis_url: str, client: redis.Redis, dsn: str, run: Run) -> None:
    away = f"redis://:hunter2@127.0.0.1:{process.free_port()}/0"
    shown = run(dsn, away, code=3).output
    assert "Redis is away" in shown
    assert "postgres synchronous_commit: on" in shown
    assert "hunter2" not in shown
    gone = f"postgresql://meterd:hunter2@127.0.0.1:{process.free_port()}/meterd"
    shown = run(gone, redis_url, code=3).output
    assert "Postgres is away" in shown
    assert "redis    maxmemory-policy: noeviction" in shown
    assert client.ping()
