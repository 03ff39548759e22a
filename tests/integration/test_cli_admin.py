"""The administrative commands on real stores: what they print, for people and for machines, and how they exit."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click.testing
import pytest

from meterd.cli import keys as keys_command
from meterd.cli import migrate as migrate_command
from meterd.cli import recover as recover_command
from meterd.cli import stores as cli_stores
from meterd.cli import verify as verify_command
from meterd.embedded import process
from meterd.postgres import keys, pool
from meterd.redis import keys as redis_keys
from tests.integration import outbox, stores

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command without a METERD_ environment; `code` is the exit status that it must have."""
    for name in ("METERD_POSTGRES_DSN", "METERD_REDIS_URL", "METERD_POSTGRES_DSN_FILE", "METERD_REDIS_URL_FILE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(command: click.Command, *arguments: str, code: int = 0) -> click.testing.Result:
        done = click.testing.CliRunner().invoke(command, arguments)
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done

    return invoke


def in_world(dsn: str, redis_url: str, act: Callable[[stores.Stores], Any]) -> Any:
    """What `act` answers in a world with one funded account."""

    async def play() -> Any:
        async with stores.opened(dsn, redis_url) as both:
            await both.account()
            await both.grant("first", 1_000)
            await both.projector.project(both.address)
            return await act(both)

    return asyncio.run(play())


async def some_life(both: stores.Stores) -> None:
    await both.commit(await both.reserve(300), 120)
    await both.reserve(70)
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()


def sql(dsn: str, *statements: str) -> None:
    async def play() -> None:
        connection = await pool.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(play())


def away() -> str:
    return f"postgresql://meterd:hunter2@127.0.0.1:{process.free_port()}/meterd"


def test_migrate_brings_an_empty_database_up_to_date_once(run: Run, empty_database: str) -> None:
    at = ("--postgres", empty_database)
    assert run(migrate_command.migrate, *at, "--check", code=1).stdout.startswith("Pending: 0001")
    assert run(migrate_command.migrate, *at, "--partitions", "3").stdout.startswith("Applied: 0001")
    assert run(migrate_command.migrate, *at).stdout == "The database is up to date.\n"
    assert json.loads(run(migrate_command.migrate, *at, "--check", "--json").stdout) == {"pending": []}


def test_a_database_of_a_newer_meterd_is_refused(run: Run, empty_database: str) -> None:
    run(migrate_command.migrate, "--postgres", empty_database)
    sql(empty_database, "INSERT INTO schema_migrations (version) VALUES ('9999')")
    assert "does not know: 9999" in run(migrate_command.migrate, "--postgres", empty_database, code=1).stderr


def test_a_created_key_is_printed_once_and_alone_on_standard_output(run: Run, database: str) -> None:
    at = ("--postgres", database)
    made = run(keys_command.keys, "create", *at, "--tenant", "acme", "--role", "meter", "--ttl", "90d")
    key = made.stdout.strip()
    assert made.stdout == f"{key}\n"
    assert len(key) == 46
    assert key not in made.stderr
    listed = run(keys_command.keys, "list", *at)
    assert key not in listed.output
    assert "acme" in listed.stdout


def test_a_key_is_created_listed_and_revoked_in_json(run: Run, database: str) -> None:
    at = ("--postgres", database, "--json")
    create = ("create", *at, "--tenant", "acme", "--role", "read", "--name", "dash[b]oard", "--ttl", "1h")
    made = json.loads(run(keys_command.keys, *create).stdout)
    assert set(made) == {
        "key",
        "tenant_id",
        "key_id",
        "role",
        "name",
        "state",
        "created_at",
        "expires_at",
        "revoked_at",
    }
    assert (made["tenant_id"], made["role"], made["state"], made["revoked_at"]) == ("acme", "read", "live", None)
    listed = json.loads(run(keys_command.keys, "list", *at, "--tenant", "acme").stdout)
    assert listed == [{name: value for name, value in made.items() if name != "key"}]
    revoke = ("revoke", made["key_id"], *at, "--tenant", "acme")
    assert json.loads(run(keys_command.keys, *revoke).stdout)["state"] == "revoked"
    assert json.loads(run(keys_command.keys, *revoke).stdout)["state"] == "revoked"
    assert json.loads(run(keys_command.keys, "list", *at).stdout)[0]["state"] == "revoked"
    assert "dash[b]oard" in run(keys_command.keys, "list", "--postgres", database).stdout


def test_a_third_live_key_is_refused_with_advice(run: Run, database: str) -> None:
    create = ("create", "--postgres", database, "--tenant", "acme", "--role", "meter")
    run(keys_command.keys, *create)
    run(keys_command.keys, *create)
    refused = run(keys_command.keys, *create, code=1)
    assert "revoke one first" in refused.stderr
    assert refused.stdout == ""


def test_an_unknown_key_cannot_be_revoked(run: Run, database: str) -> None:
    refused = run(keys_command.keys, "revoke", "nope", "--tenant", "acme", "--postgres", database, code=1)
    assert refused.stderr == "Error: key_id: no such key\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tenant", "acme", "--role", "root"),
        ("--tenant", "", "--role", "meter"),
        ("--tenant", "a\nb", "--role", "meter"),
        ("--tenant", "acme", "--role", "meter", "--ttl", "0d"),
        ("--tenant", "acme", "--role", "meter", "--ttl", "90"),
        ("--tenant", "acme", "--role", "meter", "--ttl", "999999d"),
        ("--role", "meter"),
    ],
)
def test_a_bad_option_is_usage(run: Run, database: str, arguments: Sequence[str]) -> None:
    run(keys_command.keys, "create", "--postgres", database, *arguments, code=2)


def test_a_postgres_that_is_away_is_status_3_and_shows_no_password(run: Run, redis_url: str) -> None:
    dsn = away()
    for command, arguments in (
        (migrate_command.migrate, ()),
        (keys_command.keys, ("list",)),
        (verify_command.verify, ("--redis", redis_url)),
        (recover_command.recover, ("--redis", redis_url)),
    ):
        done = run(command, *arguments, "--postgres", dsn, code=3)
        assert done.stderr.startswith("Error: Postgres: ")
        assert "hunter2" not in done.output
        assert done.stdout == ""


def test_a_redis_that_is_away_is_status_3(run: Run, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_stores, "CONNECT_TIMEOUT_S", 0.2)
    redis_url = f"redis://:hunter2@127.0.0.1:{process.free_port()}/0"
    done = run(verify_command.verify, "--postgres", database, "--redis", redis_url, code=3)
    assert "Redis cannot be reached" in done.stderr
    assert "hunter2" not in done.output


def test_a_dsn_that_is_none_and_a_missing_store_are_usage(run: Run) -> None:
    assert "Postgres" in run(keys_command.keys, "list", "--postgres", "mysql://localhost", code=2).stderr
    assert "METERD_POSTGRES_DSN" in run(keys_command.keys, "list", code=2).stderr
    assert "METERD_REDIS_URL" in run(verify_command.verify, "--postgres", "postgresql://x", code=2).stderr


def test_without_tables_the_advice_is_to_migrate(run: Run, empty_database: str, redis_url: str) -> None:
    at = ("--postgres", empty_database)
    assert "meterd migrate" in run(keys_command.keys, "list", *at, code=1).stderr
    assert "meterd migrate" in run(verify_command.verify, *at, "--redis", redis_url, code=1).stderr


def test_a_dsn_may_come_from_a_file(run: Run, database: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dsn"
    path.write_text(f"{database}\n")
    monkeypatch.setenv("METERD_POSTGRES_DSN_FILE", str(path))
    assert json.loads(run(keys_command.keys, "list", "--json").stdout) == []


def test_verify_proves_what_meterd_did(run: Run, database: str, redis_url: str) -> None:
    in_world(database, redis_url, some_life)
    at = ("--postgres", database, "--redis", redis_url)
    assert run(verify_command.verify, *at).stdout.startswith(
        "Proven: 1 accounts, 2 records in Postgres, 0 in the outbox"
    )
    found = json.loads(run(verify_command.verify, *at, "--json").stdout)
    assert (found["proven"], found["findings"], found["holds_open"]) == (True, [], 1)


def test_verify_prints_the_offending_row_and_fails(run: Run, database: str, redis_url: str) -> None:
    in_world(database, redis_url, some_life)
    sql(database, "UPDATE accounts SET spent_micros = spent_micros + 1")
    at = ("--postgres", database, "--redis", redis_url)
    shown = run(verify_command.verify, *at, code=1).stdout
    assert "NOT proven" in shown
    assert "acct" in shown
    found = json.loads(run(verify_command.verify, *at, "--json", code=1).stdout)
    assert not found["proven"]
    assert {(one["tenant_id"], one["account_id"]) for one in found["findings"]} == {("t", "acct")}


def test_recover_rebuilds_an_emptied_redis_and_a_repeat_does_nothing(run: Run, database: str, redis_url: str) -> None:
    async def lost(both: stores.Stores) -> None:
        await some_life(both)
        await both.run.command(("FLUSHALL",))

    in_world(database, redis_url, lost)
    at = ("--postgres", database, "--redis", redis_url)
    assert "are to be recovered" in run(recover_command.recover, *at, "--check", code=1).stdout
    done = json.loads(run(recover_command.recover, *at, "--warm", "--json").stdout)
    assert [one["epoch"] for one in done["recovered"]] == [2] * outbox.PARTITIONS
    assert done["accounts_loaded"] == 1
    assert "Nothing was changed" in run(recover_command.recover, *at).stdout
    run(recover_command.recover, *at, "--check")
    run(verify_command.verify, *at)


def test_recover_refuses_data_that_postgres_does_not_know_unless_forced(
    run: Run, database: str, redis_url: str
) -> None:
    async def stranger(both: stores.Stores) -> None:
        await some_life(both)
        for partition in range(outbox.PARTITIONS):
            await both.world.client.set(redis_keys.sentinel(partition), "1:stranger")

    in_world(database, redis_url, stranger)
    at = ("--postgres", database, "--redis", redis_url)
    refused = run(recover_command.recover, *at, code=1)
    assert "nothing was changed" in refused.stderr
    assert "Recovered" in run(recover_command.recover, *at, "--force").stdout
    run(verify_command.verify, *at)


def test_recover_check_takes_no_force(run: Run) -> None:
    stored = ("--postgres", "postgresql://x", "--redis", "redis://x")
    run(recover_command.recover, *stored, "--check", "--force", code=2)


def test_the_roles_that_create_offers_are_those_of_the_database() -> None:
    role = next(parameter for parameter in keys_command.create.params if parameter.name == "role")
    assert isinstance(role.type, click.Choice)
    assert set(role.type.choices) == set(keys.ROLES)


def test_help_does_not_wait_for_what_only_commands_need() -> None:
    code = (
        "import sys, click.testing, meterd.cli.__main__ as cli\n"
        "assert click.testing.CliRunner().invoke(cli.main, ['--help']).exit_code == 0\n"
        "print(*(name for name in ('asyncpg', 'grpc', 'redis', 'rich') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
