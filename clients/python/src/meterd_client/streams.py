"""What a provider's stream tells while it comes: usage as far as it is stated, and the output counted where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from meterd_client import bodies
from meterd_client.v1 import types_pb2

# The usual mean of English text and of code; other scripts have more bytes a character and fewer characters a token.
BYTES_PER_TOKEN = 4
_RESPONSES_ENDED = frozenset(("response.completed", "response.incomplete", "response.failed"))


class Progress:
    """One stream of chunks: OpenAI (chat, responses), Anthropic, Gemini or Bedrock, as SDK objects or as dicts.

    Chunks of other shapes are passed by. No I/O, no clock.
    """

    def __init__(self) -> None:
        # Chunks so far.
        self.chunks = 0
        # The iterator came to its end by itself.
        self.is_exhausted = False
        # What the provider states, in the shape of a whole response; empty until it states anything.
        self.body: dict[str, Any] = {}
        # The body holds the whole stream's usage.
        self.is_final = False
        self._text_bytes = 0
        self._text_chunks = 0
        self._has_ended = False

    @property
    def output_tokens(self) -> int:
        """Output so far: as the provider counts it, or at least one token a chunk with text and one for four bytes."""
        stated = self._stated()
        if self.is_final and stated is not None:
            return stated.output_tokens
        return max(self._counted(), stated.output_tokens if stated is not None else 0)

    def usage(self, input_tokens: int) -> types_pb2.Usage:
        """Usage so far; `input_tokens` are those of the prompt, for providers that do not state them before the end."""
        stated = self._stated()
        usage = types_pb2.Usage(input_tokens=input_tokens) if stated is None else stated
        if not self.is_final:
            usage.output_tokens = max(self._counted(), usage.output_tokens)
        return usage

    def observe(self, chunk: object) -> None:
        """Reads a chunk."""
        self.chunks += 1
        if isinstance(chunk, str):
            self._add(chunk)
            return
        kind = bodies.field(chunk, "type")
        if (choices := bodies.field(chunk, "choices")) is not None:
            self._chat(chunk, choices)
        elif isinstance(kind, str) and kind.startswith("response."):
            self._responses(kind, chunk)
        elif isinstance(kind, str):
            self._anthropic(kind, chunk)
        elif bodies.field(chunk, "candidates", "usage_metadata", "usageMetadata") is not None:
            self._google(chunk)
        else:
            self._bedrock(chunk)

    def _stated(self) -> types_pb2.Usage | None:
        return bodies.usage_of(self.body) if self.body else None

    def _counted(self) -> int:
        return max(self._text_chunks, -(-self._text_bytes // BYTES_PER_TOKEN))

    def _add(self, text: object) -> None:
        if isinstance(text, str) and text:
            self._text_bytes += len(text.encode(errors="replace"))
            self._text_chunks += 1

    def _chat(self, chunk: object, choices: Iterable[object]) -> None:
        count = 0
        for choice in choices:
            count += 1
            delta = bodies.field(choice, "delta")
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                self._add(bodies.field(delta, name))
            for call in bodies.field(delta, "tool_calls") or ():
                function = bodies.field(call, "function")
                self._add(bodies.field(function, "name"))
                self._add(bodies.field(function, "arguments"))
            self._has_ended = self._has_ended or bodies.field(choice, "finish_reason") is not None
        usage = bodies.field(chunk, "usage")
        if usage is None:
            return
        # Its own chunk after the last choice, or with the last choice. Before, some servers state what there is so far.
        self._keep(chunk, ("model", "service_tier"), usage=bodies.plain(usage))
        self.is_final = self._has_ended or count == 0

    def _responses(self, kind: str, chunk: object) -> None:
        if kind.endswith(".delta"):
            self._add(bodies.field(chunk, "delta"))
        elif kind in _RESPONSES_ENDED:
            response = bodies.field(chunk, "response")
            if (usage := bodies.field(response, "usage")) is not None:
                self._keep(response, ("model", "service_tier", "object"), usage=bodies.plain(usage))
                self.is_final = True

    def _anthropic(self, kind: str, chunk: object) -> None:
        if kind == "message_start":
            message = bodies.field(chunk, "message")
            if (usage := bodies.field(message, "usage")) is not None:
                self._keep(message, ("model",), usage=bodies.plain(usage), type="message")
        elif kind == "content_block_delta":
            delta = bodies.field(chunk, "delta")
            self._add(bodies.field(delta, "text", "thinking", "partial_json"))
        elif kind == "message_delta" and (usage := bodies.field(chunk, "usage")) is not None:
            # Cumulative; what it leaves out or has as null stands in message_start.
            stated = {name: value for name, value in bodies.plain(usage).items() if value is not None}
            self.body["usage"] = self.body.get("usage", {}) | stated
            self.is_final = True

    def _google(self, chunk: object) -> None:
        for candidate in bodies.field(chunk, "candidates") or ():
            for part in bodies.field(bodies.field(candidate, "content"), "parts") or ():
                self._add(bodies.field(part, "text"))
            self._has_ended = self._has_ended or bool(bodies.field(candidate, "finish_reason", "finishReason"))
        if (usage := bodies.field(chunk, "usage_metadata", "usageMetadata")) is not None:
            # Each chunk's is that of all so far.
            self.body["usageMetadata"] = bodies.camel(usage)
            if isinstance(model := bodies.field(chunk, "model_version", "modelVersion"), str):
                self.body["modelVersion"] = model
            self.is_final = self._has_ended

    def _bedrock(self, chunk: object) -> None:
        self._add(bodies.field(bodies.field(bodies.field(chunk, "contentBlockDelta"), "delta"), "text"))
        usage = bodies.field(bodies.field(chunk, "metadata"), "usage")
        if isinstance(usage, Mapping):
            self.body["usage"] = dict(cast(Mapping[str, Any], usage))
            self.is_final = True

    def _keep(self, source: object, names: Iterable[str], **values: Any) -> None:
        for name in names:
            if isinstance(value := bodies.field(source, name), str):
                self.body[name] = value
        self.body |= values
