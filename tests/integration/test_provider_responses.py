"""Usage from 526 real responses of providers: as an oracle of its own reads them, and as genai-prices read them in August 2026.

METERD_SHARED_DATA names the folder of the data, which is not part of the project; without it these tests are skipped.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import Any

import pytest

from meterd.core import errors, usage
from meterd.pricing import extract

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOLDER = pathlib.Path(os.environ.get("METERD_SHARED_DATA") or _ROOT.parent / "shared" / "data")
_FILE = _FOLDER / "llm_response_usages.json"

pytestmark = pytest.mark.skipif(not _FILE.is_file(), reason=f"needs {_FILE.name}; METERD_SHARED_DATA names its folder")

# Names in the data, where they are not those of Usage.
_RENAMED = {"output_reasoning_tokens": "reasoning_tokens", "output_citation_tokens": "citation_tokens"}
# Counts in the data that Usage has no class for: each is a part of another count, and no price in the catalogue tells it apart.
_NOT_COUNTED = {
    "input_text_tokens": "input_tokens",
    "output_text_tokens": "output_tokens",
    "input_tool_tokens": "input_tokens",
    "input_text_tool_tokens": "input_tokens",
    "cache_text_read_tokens": "cache_read_tokens",
    "cache_video_read_tokens": "cache_read_tokens",
    "cache_write_5m_tokens": "cache_write_tokens",
}
# Where meterd reads otherwise than the data states, and how many readings that are.
_EXPLAINED = {
    "embeddings": (393, "a chat's response is not read as one of embeddings, which would leave its output unpaid"),
    "cache writes": (
        7,
        "the data of August did not read the cache writes that some OpenAI-like bodies state",
    ),
    "no tokens": (3, "read as Cohere's, a body of another shape states nothing: that is absent usage, never zero"),
}


def _responses() -> list[dict[str, Any]]:
    return json.loads(_FILE.read_bytes()) if _FILE.is_file() else []


def _read(body: dict[str, Any], **names: str) -> dict[str, int]:
    return usage.set_counts(extract.extract(json.dumps(body).encode(), **names).usage)


def _stated(counts: dict[str, int]) -> dict[str, int]:
    """The counts of the data as those of Usage."""
    assert all(_RENAMED.get(name, name) in usage.FIELDS or name in _NOT_COUNTED for name in counts), counts
    return {_RENAMED.get(name, name): count for name, count in counts.items() if count and name not in _NOT_COUNTED}


# ---- an oracle that knows each API by its documentation, not by the bundled paths


def _openai_chat(body: dict[str, Any]) -> dict[str, int]:
    used = body["usage"]
    prompt, completion = used.get("prompt_tokens_details") or {}, used.get("completion_tokens_details") or {}
    return {
        "input_tokens": used["prompt_tokens"],
        "cache_read_tokens": prompt.get("cached_tokens", used.get("cached_tokens", 0)),
        "cache_write_tokens": prompt.get("cache_write_tokens", 0),
        "input_audio_tokens": prompt.get("audio_tokens", 0),
        "output_tokens": used["completion_tokens"],
        "reasoning_tokens": completion.get("reasoning_tokens", 0),
        "output_audio_tokens": completion.get("audio_tokens", 0),
    }


def _openai_responses(body: dict[str, Any]) -> dict[str, int]:
    used = body["usage"]
    return {
        "input_tokens": used["input_tokens"],
        "cache_read_tokens": used["input_tokens_details"]["cached_tokens"],
        "cache_write_tokens": used["input_tokens_details"].get("cache_write_tokens", 0),
        "output_tokens": used["output_tokens"],
        "reasoning_tokens": used["output_tokens_details"]["reasoning_tokens"],
    }


def _anthropic(body: dict[str, Any]) -> dict[str, int]:
    used = body["usage"]
    read, write = used["cache_read_input_tokens"], used["cache_creation_input_tokens"]
    return {
        "input_tokens": used["input_tokens"] + read + write,
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "cache_write_1h_tokens": used["cache_creation"]["ephemeral_1h_input_tokens"],
        "output_tokens": used["output_tokens"],
        "reasoning_tokens": used.get("output_tokens_details", {}).get("thinking_tokens", 0),
        "web_searches": used.get("server_tool_use", {}).get("web_search_requests", 0),
    }


def _gemini(body: dict[str, Any]) -> dict[str, int]:
    used = body["usageMetadata"]

    def of(modalities: tuple[str, ...], *lists: str) -> int:
        parts = (part for name in lists for part in used.get(name, ()))
        return sum(part.get("tokenCount", 0) for part in parts if part["modality"] in modalities)

    thoughts, images = used.get("thoughtsTokenCount", 0), ("IMAGE", "DOCUMENT")
    asked, answered = ("promptTokensDetails", "toolUsePromptTokensDetails"), "candidatesTokensDetails"
    return {
        "input_tokens": used["promptTokenCount"] + used.get("toolUsePromptTokenCount", 0),
        "cache_read_tokens": used.get("cachedContentTokenCount", 0),
        "cache_audio_read_tokens": of(("AUDIO",), "cacheTokensDetails"),
        "cache_image_read_tokens": of(images, "cacheTokensDetails"),
        "input_audio_tokens": of(("AUDIO",), *asked),
        "input_image_tokens": of(images, *asked),
        "input_video_tokens": of(("VIDEO",), *asked),
        "output_tokens": used.get("candidatesTokenCount", 0) + thoughts,
        "reasoning_tokens": thoughts,
        "output_audio_tokens": of(("AUDIO",), answered),
        "output_image_tokens": of(images, answered),
        "output_video_tokens": of(("VIDEO",), answered),
    }


def _bedrock(body: dict[str, Any]) -> dict[str, int]:
    used = body["usage"]
    read, write = used.get("cacheReadInputTokens", 0), used.get("cacheWriteInputTokens", 0)
    return {
        "input_tokens": used["inputTokens"] + read + write,
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "cache_write_1h_tokens": sum(
            part["inputTokens"] for part in used.get("cacheDetails", ()) if part["ttl"] == "1h"
        ),
        "output_tokens": used["outputTokens"],
    }


def _cohere(body: dict[str, Any]) -> dict[str, int]:
    """Cohere states tokens, of which some are cached, and the fewer that it bills; meterd charges the tokens."""
    used = body["usage"]
    return {
        "input_tokens": used["tokens"]["input_tokens"],
        "cache_read_tokens": used["cached_tokens"],
        "output_tokens": used["tokens"]["output_tokens"],
    }


def _cohere_embeddings(body: dict[str, Any]) -> dict[str, int]:
    return {"input_tokens": body["meta"]["billed_units"]["input_tokens"]}


def _expected(body: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """The API that a body is of, and its usage."""
    used = body.get("usage", {})
    if "usageMetadata" in body:
        api, counts = "gemini", _gemini(body)
    elif "meta" in body:
        api, counts = "cohere embeddings", _cohere_embeddings(body)
    elif "inputTokens" in used:
        api, counts = "bedrock", _bedrock(body)
    elif "billed_units" in used:
        api, counts = "cohere", _cohere(body)
    elif "cache_creation" in used:
        api, counts = "anthropic", _anthropic(body)
    elif "prompt_tokens" in used:
        api, counts = "openai chat", _openai_chat(body)
    else:
        api, counts = "openai responses", _openai_responses(body)
    return api, {name: count for name, count in counts.items() if count}


# ---- tests


def test_the_data_has_526_responses_of_seven_apis() -> None:
    found = collections.Counter(_expected(response["body"])[0] for response in _responses())
    assert found == {
        "gemini": 159,
        "openai chat": 131,
        "openai responses": 79,
        "anthropic": 78,
        "bedrock": 75,
        "cohere": 3,
        "cohere embeddings": 1,
    }


@pytest.mark.parametrize("named", ["by its model", "by its shape alone"])
def test_every_response_gives_the_usage_that_its_api_documents(named: str) -> None:
    for index, response in enumerate(_responses()):
        model = response["model"] if named == "by its model" else ""
        api, expected = _expected(response["body"])
        assert (index, api, expected) == (index, api, _read(response["body"], model=model))


def test_every_response_names_its_model_where_the_body_does() -> None:
    for response in _responses():
        body = response["body"]
        found = extract.extract(json.dumps(body).encode())
        assert found.model == body.get("model", body.get("modelVersion", ""))


def test_the_usage_part_alone_gives_the_same_usage() -> None:
    for index, response in enumerate(_responses()):
        body = response["body"]
        if "meta" in body:
            continue
        part = body.get("usage") or body["usageMetadata"]
        assert (index, _expected(body)[1]) == (index, _read(part, model=response["model"]))


def test_every_reading_by_a_providers_own_flavor_gives_the_stated_usage_or_is_explained() -> None:
    same = 0
    differing: collections.Counter[str] = collections.Counter()
    for index, response in enumerate(_responses()):
        for group in response["extracted"]:
            stated = _stated(group["usage"])
            for reader in group["extractors"]:
                provider, flavor = reader["provider_id"], reader["api_flavor"]
                try:
                    found = _read(response["body"], provider=provider, api_flavor=flavor)
                except errors.InvalidArgumentError:
                    found = {}
                if found and found == stated:
                    same += 1
                elif flavor == "embeddings" and not found and "completion_tokens" in response["body"]["usage"]:
                    differing["embeddings"] += 1
                elif _but_cache_writes(found) == stated and found == _expected(response["body"])[1]:
                    differing["cache writes"] += 1
                elif provider == "cohere" and not found and not stated:
                    differing["no tokens"] += 1
                else:
                    pytest.fail(f"response {index} as {provider}/{flavor}: {stated} stated, {found} read")
    assert differing == {name: count for name, (count, _) in _EXPLAINED.items()}
    assert same == 5865


def _but_cache_writes(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != "cache_write_tokens"}


def test_no_response_of_the_standard_tier_is_priced_as_another() -> None:
    for response in _responses():
        assert extract.extract(json.dumps(response["body"]).encode(), model=response["model"]).service_tier == ""
