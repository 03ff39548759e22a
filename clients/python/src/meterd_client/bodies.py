"""Providers' responses as plain JSON values: SDK objects, dicts, and the part of them that meterd needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from meterd_client.v1 import types_pb2

# meterd refuses larger ones.
JSON_BYTES_MAX = 256 * 1024
# A name or a tier is shorter; a longer text is content, which stays here.
TEXT_CHARS_MAX = 256
_USAGE_KEYS = re.compile(r"usage|meta|metric|billed|token", re.IGNORECASE)
_OLLAMA_KEYS = frozenset(("prompt_eval_count", "eval_count"))


def field(value: object, *names: str) -> Any:
    """The first of the fields that a dict or an SDK object has and that is not None; None otherwise."""
    for name in names:
        found: Any = (
            cast(Mapping[str, Any], value).get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        )
        if found is not None:
            return found
    return None


def plain(value: object) -> dict[str, Any]:
    """The dict of an SDK object (model_dump, to_dict) or a mapping, with the names of the provider's API. TypeError for anything else."""
    if isinstance(value, Mapping):
        return dict(cast(Mapping[str, Any], value))
    for name, options in (
        ("model_dump", {"mode": "json", "by_alias": True, "exclude_none": True, "warnings": False}),
        ("to_dict", {}),
        ("dict", {}),
    ):
        method: Any = getattr(value, name, None)
        if callable(method):
            found: Any = method(**options)
            if isinstance(found, Mapping):
                return dict(cast(Mapping[str, Any], found))
    raise TypeError(f"{type(value).__name__} is no response: give an SDK object, a dict or a Usage")


def body_of(response: object) -> dict[str, Any]:
    """What meterd reads of a response: usage, model and tier, without content. Empty where the response states no usage."""
    body = plain(response)
    if (google := field(body, "usage_metadata")) is not None:
        body["usageMetadata"] = camel(google)
    trimmed = _trimmed(body)
    return trimmed if _states_usage(trimmed) else {}


def encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), default=str).encode()


def camel(value: object) -> dict[str, Any]:
    """A part of a Google response with the API's names; Google's SDKs have names of their own."""
    return {_camel_name(name): _camel_value(inner) for name, inner in plain(value).items() if inner is not None}


def _camel_value(value: object) -> Any:
    if isinstance(value, Mapping):
        return camel(cast(Mapping[str, Any], value))
    if isinstance(value, list):
        return [_camel_value(inner) for inner in cast(list[object], value)]
    return value


def _camel_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _trimmed(body: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in body.items():
        if isinstance(value, Mapping):
            inner = cast(Mapping[str, Any], value)
            small = dict(inner) if _USAGE_KEYS.search(key) else _trimmed(inner)
            if small:
                kept[key] = small
        elif isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= TEXT_CHARS_MAX):
            kept[key] = value
    return kept


def _states_usage(body: Mapping[str, Any]) -> bool:
    """Whether there is a count of tokens anywhere, or something that is called a usage and has counts."""
    for key, value in body.items():
        is_named = _USAGE_KEYS.search(key) is not None or key in _OLLAMA_KEYS
        if isinstance(value, Mapping):
            inner = cast(Mapping[str, Any], value)
            if is_named and any(isinstance(one, (int, Mapping)) for one in inner.values()):
                return True
            if _states_usage(inner):
                return True
        elif is_named and isinstance(value, int) and not isinstance(value, bool):
            return True
    return False


def usage_of(body: Mapping[str, Any]) -> types_pb2.Usage | None:
    """The counts of a body of OpenAI (chat, responses), Anthropic, Gemini or Bedrock; None for any other shape.

    For progress and for sums of several responses; what a single response comes to is for meterd to read.
    """
    if (google := field(body, "usageMetadata", "usage_metadata")) is not None:
        return _google(camel(google))
    if (inner := field(body, "response")) is not None and isinstance(inner, Mapping):
        return usage_of(cast(Mapping[str, Any], inner))
    used = field(body, "usage")
    if not isinstance(used, Mapping):
        return None
    counts = cast(Mapping[str, Any], used)
    if "prompt_tokens" in counts or "completion_tokens" in counts:
        return _chat(counts)
    if "inputTokens" in counts:
        return _bedrock(counts)
    if "input_tokens" in counts or "output_tokens" in counts:
        is_openai = "input_tokens_details" in counts or ("output_tokens_details" in counts and "total_tokens" in counts)
        return _responses(counts) if is_openai or field(body, "object") == "response" else _anthropic(counts)
    return None


def reported(used: object) -> types_pb2.Usage:
    """The counts of a Usage or a response. TypeError where it states none that this client can read."""
    usage = used if isinstance(used, types_pb2.Usage) else usage_of(body_of(used))
    if usage is None:
        raise TypeError("the response states no usage that this client can read: give a Usage")
    return usage


def _of(counts: object, *names: str) -> int:
    found = field(counts, *names)
    return found if isinstance(found, int) and found > 0 else 0


def _chat(counts: Mapping[str, Any]) -> types_pb2.Usage:
    asked, answered = field(counts, "prompt_tokens_details"), field(counts, "completion_tokens_details")
    return types_pb2.Usage(
        input_tokens=_of(counts, "prompt_tokens"),
        cache_read_tokens=_of(asked, "cached_tokens"),
        input_audio_tokens=_of(asked, "audio_tokens"),
        output_tokens=_of(counts, "completion_tokens"),
        reasoning_tokens=min(_of(answered, "reasoning_tokens"), _of(counts, "completion_tokens")),
        output_audio_tokens=_of(answered, "audio_tokens"),
    )


def _responses(counts: Mapping[str, Any]) -> types_pb2.Usage:
    return types_pb2.Usage(
        input_tokens=_of(counts, "input_tokens"),
        cache_read_tokens=_of(field(counts, "input_tokens_details"), "cached_tokens"),
        output_tokens=_of(counts, "output_tokens"),
        reasoning_tokens=_of(field(counts, "output_tokens_details"), "reasoning_tokens"),
    )


def _anthropic(counts: Mapping[str, Any]) -> types_pb2.Usage:
    read, write = _of(counts, "cache_read_input_tokens"), _of(counts, "cache_creation_input_tokens")
    return types_pb2.Usage(
        input_tokens=_of(counts, "input_tokens") + read + write,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=_of(field(counts, "cache_creation"), "ephemeral_1h_input_tokens"),
        output_tokens=_of(counts, "output_tokens"),
        web_searches=_of(field(counts, "server_tool_use"), "web_search_requests"),
    )


def _google(counts: Mapping[str, Any]) -> types_pb2.Usage:
    thoughts = _of(counts, "thoughtsTokenCount")
    return types_pb2.Usage(
        input_tokens=_of(counts, "promptTokenCount") + _of(counts, "toolUsePromptTokenCount"),
        cache_read_tokens=_of(counts, "cachedContentTokenCount"),
        output_tokens=_of(counts, "candidatesTokenCount") + thoughts,
        reasoning_tokens=thoughts,
    )


def _bedrock(counts: Mapping[str, Any]) -> types_pb2.Usage:
    read, write = _of(counts, "cacheReadInputTokens"), _of(counts, "cacheWriteInputTokens")
    return types_pb2.Usage(
        input_tokens=_of(counts, "inputTokens") + read + write,
        cache_read_tokens=read,
        cache_write_tokens=write,
        output_tokens=_of(counts, "outputTokens"),
    )


def summed(usages: Iterable[types_pb2.Usage]) -> types_pb2.Usage:
    """All counts added, class by class."""
    total = types_pb2.Usage()
    for usage in usages:
        for descriptor, count in usage.ListFields():
            setattr(total, descriptor.name, getattr(total, descriptor.name) + count)
    return total
