"""What is read of providers' responses, and that no content leaves with it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import grpc
import pytest

from meterd_client import bodies, requests, retries, streams
from meterd_client.v1 import types_pb2
from tests.client import scenes

BEDROCK = {"usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 2}}


@pytest.mark.parametrize(
    "body",
    [scenes.OPENAI_RESPONSE, scenes.ANTHROPIC_RESPONSE, scenes.GEMINI_RESPONSE],
    ids=["openai", "anthropic", "google"],
)
def test_content_stays_here(body: dict[str, Any]) -> None:
    sent = bodies.encoded(bodies.body_of(body))
    assert b"Hello!" not in sent
    assert b"oken" in sent


def test_long_texts_stay_here() -> None:
    body = bodies.body_of({"usage": {"prompt_tokens": 1}, "answer": "x" * 300, "model": "m"})
    assert body == {"usage": {"prompt_tokens": 1}, "model": "m"}


@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"usage": None}, {"usage": {}}, {"model": "m", "choices": []}])
def test_no_usage_is_absent_and_not_zero(body: dict[str, Any]) -> None:
    assert bodies.body_of(body) == {}
    reported: Any = requests.actual(body)["usage"]
    assert reported.usage_state == types_pb2.USAGE_STATE_ABSENT
    assert not reported.HasField("usage")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (scenes.OPENAI_RESPONSE, {"input_tokens": 1_000, "output_tokens": 200}),
        (scenes.ANTHROPIC_RESPONSE, {"input_tokens": 1_000, "cache_read_tokens": 100, "output_tokens": 200}),
        (scenes.GEMINI_RESPONSE, {"input_tokens": 1_000, "output_tokens": 200, "reasoning_tokens": 50}),
        (
            BEDROCK,
            {"input_tokens": 7, "cache_read_tokens": 2, "output_tokens": 6},
        ),
    ],
)
def test_counts_are_those_of_the_api(body: dict[str, Any], expected: dict[str, int]) -> None:
    assert bodies.usage_of(body) == types_pb2.Usage(**expected)


def test_text_is_counted_by_chunks_and_by_bytes() -> None:
    progress = streams.Progress()
    for chunk in ("a", "b", "twelve chars"):
        progress.observe(chunk)
    assert progress.output_tokens == 4
    progress.observe({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]})
    assert progress.output_tokens == 5


def test_what_is_no_chunk_is_passed_by() -> None:
    progress = streams.Progress()
    for chunk in (None, 5, {}, [], {"type": "ping"}, {"type": 7}, {"choices": []}, {"choices": [None]}, object()):
        progress.observe(chunk)
    assert progress.output_tokens == 0
    assert not progress.is_final


@pytest.mark.parametrize("quantity", [1.5, None])
def test_a_quantity_is_exact(quantity: Any) -> None:
    with pytest.raises(TypeError):
        requests.decimal_text(quantity)


def test_delays_grow_and_end_with_the_call() -> None:
    attempts = retries.Attempts(deadline_s=10.0, attempt_timeout_s=3.0)
    unavailable = grpc.StatusCode.UNAVAILABLE
    delays = [attempts.delay_s(unavailable, (), 0.0) or 0.0 for _ in range(8)]
    assert all(0 < delay <= retries.DELAY_MAX_S for delay in delays)
    assert delays[0] <= retries.DELAY_FIRST_S < delays[7]
    assert attempts.delay_s(unavailable, (), 9.9) is None
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert attempts.delay_s(exhausted, (), 0.0) is None
    assert (attempts.delay_s(exhausted, ((retries.PUSHBACK, "200"),), 0.0) or 0.0) >= 0.2
    assert attempts.delay_s(grpc.StatusCode.NOT_FOUND, (), 0.0) is None
    assert attempts.timeout_s(8.0) == 2.0


@pytest.mark.parametrize(
    ("module", "name", "body"),
    [
        ("openai.types.chat", "ChatCompletion", scenes.OPENAI_RESPONSE | {"created": 1}),
        ("anthropic.types", "Message", scenes.ANTHROPIC_RESPONSE),
        ("google.genai.types", "GenerateContentResponse", scenes.GEMINI_RESPONSE),
    ],
)
def test_an_sdks_own_object_reads_as_its_dict(module: str, name: str, body: dict[str, Any]) -> None:
    package = module.partition(".types")[0]
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{package} is not installed")
    made = getattr(importlib.import_module(module), name).model_validate(body)
    assert bodies.usage_of(bodies.body_of(made)) == bodies.usage_of(body)
