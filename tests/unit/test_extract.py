"""Usage from responses: the shapes that each provider has, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meterd.core import errors, usage
from meterd.pricing import extract

CHAT = {"model": "gpt-4o", "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}
RESPONSES_USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 107,
}
ANTHROPIC_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 200,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
    "output_tokens": 50,
    "server_tool_use": {"web_search_requests": 2},
}


def read(body: object, **names: str) -> extract.Extracted:
    return extract.extract(json.dumps(body).encode(), **names)


def counts(body: object, **names: str) -> dict[str, int]:
    return usage.set_counts(read(body, **names).usage)


def refused(json_bytes: bytes, **names: str) -> str:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        extract.extract(json_bytes, **names)
    assert caught.value.field.startswith("provider_response")
    return str(caught.value)


# ---- shapes


def test_chat_completions() -> None:
    assert read(CHAT) == extract.Extracted(
        usage=usage.Usage(input_tokens=11, output_tokens=5),
        model="gpt-4o",
        service_tier="",
        provider="openai",
        api_flavor="chat",
    )


def test_an_event_of_a_stream_of_the_responses_api_has_all_of_its_classes() -> None:
    response = {"model": "gpt-4o", "service_tier": "flex", "usage": RESPONSES_USAGE}
    found = read({"type": "response.completed", "response": response}, provider="openai")
    expected = usage.Usage(input_tokens=100, cache_read_tokens=40, output_tokens=7, reasoning_tokens=3)
    assert (found.usage, found.model, found.service_tier) == (expected, "gpt-4o", "flex")


def test_anthropic_counts_caches_apart_from_input_and_meterd_within_it() -> None:
    assert counts({"usage": ANTHROPIC_USAGE}, provider="anthropic") == {
        "input_tokens": 240,
        "cache_read_tokens": 200,
        "cache_write_tokens": 30,
        "cache_write_1h_tokens": 10,
        "output_tokens": 50,
        "web_searches": 2,
    }


def test_gemini_counts_thoughts_apart_from_output_and_meterd_within_it() -> None:
    used = {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "totalTokenCount": 19}
    assert counts({"usageMetadata": used}, provider="google") == {
        "input_tokens": 9,
        "output_tokens": 10,
        "reasoning_tokens": 6,
    }


def test_bedrock_converse_tells_writes_that_last_an_hour() -> None:
    used = {
        "inputTokens": 5,
        "outputTokens": 2,
        "cacheReadInputTokens": 7,
        "cacheWriteInputTokens": 11,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 1}, {"ttl": "1h", "inputTokens": 10}],
    }
    assert counts({"usage": used}, provider="aws") == {
        "input_tokens": 23,
        "cache_read_tokens": 7,
        "cache_write_tokens": 11,
        "cache_write_1h_tokens": 10,
        "output_tokens": 2,
    }


def test_embeddings_have_no_output() -> None:
    assert counts({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, provider="openai") == {"input_tokens": 8}


def test_a_chats_response_without_output_is_not_taken_for_embeddings() -> None:
    body = {"choices": [], "usage": {"prompt_tokens": 8}}
    assert "has no usage" in refused(json.dumps(body).encode(), provider="openai")
    body = {"usage": {"prompt_tokens": 8, "completion_tokens": None, "total_tokens": 20}}
    assert "has no usage" in refused(json.dumps(body).encode(), provider="openai")


@pytest.mark.parametrize("provider", ["openai", "mistral", "groq", "deepseek", "x-ai", "openrouter", "fireworks"])
def test_many_providers_answer_as_openai_does(provider: str) -> None:
    assert counts(CHAT, provider=provider) == {"input_tokens": 11, "output_tokens": 5}


def test_a_named_provider_may_answer_in_the_shape_of_another() -> None:
    assert counts(CHAT, provider="aws") == {"input_tokens": 11, "output_tokens": 5}
    assert counts(CHAT, provider="a gateway of our own") == {"input_tokens": 11, "output_tokens": 5}


def test_a_claude_behind_a_gateway_keeps_its_cached_tokens() -> None:
    used = {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens": 5}
    found = counts({"model": "anthropic/claude-sonnet-4-5", "usage": used})
    assert found == {"input_tokens": 90, "cache_read_tokens": 60, "output_tokens": 5}


def test_an_explicit_zero_is_zero() -> None:
    assert counts({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}) == {}


def test_reasoning_above_output_is_taken_as_all_of_it() -> None:
    used = {"prompt_tokens": 1, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 9}}
    assert counts({"usage": used}, provider="openai") == {"input_tokens": 1, "output_tokens": 5, "reasoning_tokens": 5}
    # xAI documents that its reasoning is billed on top of completion_tokens.
    assert counts({"usage": used}, provider="x-ai") == {"input_tokens": 1, "output_tokens": 14, "reasoning_tokens": 9}


def test_a_flavor_can_be_named() -> None:
    assert counts({"usage": RESPONSES_USAGE}, provider="openai", api_flavor="responses")["cache_read_tokens"] == 40
    assert "has no usage" in refused(json.dumps(CHAT).encode(), provider="openai", api_flavor="responses")
    message = refused(json.dumps(CHAT).encode(), provider="openai", api_flavor="soap")
    assert message.startswith("provider_response.api_flavor: unknown; known are chat, ")


@pytest.mark.parametrize(
    ("body", "tier"),
    [
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "FLEX"}, "flex"),
        ({"service_tier": "default"}, ""),
        ({"service_tier": 7}, ""),
        ({"service_tier": None}, ""),
        ({"service_tier": "x" * 5000}, ""),
    ],
)
def test_a_tier_counts_where_it_has_prices(body: dict[str, Any], tier: str) -> None:
    assert read({**CHAT, **body}).service_tier == tier


def test_the_tier_stands_where_each_provider_has_it() -> None:
    assert read({"usage": {**ANTHROPIC_USAGE, "service_tier": "batch"}}).service_tier == "batch"
    assert read({"usage": {**ANTHROPIC_USAGE, "speed": "fast"}}).service_tier == "fast"
    gemini = {"promptTokenCount": 1, "candidatesTokenCount": 1}
    assert read({"usageMetadata": {**gemini, "trafficType": "ON_DEMAND_FLEX"}}).service_tier == "flex"
    bedrock = {"usage": {"inputTokens": 1, "outputTokens": 1}, "serviceTier": {"type": "priority"}}
    assert read(bedrock).service_tier == "priority"


@pytest.mark.parametrize("model", ["", 7, None, "x" * 5000, "nul\0", ["gpt-4o"]])
def test_what_cannot_be_a_models_name_is_none(model: object) -> None:
    assert read({**CHAT, "model": model}).model == ""


# ---- what is refused


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not JSON",
        b"{",
        b'{"usage": {"prompt_tokens": NaN, "completion_tokens": 1}}',
        b'{"usage": {"prompt_tokens": Infinity, "completion_tokens": 1}}',
        b'{"usage": {"prompt_tokens": -Infinity, "completion_tokens": 1}}',
        b'{"usage": {"prompt_tokens": 1e400, "completion_tokens": 1}}',
        b'{"usage": {"prompt_tokens": 0x10, "completion_tokens": 1}}',
        b"\xff\xfe{}",
        b'{"a":' * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda raw: raw[:60].decode("ascii", "replace"),
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert refused(raw).startswith("provider_response.json: not JSON: ")


@pytest.mark.parametrize("raw", [b"[]", b'"usage"', b"7", b"null", b"true"])
def test_json_that_is_no_object_is_refused(raw: bytes) -> None:
    assert refused(raw) == "provider_response.json: must be a JSON object"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": []},
        {"usage": "11 tokens"},
        {"usage": 11},
        {"usage": {"total_tokens": 16}},
        {"usage": {"prompt_tokens": None, "completion_tokens": None}},
        {"usageMetadata": {}},
        {"error": {"message": "overloaded", "type": "server_error"}},
        {"choices": [{"message": {"content": "usage: 5"}}]},
        {"response": []},
        {"response": {"usage": None}},
    ],
)
def test_a_body_without_usage_is_refused(body: object) -> None:
    for names in ({}, {"provider": "openai"}, {"provider": "google"}, {"model": "claude-sonnet-4-5"}):
        message = refused(json.dumps(body).encode(), **names)
        assert message == "provider_response.json: has no usage where the provider's responses have it"


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "1.0",
        "1.5",
        "-0.0",
        "true",
        "false",
        "[]",
        "{}",
        '"11"',
        "1000000000001",
        "9007199254740992",
        "18446744073709551616",
        "1e15",
    ],
)
def test_a_value_that_is_no_count_is_refused_by_its_place(value: str) -> None:
    raw = f'{{"usage": {{"prompt_tokens": {value}, "completion_tokens": 1}}}}'.encode()
    expected = "provider_response.json: usage.prompt_tokens must be an integer from 0 to 1000000000000"
    assert refused(raw) == expected
    assert refused(raw, provider="openai") == expected


def test_a_bad_count_deeper_in_the_body_is_refused_by_its_place() -> None:
    used = {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -5}}
    message = refused(json.dumps({"usage": used}).encode(), provider="openai")
    assert message == (
        "provider_response.json: usage.prompt_tokens_details.cached_tokens must be an integer from 0 to 1000000000000"
    )
    gemini = {"promptTokenCount": 1, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1.5}]}
    message = refused(json.dumps({"usageMetadata": gemini}).encode(), provider="google")
    assert "usageMetadata.promptTokensDetails.AUDIO.tokenCount must be an integer" in message


def test_classes_above_their_total_are_refused() -> None:
    used = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}, "completion_tokens": 1}
    message = refused(json.dumps({"usage": used}).encode(), provider="openai")
    assert message == (
        "provider_response.json: cache_read_tokens: cache_read_tokens is 11, more than input_tokens, "
        "which includes it and is 10"
    )


def test_the_sum_of_counts_has_the_same_limit() -> None:
    used = {"input_tokens": 10**12, "cache_read_input_tokens": 10**12, "output_tokens": 1}
    message = refused(json.dumps({"usage": used}).encode(), provider="anthropic")
    assert message == "provider_response.json: input_tokens: must be from 0 to 1000000000000"


def test_a_mebibyte_is_refused_unread_and_a_long_answer_is_not() -> None:
    text = {"choices": [{"message": {"content": "x" * 200_000}}]}
    assert counts({**CHAT, **text}) == {"input_tokens": 11, "output_tokens": 5}
    raw = json.dumps({**CHAT, "padding": "x" * 2**20}).encode()
    assert refused(raw) == "provider_response.json: longer than 262144 bytes"
    assert refused(b"{" * 2**20) == "provider_response.json: longer than 262144 bytes"


def test_nesting_beside_the_usage_does_no_harm() -> None:
    deep = b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "deep": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert usage.set_counts(extract.extract(deep).usage) == {"input_tokens": 1, "output_tokens": 2}
