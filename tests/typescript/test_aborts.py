"""Calls that do not end in good order, in each runtime: never two charges, no hold left, no finished call for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Generator
from concurrent import futures
from typing import Any

import pytest

from examples.provider import provider as providers
from meterd_client.v1 import accounts_pb2, types_pb2
from tests.acceptance import installation
from tests.client import cuts
from tests.typescript import runtimes, worlds

GRANT_MICROS = 10**12
# Micro-credits a token: gpt-4o-mini at 0.15 and 0.60 USD a million, claude-sonnet-4-5 at 3 and 15.
PRICES = {"openai": (150, 600), "anthropic": (3_000, 15_000)}
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-5"}
# As the provider counts the agent's prompt, and as the hold says.
PROMPT_TOKENS = 4
HELD_TOKENS = 100

Kind = accounts_pb2.Transaction
Get = Callable[[str], runtimes.Runtime]
RUNS = [
    ("node", "grpc"),
    ("node", "edge"),
    ("deno", "connect"),
    ("deno", "edge"),
    ("workerd", "connect"),
    ("workerd", "edge"),
]
# Deno's own HTTP/2 client may not outlive a broken connection (see the client's README): gRPC from Deno is asked only where none breaks.
WHOLE = [*RUNS, ("deno", "grpc")]


def story(meterd: installation.Installation, url: str, wire: str, account: str, **more: Any) -> dict[str, Any]:
    """What the agent is asked: a model call of the account, of which it gets `words` tokens."""
    api = more.pop("api", "openai")
    hold = {
        "account": account,
        "model": MODELS[api],
        "inputTokens": HELD_TOKENS,
        "maxOutputTokens": 5_000,
        "ttlMs": 30_000,
    } | more.pop("hold", {})
    target = more.pop("target", None) or worlds.target(meterd, wire)
    return {"target": target, "provider": url, "api": api, "hold": hold, "words": 20} | more


def funded(meterd: installation.Installation) -> str:
    with meterd.client() as client:
        return client.funded(f"account-{installation.new_id()}", GRANT_MICROS)


def ended(meterd: installation.Installation, account: str) -> accounts_pb2.Transaction:
    """The one record that ended the account's one hold, once nothing is held and Postgres has it."""
    spent_micros = GRANT_MICROS - worlds.settled(meterd, account)
    deadline_s = time.monotonic() + 30
    while True:
        records = [
            one for one in worlds.endings(meterd, account) if one.kind != Kind.KIND_GRANT and one.HasField("settlement")
        ]
        if records:
            break
        assert time.monotonic() < deadline_s, "nothing has ended the hold"
        time.sleep(0.05)
    (record,) = records
    assert record.settlement.charged_micros == spent_micros
    return record


@pytest.mark.parametrize(("name", "wire"), WHOLE)
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_stream_is_passed_on_unchanged_and_charged_as_the_provider_says(
    name: str, wire: str, api: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    with runtime(name).open("/stream", story(meterd, provider.url, wire, account, api=api)) as response:
        text = response.read().decode()
    assert text.count("credits ") == 2
    assert text.endswith("data: [DONE]\n\n" if api == "openai" else 'data: {"type":"message_stop"}\n\n')
    record = ended(meterd, account)
    price_in, price_out = PRICES[api]
    assert record.kind == Kind.KIND_COMMIT
    assert record.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert record.settlement.charged_micros == PROMPT_TOKENS * price_in + 20 * price_out


@pytest.mark.parametrize(("name", "wire"), WHOLE)
@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_client_that_leaves_is_charged_so_far(
    name: str, wire: str, api: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    asked = story(meterd, provider.url, wire, account, api=api, words=3_000, headers={"x-delay-ms": "5"})
    response = runtime(name).open("/stream", asked)
    text = b""
    while text.count(b"credits ") < 3:
        text += response.read1(4_096)
    response.close()
    record = ended(meterd, account)
    assert record.kind == Kind.KIND_COMMIT
    assert record.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL
    price_in, price_out = PRICES[api]
    input_tokens = HELD_TOKENS if api == "openai" else PROMPT_TOKENS
    words = (record.settlement.charged_micros - input_tokens * price_in) / price_out
    # What was read, and what was under way when the connection closed; the provider was left, too.
    assert 20 < words < 2_000
    wait(lambda: provider.calls[-1]["ended"] == "left")


@pytest.mark.parametrize(("name", "wire"), RUNS)
def test_a_runtime_that_is_killed_is_charged_what_it_reported(
    name: str, wire: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    asked = story(meterd, provider.url, wire, account, hold={"ttlMs": 2_000}, words=3_000, headers={"x-delay-ms": "5"})
    agent = runtime(name)
    response = agent.open("/stream", asked)
    text = b""
    while text.count(b"credits ") < 10:
        text += response.read1(4_096)
    # The first report is sent with the first word; this many words later it has long been answered.
    agent.kill()
    record = ended(meterd, account)
    assert record.kind == Kind.KIND_EXPIRE
    assert HELD_TOKENS * 150 <= record.settlement.charged_micros < HELD_TOKENS * 150 + 3_000 * 600


def wait(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it does not come true"
        time.sleep(0.02)


@pytest.mark.parametrize(("name", "wire"), RUNS)
def test_a_server_that_restarts_in_mid_stream_loses_nothing(
    name: str, wire: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    asked = story(meterd, provider.url, wire, account, words=300, headers={"x-delay-ms": "2"})
    with runtime(name).open("/stream", asked) as response:
        text = response.read1(2_048)
        meterd.server.kill()
        restart = threading.Thread(target=meterd.server.start)
        restart.start()
        text += response.read()
    restart.join()
    assert text.endswith(b"data: [DONE]\n\n")
    record = ended(meterd, account)
    assert record.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert record.settlement.charged_micros == PROMPT_TOKENS * 150 + 300 * 600


@contextlib.contextmanager
def proxies() -> Generator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, in which proxies run."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.parametrize(("name", "wire"), RUNS)
@pytest.mark.parametrize(("call", "method"), [(0, "Reserve"), (1, "Commit")])
def test_a_connection_that_is_cut_anywhere_makes_one_charge(
    name: str,
    wire: str,
    call: int,
    method: str,
    meterd: installation.Installation,
    provider: providers.Provider,
    runtime: Get,
) -> None:
    agent = runtime(name)
    host = meterd.server.address if wire == "grpc" else meterd.server.settings["METERD_HTTP_ADDRESS"]
    places = cuts.PLACES | (cuts.TRAILER_PLACES if wire == "grpc" else {})

    def cut(where: str, loop: asyncio.AbstractEventLoop) -> str:
        """The account of a call that was cut there."""
        account, between = funded(meterd), cuts.CuttingProxy(host, call=call, place=places[where])
        asyncio.run_coroutine_threadsafe(between.start(), loop).result()
        target = worlds.target(meterd, wire, http=between.address, grpc=between.address)
        answer = agent.ask("/run", story(meterd, provider.url, wire, account, target=target))
        assert between.is_cut, f"{method}, {where}: not cut"
        assert "error" not in answer, f"{method}, {where}: {answer}"
        asyncio.run_coroutine_threadsafe(between.stop(), loop).result()
        return account

    with proxies() as loop, futures.ThreadPoolExecutor(max_workers=len(places)) as pool:
        accounts = dict(zip(places, pool.map(lambda where: cut(where, loop), places), strict=True))
    for where, account in accounts.items():
        record = ended(meterd, account)
        assert record.settlement.charged_micros == PROMPT_TOKENS * 150 + 20 * 600, f"{method}, {where}"


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_a_provider_that_breaks_off_is_charged_so_far(
    name: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    asked = story(meterd, provider.url, "edge", account, headers={"x-cut-after": "10"})
    with runtime(name).open("/stream", asked) as response, contextlib.suppress(OSError, http.client.HTTPException):
        response.read()
    record = ended(meterd, account)
    assert record.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL
    # Its ten words have 56 bytes; some may be lost with the connection.
    assert HELD_TOKENS * 150 <= record.settlement.charged_micros <= HELD_TOKENS * 150 + 14 * 600


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
def test_a_provider_that_fails_at_once_costs_nothing(
    name: str, meterd: installation.Installation, provider: providers.Provider, runtime: Get
) -> None:
    account = funded(meterd)
    with runtime(name).open(
        "/stream", story(meterd, provider.url, "edge", account, headers={"x-fail": "529"})
    ) as response:
        response.read()
    record = ended(meterd, account)
    assert (record.kind, record.settlement.charged_micros) == (Kind.KIND_RELEASE, 0)


@pytest.mark.parametrize("name", runtimes.RUNTIMES)
@pytest.mark.parametrize(("commits", "charged_micros"), [(True, PROMPT_TOKENS * 150 + 20 * 600), (False, 0)])
def test_a_body_that_throws_is_charged_what_it_committed(
    name: str,
    commits: bool,
    charged_micros: int,
    meterd: installation.Installation,
    provider: providers.Provider,
    runtime: Get,
) -> None:
    account = funded(meterd)
    asked = story(meterd, provider.url, "edge", account, throws=True, commits=commits)
    assert runtime(name).ask("/run", asked)["error"]["message"] == "the body failed"
    assert ended(meterd, account).settlement.charged_micros == charged_micros
