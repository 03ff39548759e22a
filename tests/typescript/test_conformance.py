"""One table of cases over every wire and runtime: all answers are the same, and those that the table tells."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
import redis

from meterd_client.v1 import accounts_pb2, types_pb2
from tests.acceptance import installation
from tests.typescript import runtimes, wires, worlds

Json = dict[str, Any]

CASES: list[Json] = json.loads(
    (pathlib.Path(__file__).parents[1] / "conformance/cases.json").read_text(encoding="utf-8")
)
PEERS = [("python", wire) for wire in wires.WIRES] + [
    (name, wire) for name, kind in runtimes.RUNTIMES.items() for wire in kind.wires
]
GRANT_MICROS = "1000000000000"
TIMEOUT_MS = 20_000
# The server answers within the deadline of a call that it cannot decide, or the client gives up: a stop of Redis that lasts longer.
PAUSE_MS = 10_000

# A replay has these once the record is in Postgres, and not before.
LATER = ("costUsd", "breakdown", "usageState", "priceVersion")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}(\.[A-Za-z0-9_-]{22})?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)")


@pytest.fixture(scope="module")
def read_key(meterd: installation.Installation) -> str:
    return meterd.make_key("acme", "read")


@contextlib.contextmanager
def paused(meterd: installation.Installation, wanted: bool) -> Generator[None]:
    """Redis takes no writes meanwhile."""
    if not wanted:
        yield
        return
    with redis.Redis.from_url(meterd.valkey.url) as client:
        client.execute_command("CLIENT", "PAUSE", str(PAUSE_MS), "WRITE")
        try:
            yield
        finally:
            client.execute_command("CLIENT", "UNPAUSE")


def funded(meterd: installation.Installation, account_id: str, amount_micros: int) -> None:
    with meterd.client() as client:
        client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id))
        client.call(
            "Grant",
            accounts_pb2.GrantRequest(
                idempotency_key=installation.new_id(),
                account_id=account_id,
                amount_micros=amount_micros,
                category=types_pb2.GRANT_CATEGORY_PAID,
            ),
        )


def filled(value: Any, names: dict[str, str]) -> Any:
    """The request with its `$names` filled in."""
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def normal(value: Any, account_id: str) -> Any:
    """Without what is another one each time: ids, times and the account."""
    if isinstance(value, dict):
        return {key: normal(inner, account_id) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [normal(inner, account_id) for inner in value]
    if isinstance(value, str):
        return _TIME.sub("<time>", _UUID.sub("<id>", value.replace(account_id, "<account>")))
    return value


def assert_includes(expected: Any, actual: Any, where: str) -> None:
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in actual, f"{where}: no {key} in {actual}"
            assert_includes(value, actual[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(actual), where
        for at, value in enumerate(expected):
            assert_includes(value, actual[at], f"{where}[{at}]")
    else:
        assert expected == actual, f"{where}: {actual} is not {expected}"


@pytest.mark.parametrize("case", CASES, ids=[case["name"].replace(" ", "-") for case in CASES])
def test_all_wires_and_runtimes_answer_alike(
    case: Json,
    meterd: installation.Installation,
    read_key: str,
    runtime: Callable[[str], runtimes.Runtime],
) -> None:
    answers: dict[str, list[Json]] = {}
    for name, wire in PEERS:
        account_id = case.get("account", f"{CASES.index(case)} $wire").replace("$wire", f"{name}/{wire}")
        funded(meterd, account_id, int(case.get("grantMicros", GRANT_MICROS)))
        names = {"$account": account_id} | {f"$id{at}": installation.new_id() for at in ("", "2", "3")}
        found = answers[f"{name} over {wire}"] = []
        for step in case["steps"]:
            target = worlds.target(meterd, wire)
            key: str = step.get("key", meterd.meter_key)
            target["key"] = read_key if key == "read" else key
            request = filled(step["request"], names)
            timeout_ms = step.get("timeoutMs", TIMEOUT_MS)
            with paused(meterd, step.get("paused", False)):
                if name == "python":
                    answer = asked(target, step["method"], request, timeout_ms)
                else:
                    body = {"target": target, "method": step["method"], "request": request, "timeoutMs": timeout_ms}
                    answer = runtime(name).ask("/call", body)
            where = f"{name} over {wire}, {step['method']}"
            if "error" in step:
                assert re.fullmatch(step["error"], answer.get("error", {}).get("code", "")), f"{where}: {answer}"
                answer["error"].pop("name", None)
                if step.get("anyMessage"):
                    del answer["error"]["message"]
            else:
                assert_includes(step["reply"], answer.get("reply", answer), where)
                if "as" in step:
                    names[f"${step['as']}"] = answer["reply"]["hold"]["holdId"]
                if answer["reply"].get("replayed") or step.get("anyReplayed"):
                    for field in LATER:
                        answer["reply"].get("settlement", {}).pop(field, None)
                if step.get("anyReplayed"):
                    del answer["reply"]["replayed"]
            found.append(normal(answer, account_id))
    first = answers["python over grpc"]
    for peer, found in answers.items():
        assert first == found, peer


def asked(target: dict[str, str], method: str, request: Json, timeout_ms: int) -> Json:
    try:
        return {"reply": wires.call(target, method, request, timeout_ms)}
    except wires.RefusedError as error:
        return {"error": {"code": error.code, "message": str(error)}}
