"""The examples run as they are, each in its runtime, against the provider of the examples and a real meterd."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from examples.provider import provider as providers
from meterd_client.v1 import types_pb2
from tests.acceptance import installation
from tests.typescript import runtimes, test_aborts, worlds

WORDS = 500
# gpt-4o-mini and claude-sonnet-4-5: micro-credits a token, in and out; the prompt has four words.
CHARGED_MICROS = {"openai": 4 * 150 + WORDS * 600, "anthropic": 4 * 3_000 + WORDS * 15_000}


class Example(runtimes.Runtime):
    """One of the examples, bundled where its runtime has no packages of npm."""

    def __init__(self, directory: pathlib.Path, name: str, variables: dict[str, str]) -> None:
        super().__init__(directory, name=f"example-{name}")
        self.example = name
        self.variables = variables

    def command(self) -> list[str]:
        built = runtimes.BUILD / "examples"
        if self.example == "node":
            node = shutil.which("node")
            assert node is not None
            return [node, str(built / "node.mjs")]
        if self.example == "workers":
            config = str(built / "workerd.capnp")
            return [runtimes.workerd(), "serve", config, "config", f"--socket-addr=http=127.0.0.1:{self.port}"]
        return [
            runtimes.deno(),
            "run",
            "--quiet",
            "--no-config",
            "--no-remote",
            "-A",
            str(built / f"{self.example}.mjs"),
        ]

    def environment(self) -> dict[str, str]:
        ports = {"PORT": str(self.port), "DENO_SERVE_ADDRESS": f"tcp:127.0.0.1:{self.port}"}
        return super().environment() | ports | self.variables

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def chat(self, user: str) -> tuple[int, str]:
        body = json.dumps({"user": user, "prompt": "Say something about credits"}).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, data=body), timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def example(
    runtime_directory: pathlib.Path, meterd: installation.Installation, provider: providers.Provider
) -> Iterator[Callable[[str], Example]]:
    with contextlib.ExitStack() as stack:

        def started(name: str) -> Example:
            runtimes.built()
            target = worlds.target(meterd, "")
            url = target["grpc" if name == "node" else "http"]
            variables = {"METERD_URL": url, "METERD_KEY": target["key"], "PROVIDER_URL": provider.url}
            made = Example(runtime_directory, name, variables)
            stack.callback(made.kill)
            made.start()
            return made

        yield started


@pytest.mark.parametrize(
    ("name", "api"), [("node", "openai"), ("deno", "openai"), ("supabase", "openai"), ("workers", "anthropic")]
)
def test_an_example_streams_and_meters_and_refuses_who_cannot_pay(
    name: str, api: str, meterd: installation.Installation, example: Callable[[str], Example]
) -> None:
    account = test_aborts.funded(meterd)
    server = example(name)
    status, text = server.chat(account)
    assert status == 200, text
    assert text.count("credits ") == WORDS // 10
    record = test_aborts.ended(meterd, account)
    assert record.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert record.settlement.charged_micros == CHARGED_MICROS[api]
    with meterd.client() as client:
        poor = client.funded(f"poor-{installation.new_id()}", 100)
    status, text = server.chat(poor)
    assert status == 402
    assert "INSUFFICIENT_CREDITS" in text


@pytest.mark.parametrize("document", ["README.md", "clients/typescript/README.md"])
def test_a_readme_shows_lines_of_the_examples(document: str) -> None:
    shown = re.findall(r"^```(?:js|ts)\n(.*?)^```", (runtimes.ROOT / document).read_text(encoding="utf-8"), re.S | re.M)
    folders = ("node", "deno", "supabase", "workers")
    tested = {
        line.strip()
        for folder in folders
        for path in (runtimes.ROOT / "examples" / folder).iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    assert len(shown) == len(folders)
    for block in shown:
        for line in filter(None, map(str.strip, block.splitlines())):
            assert line.startswith("//") or line in tested, line
