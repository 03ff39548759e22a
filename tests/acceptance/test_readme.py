"""The README's worked example, run as it stands against a real server."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from meterd.core import money
from tests.acceptance import installation

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_ADDRESS = "127.0.0.1:8260"
RUN_TIMEOUT_S = 60.0


def _blocks(section: str, language: str) -> list[str]:
    text = _README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) if name == language]


@pytest.fixture(scope="module")
def output(shared: installation.Installation) -> Iterator[Callable[[list[str]], str]]:
    """Runs a program in the checkout, with the variables that `make run` prints."""
    with shared.client() as client:
        client.funded("demo-account", 100_000 * money.MICROS_PER_CREDIT)
    environment = os.environ | {
        "METERD_KEY": shared.meter_key,
        "METERD_ADMIN_KEY": shared.admin_key,
        "METERD_SERVER": shared.server.address,
        "METERD_POSTGRES_DSN": shared.postgres.dsn,
        "METERD_REDIS_URL": shared.valkey.url,
    }

    def run(command: list[str]) -> str:
        address = shared.server.address
        done = subprocess.run(
            [part.replace(_ADDRESS, address) for part in command],
            env=environment,
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run


def _script() -> str:
    """The section's commands, with the hold of this run where the README has its own, and the contract from the checkout."""
    script = "set -euo pipefail\n" + "\n".join(_blocks("The first Reserve and Commit", "sh"))
    script = script.replace("buf curl ", "buf curl --schema protos ")
    reserve = re.search(r"^call Metering/Reserve .*?}}'$", script, re.S | re.M)
    assert reserve is not None
    taken = 'HOLD=$(printf %s "$R" | sed -n \'s/.*"holdId": "\\(.*\\)",/\\1/p\')'
    script = script.replace(reserve[0], f'R=$({reserve[0]})\nprintf "%s\\n" "$R"')
    return re.sub(r"^HOLD=01\S+$", lambda _: taken, script, flags=re.M)


def test_the_readmes_commands_answer_what_the_readme_shows(output: Callable[[list[str]], str]) -> None:
    found = output(["bash", "-c", _script()])
    shown = "\n".join(_blocks("The first Reserve and Commit", "json"))
    amounts = re.findall(
        r'"(?:amountMicros|costEstimateUsd|maxOutputTokens|chargedMicros|returnedMicros|costUsd|state)": "[^"]+"', shown
    )
    assert len(amounts) == 7
    for amount in amounts:
        assert amount in found
    steps = re.findall(r'^    "((?:input:|output:|Cost|Of) .*)",$', shown, re.M)
    assert len(steps) == 4
    for step in steps:
        assert step in found
    assert "Proven: " in found


def test_the_readmes_python_prints_what_the_readme_shows(output: Callable[[list[str]], str]) -> None:
    (program,) = _blocks("From Python", "python")
    (shown,) = _blocks("From Python", "")
    assert output([sys.executable, "-c", program]) == shown


def test_the_readmes_catalog_is_applied_and_charged_by(
    output: Callable[[list[str]], str], tmp_path: pathlib.Path
) -> None:
    (define,) = re.findall(r"^call\(\) .*?}$", _script(), re.S | re.M)
    script = "\n".join(["set -euo pipefail", define, *_blocks("What you sell", "sh")])
    found = output(["bash", "-c", script.replace("catalog.yaml", str(tmp_path / "catalog.yaml"))])
    (told,), (denial,) = _blocks("What you sell", ""), _blocks("What you sell", "json")
    lines = [line for line in (told + denial).splitlines() if not re.search("…$|resetsAt", line)]
    assert len(lines) > 12
    for line in lines:
        assert line in found
    assert re.search("│ writing +│ +288 │ +12 │", found)
