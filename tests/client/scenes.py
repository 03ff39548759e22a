"""A meterd server of this process with accounts, and what the client's tests ask of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from meterd_client.v1 import accounts_pb2, types_pb2
from tests.integration import serving

FUNDS_MICROS = 1_000_000_000


@dataclasses.dataclass
class World:
    """`key` is an admin's. `client` asks without the client that is tested."""

    server: serving.Server
    client: serving.Client
    key: str
    scene: serving.Scene

    @property
    def target(self) -> str:
        return self.server.address

    async def funded(self, account_id: str, amount_micros: int = FUNDS_MICROS) -> str:
        await self.client.fund(account_id, amount_micros)
        return account_id

    async def holds(self, account_id: str) -> list[types_pb2.Hold]:
        answer = await self.client.call("ListHolds", accounts_pb2.ListHoldsRequest(account_id=account_id))
        return list(answer.holds)

    async def spent(self, account_id: str) -> int:
        """What is gone from FUNDS_MICROS for good; nothing may be held."""
        available_micros, held_micros = await self.client.balance(account_id)
        assert held_micros == 0, "a hold is open"
        return FUNDS_MICROS - available_micros

    async def settled(self, account_id: str) -> None:
        """Waits until no hold is open."""
        await serving.eventually(lambda: self._is_free(account_id))

    async def _is_free(self, account_id: str) -> bool:
        return (await self.client.balance(account_id))[1] == 0


class Gone(Exception):
    """A fault of the code in the block."""


class Model:
    """As an SDK's object: fields as attributes, and all of it by model_dump."""

    def __init__(self, **fields: Any) -> None:
        self._fields = {name: _model(value) for name, value in fields.items()}
        for name, value in self._fields.items():
            setattr(self, name, value)

    def model_dump(self, *, mode: str, by_alias: bool, exclude_none: bool, warnings: bool) -> dict[str, Any]:
        assert mode == "json" and by_alias and not warnings
        return {name: _dumped(value) for name, value in self._fields.items() if value is not None or not exclude_none}


def _model(value: Any) -> Any:
    if isinstance(value, dict):
        return Model(**value)
    return [_model(one) for one in value] if isinstance(value, list) else value


def _dumped(value: Any) -> Any:
    if isinstance(value, Model):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False)
    return [_dumped(one) for one in value] if isinstance(value, list) else value


async def chunks(*values: Any) -> AsyncIterator[Any]:
    """A provider's stream."""
    for value in values:
        await asyncio.sleep(0)
        yield value


# ---- what providers answer, in the shape of their APIs

OPENAI_RESPONSE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 200,
        "total_tokens": 1_200,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}
ANTHROPIC_RESPONSE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Hello!"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 900,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 100,
        "output_tokens": 200,
    },
}
GEMINI_RESPONSE = {
    "candidates": [{"content": {"parts": [{"text": "Hello!"}], "role": "model"}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {
        "promptTokenCount": 1_000,
        "candidatesTokenCount": 150,
        "thoughtsTokenCount": 50,
        "totalTokenCount": 1_200,
    },
    "modelVersion": "gemini-2.5-flash",
}


def openai_chunks(tokens: int, *, usage: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """A chat's stream with a chunk a token; with `usage` in a last chunk of its own."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18", "usage": None}
    body = [
        head | {"choices": [{"index": 0, "delta": {"content": "tok "}, "finish_reason": None}]} for _ in range(tokens)
    ]
    end = [head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    last = [head | {"choices": [], "usage": usage}] if usage else []
    return body + end + last


def anthropic_events(tokens: int, *, output_tokens: int = 0) -> list[dict[str, Any]]:
    """A message's events with a delta a token; with `output_tokens` to the end, else cut off."""
    start: dict[str, Any] = {
        "type": "message_start",
        "message": ANTHROPIC_RESPONSE | {"content": [], "usage": ANTHROPIC_RESPONSE["usage"] | {"output_tokens": 1}},  # type: ignore[operator]
    }
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "tok "}}
    end: list[dict[str, Any]] = [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output_tokens}},
        {"type": "message_stop"},
    ]
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [start, {"type": "ping"}, block, *([delta] * tokens), *(end if output_tokens else ())]


def gemini_chunks(tokens: int, *, finished: bool) -> list[dict[str, Any]]:
    """A stream with four tokens' text a chunk, each with the usage so far."""
    found: list[dict[str, Any]] = []
    for count in range(4, tokens + 1, 4):
        candidate: dict[str, Any] = {"content": {"parts": [{"text": "tok tok tok tok "}], "role": "model"}, "index": 0}
        if finished and count + 4 > tokens:
            candidate["finishReason"] = "STOP"
        usage = {"promptTokenCount": 1_000, "candidatesTokenCount": count, "totalTokenCount": 1_000 + count}
        found.append({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"})
    return found


def responses_events(tokens: int, *, usage: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """OpenAI's other API."""
    delta = {"type": "response.output_text.delta", "delta": "tok ", "item_id": "msg_1"}
    response = {"id": "resp_1", "object": "response", "model": "gpt-4o-mini-2024-07-18", "usage": usage}
    end = [{"type": "response.completed", "response": response}] if usage else []
    return [{"type": "response.created", "response": response | {"usage": None}}, *([delta] * tokens), *end]
