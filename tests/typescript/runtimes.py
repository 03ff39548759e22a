"""Real Node, Deno and workerd, each with the agent of clients/typescript/test: what tests ask a runtime to do, over HTTP."""

from __future__ import annotations

import abc
import contextlib
import fcntl
import json
import os
import pathlib
import platform
import shutil
import subprocess
import urllib.request
from collections.abc import Generator
from typing import Any

from meterd.embedded import process

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients/typescript"
BUILD = CLIENT / "build"
ABSENT = "Node is not on this machine: the TypeScript client is tested where `node` and `npm` are on PATH"
# npm fetches some 100 MB where nothing is cached.
INSTALL_TIMEOUT_S = 600
CALL_TIMEOUT_S = 60

Json = dict[str, Any]


def has_node() -> bool:
    return shutil.which("node") is not None and shutil.which("npm") is not None


def npm(*arguments: str) -> None:
    done = subprocess.run(
        ["npm", *arguments], cwd=CLIENT, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}\n{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"


def built() -> pathlib.Path:
    """The folder of the built client and its tests. One worker builds, the others wait."""
    with (CLIENT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed, locked = CLIENT / "node_modules/.package-lock.json", CLIENT / "package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
            npm("ci", "--silent")
        stamp = BUILD / "stamp"
        sources = [path for folder in ("src", "test") for path in (CLIENT / folder).rglob("*") if path.is_file()]
        newest_s = max(path.stat().st_mtime for path in (*sources, CLIENT / "package.json"))
        if not stamp.exists() or stamp.stat().st_mtime < newest_s:
            npm("run", "--silent", "build:test")
            stamp.touch()
    return BUILD


def _binary(*candidates: str) -> str:
    """The runtime that its npm package carries for this machine."""
    found = [path for pattern in candidates for path in sorted((CLIENT / "node_modules").glob(pattern))]
    assert found, f"no {' or '.join(candidates)} for {platform.machine()}: npm ci in {CLIENT.relative_to(ROOT)}"
    return str(found[0])


def deno() -> str:
    return _binary("@deno/*/deno", "deno/deno")


def workerd() -> str:
    return _binary("@cloudflare/workerd-*/bin/workerd")


class Runtime(process.Process):
    """A runtime with the agent in it."""

    # Wires that it can speak.
    wires: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"DENO_DIR": str(self.directory / "deno"), "NO_COLOR": "1"}

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=2) as response:
            return response.read() == b"ready"
        return False

    def ask(self, path: str, body: Json) -> Json:
        """The agent's answer."""
        with self.open(path, body) as response:
            return json.loads(response.read())

    def open(self, path: str, body: Json) -> Any:
        """The agent's answer while it comes."""
        request = urllib.request.Request(f"{self.url}{path}", data=json.dumps(body).encode(), method="POST")
        return urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S)

    @abc.abstractmethod
    def command(self) -> list[str]: ...


class Node(Runtime):
    wires = ("grpc", "connect", "connect-json", "grpc-web", "edge")

    def command(self) -> list[str]:
        node = shutil.which("node")
        assert node is not None
        return [node, str(BUILD / "test/agent.node.js"), str(self.port)]


class Deno(Runtime):
    wires = ("grpc", "connect", "connect-json", "grpc-web", "edge")

    def command(self) -> list[str]:
        agent = str(BUILD / "bundles/agent.deno.js")
        return [deno(), "run", "--quiet", "--no-config", "--no-remote", "-A", agent, str(self.port)]


class Workerd(Runtime):
    wires = ("connect", "connect-json", "grpc-web", "edge")

    def command(self) -> list[str]:
        config = str(CLIENT / "test/workerd.capnp")
        return [workerd(), "serve", config, "config", f"--socket-addr=http=127.0.0.1:{self.port}"]


RUNTIMES: dict[str, type[Runtime]] = {"node": Node, "deno": Deno, "workerd": Workerd}


@contextlib.contextmanager
def running(name: str, directory: pathlib.Path) -> Generator[Runtime]:
    """A runtime, ready to be asked."""
    built()
    made = RUNTIMES[name](directory, name=name)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def environment_of(**variables: str) -> dict[str, str]:
    return dict(os.environ) | variables
