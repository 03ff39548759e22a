"""The examples run as they stand, and the documents show what was run."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import sys
import textwrap

import pytest

from tests.acceptance import processes
from tests.client import scenes

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("examples/*/*.py"), *ROOT.glob("tests/client/*.py")])


async def _ran(world: scenes.World, name: str, *arguments: str) -> tuple[int, str]:
    """Exit status and output of an example with a provider of its own."""
    environment = processes.meterd_environment(redis_url="", dsn="")
    for provider in ("OPENAI", "ANTHROPIC"):
        environment.pop(f"{provider}_BASE_URL", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / name / "main.py"),
        *arguments,
        env=environment | {"METERD_SERVER": world.target, "METERD_KEY": world.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await process.communicate()
    assert process.returncode in (0, 2), complaints.decode()
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    ("name", "charged_micros"),
    # Nine tokens in and 100 out, at 0.15 and 0.60 a million, and at 3 and 15; a credit is 0.001 USD.
    [("openai_python", 61_350), ("anthropic_python", 1_527_000)],
)
async def test_an_example_charges_what_its_provider_states(world: scenes.World, name: str, charged_micros: int) -> None:
    await world.funded("ada")
    question = "one two three four five six seven eight nine"
    status, output = await _ran(world, name, "ada", question)
    assert status == 0, output
    assert output.startswith("Credits were set aside")
    assert f"charged {charged_micros} micro-credits, REPORTED" in output
    assert await world.spent("ada") == charged_micros


@pytest.mark.parametrize("name", ["openai_python", "anthropic_python"])
async def test_an_example_tells_a_denial(world: scenes.World, name: str) -> None:
    await world.funded("poor", 1)
    status, output = await _ran(world, name, "poor", "why")
    assert status == 2, output
    answer = json.loads(output.removeprefix("402 "))
    assert answer["reasons"] == [{"code": "INSUFFICIENT_CREDITS", "scope": "wallet:default"}]


@pytest.mark.parametrize(("document", "blocks_min"), [("clients/python/README.md", 6), ("README.md", 1)])
def test_the_code_of_the_documents_was_copied_from_what_is_run(document: str, blocks_min: int) -> None:
    sources = [_squeezed(path.read_text(encoding="utf-8")) for path in SOURCES]
    text = (ROOT / document).read_text(encoding="utf-8")
    # The README's other example makes its calls itself, and is run by a test of its own.
    blocks = [body for body in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) if "_pb2" not in body]
    assert len(blocks) >= blocks_min
    for block in blocks:
        assert any(_squeezed(block) in source for source in sources), block


def _squeezed(code: str) -> str:
    """Without the indentation that a place in a function gives."""
    return "\n".join(line.strip() for line in textwrap.dedent(code).splitlines() if line.strip())
