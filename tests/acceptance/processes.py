"""Real processes for tests and benchmarks: Valkey, Postgres and meterd, each of which can be killed and started again on its data."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence

from meterd.embedded import postgres, process, valkey

Process = process.Process
ProcessError = process.EmbeddedError
Postgres = postgres.Postgres
free_port = process.free_port
wait_until = process.wait_until

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Valkey(valkey.Valkey):
    """A Valkey that can lose its data."""

    def empty(self) -> None:
        """Takes its data away; it must not be running."""
        assert not self.is_running
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)


class Server(process.Process):
    """`meterd serve`, or another long-running command of meterd."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        redis_url: str,
        dsn: str,
        name: str = "meterd",
        arguments: Sequence[str] = ("serve",),
        settings: dict[str, str] | None = None,
        port: int = 0,
        cores: Sequence[int] | None = None,
    ) -> None:
        """`settings` are environment variables."""
        super().__init__(directory, name=name, port=port, cores=cores)
        self.redis_url = redis_url
        self.dsn = dsn
        self.arguments = arguments
        self.settings = settings or {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "meterd.cli", *self.arguments]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        return meterd_environment(redis_url=self.redis_url, dsn=self.dsn, listen=self.address) | self.settings


def meterd_environment(*, redis_url: str, dsn: str, listen: str = "") -> dict[str, str]:
    """The environment in which a meterd command finds this checkout, the stores and its address."""
    paths = [str(_ROOT / "src"), str(_ROOT / "clients/python/src"), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "METERD_REDIS_URL": redis_url,
        "METERD_POSTGRES_DSN": dsn,
        "PYTHONUNBUFFERED": "1",
        # Many servers run at once here; none of them has the port of the probes to itself.
        "METERD_HTTP_LISTEN": "",
        "METERD_HTTP_ADDRESS": "",
    }
    if listen:
        environment["METERD_LISTEN"] = listen
    return environment


def meterd(
    arguments: Sequence[str], *, redis_url: str, dsn: str, timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Runs a meterd command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "meterd.cli", *arguments],
        env=meterd_environment(redis_url=redis_url, dsn=dsn),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextlib.contextmanager
def stores(directory: pathlib.Path, cores: Sequence[int] | None = None) -> Generator[tuple[Valkey, Postgres]]:
    """A running Valkey and a running, empty Postgres in a directory."""
    valkey_store = Valkey(directory, cores=cores)
    postgres_store = Postgres(directory, cores=cores)
    try:
        valkey_store.start()
        postgres_store.start()
        yield valkey_store, postgres_store
    finally:
        valkey_store.kill()
        postgres_store.kill()
