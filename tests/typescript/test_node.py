"""The client's own tests in Node: those that need nothing, and those against a real meterd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.acceptance import installation
from tests.typescript import runtimes, worlds

TIMEOUT_S = 240
# Covers gpt-4o-mini's 1,000 input tokens at 150 micro-credits and 83 output tokens at 600.
POOR_MICROS = 200_000


@pytest.mark.parametrize(("name", "least"), [("pure", 9), ("client", 40)])
def test_the_clients_own_tests_pass(name: str, least: int, meterd: installation.Installation) -> None:
    folder = runtimes.built()
    target = worlds.target(meterd, "")
    with meterd.client() as client:
        poor = f"poor-{installation.new_id()}"
        for wire in ("grpc", "connect", "edge"):
            client.funded(f"{poor}-{wire}", POOR_MICROS)
        rich = client.funded(f"rich-{installation.new_id()}", 10**12)
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", str(folder / f"test/{name}.test.js")],
        cwd=runtimes.CLIENT,
        env=runtimes.environment_of(
            HTTP_URL=target["http"], GRPC_URL=target["grpc"], METER_KEY=target["key"], ACCOUNT=rich, POOR=poor
        ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    counts = dict(re.findall(r"^# (\w+) (\d+)$", done.stdout, re.M))
    assert (int(counts["fail"]), int(counts["skipped"])) == (0, 0)
    assert int(counts["pass"]) >= least


def test_the_types_are_strict() -> None:
    runtimes.built()
    runtimes.npm("run", "--silent", "check")


@pytest.mark.parametrize("package", ["typescript", "react"])
def test_the_lock_names_no_address(package: str) -> None:
    text = (runtimes.ROOT / "clients" / package / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in re.sub(r'"(?:url|funding)": "[^"]*"', "", text)
    assert '"resolved"' not in text


@pytest.mark.parametrize("package", ["typescript", "react"])
def test_the_lock_has_each_package_for_all_machines_and_what_it_must_hash_to(package: str) -> None:
    text = (runtimes.ROOT / "clients" / package / "package-lock.json").read_text(encoding="utf-8")
    packages: dict[str, dict[str, Any]] = json.loads(text)["packages"]
    for path, one in packages.items():
        assert not path or one["integrity"].startswith("sha512-"), path
        for name in one.get("optionalDependencies", {}):
            assert f"node_modules/{name}" in packages, f"{path}: {name}"
