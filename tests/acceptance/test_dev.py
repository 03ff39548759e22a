"""`meterd dev` as a process: what it prints is true, and however it is stopped, it leaves nothing running."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping

import pytest

from meterd.embedded import process as embedded
from tests.acceptance import processes

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    """One that all may enter: Postgres runs as a user of its own where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path / "data"


def _free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@contextlib.contextmanager
def _started(directory: pathlib.Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """The process, and what it printed until it told how to call."""
    listeners = [part for name in ("--listen", "--http-listen", "--http-address") for part in (name, _free_address())]
    process = subprocess.Popen(
        [sys.executable, "-m", "meterd.cli", "dev", "--directory", str(directory), *listeners],
        env=processes.meterd_environment(redis_url="", dsn=""),
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "Metering/Reserve" in line:
                break
        watchdog.cancel()
        yield process, printed
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _exports(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^  export (METERD_\w+)=(\S+)", printed, re.M))


def _meterd(command: str, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meterd.cli", command, *arguments],
        env=processes.meterd_environment(redis_url="", dsn="") | dict(variables),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


def _grants(exports: Mapping[str, str]) -> bool:
    """Whether a Grant is answered, which takes both stores."""
    key = {"METERD_KEY": exports["METERD_ADMIN_KEY"]}
    return _meterd("grant", {**exports, **key}, "demo-account", "1").returncode == 0


def _is_open(url: str) -> bool:
    host, port = url.rpartition("@")[2].removeprefix("redis://").partition("/")[0].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_call_that_it_prints_reserves_and_a_closed_terminal_stops_all_of_it(directory: pathlib.Path) -> None:
    with _started(directory) as (process, printed):
        exports = _exports(printed)
        assert list(exports) == [
            "METERD_SERVER",
            "METERD_KEY",
            "METERD_ADMIN_KEY",
            "METERD_POSTGRES_DSN",
            "METERD_REDIS_URL",
        ]
        stores = [exports["METERD_POSTGRES_DSN"], exports["METERD_REDIS_URL"]]
        assert [_is_open(url) for url in stores] == [True, True]
        command = printed[printed.index("  curl ") :].replace("\\\n", " ").replace("$METERD_KEY", exports["METERD_KEY"])
        answer = subprocess.run(
            [*shlex.split(command), "--silent"], capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=True
        )
        assert '"amountMicros":"420000"' in answer.stdout
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(STOP_TIMEOUT_S) == 0
        assert [_is_open(url) for url in stores] == [False, False]


def test_a_store_that_is_killed_is_started_again_and_the_ledger_is_whole(directory: pathlib.Path) -> None:
    with _started(directory) as (_, printed):
        exports = _exports(printed)
        for store in ("valkey", "postgres"):
            pid, _ = (directory / store / f"{store}.lock").read_text().split()
            os.kill(int(pid), signal.SIGKILL)
            embedded.wait_until(lambda: _grants(exports), f"a grant after {store} was killed", START_TIMEOUT_S)
        done = _meterd("verify", exports)
        assert (done.returncode, done.stdout[:7]) == (0, "Proven:"), done


def test_a_second_one_says_what_is_in_use_and_what_to_do(directory: pathlib.Path) -> None:
    with _started(directory) as (first, printed):
        same = _meterd("dev", {}, "--directory", str(directory))
        assert (same.returncode, f"in use: process {first.pid} runs valkey" in same.stderr) == (1, True), same
        assert "choose another directory" in same.stderr
        address = _exports(printed)["METERD_SERVER"]
        other = _meterd("dev", {}, "--directory", str(directory.parent / "other"), "--listen", address)
        assert other.returncode == 1
        assert f"{address} is in use" in other.stderr and "--listen" in other.stderr


def test_it_goes_on_with_the_same_keys_ports_and_data(directory: pathlib.Path) -> None:
    with _started(directory) as (process, first):
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 0
    with _started(directory) as (_, second):
        kept = ("METERD_KEY", "METERD_ADMIN_KEY", "METERD_POSTGRES_DSN", "METERD_REDIS_URL")
        assert [_exports(first)[name] for name in kept] == [_exports(second)[name] for name in kept]
