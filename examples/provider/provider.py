"""A provider of models for examples and tests: answers as OpenAI, Anthropic and Gemini do, with made-up words. Needs Python alone.

    python examples/provider/provider.py [port]

It prints its address once it listens. `max_tokens` (or `max_completion_tokens`, `maxOutputTokens`) words come back, one a token, at most
OUTPUT_TOKENS_MAX; the prompt counts one token a word. The header `x-delay-ms` waits before each word; `x-cut-after: N` breaks the
connection after N words; `x-fail: 500` answers that status. GET /calls tells what became of each call, as JSON.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

OUTPUT_TOKENS_DEFAULT = 16
# Bounds a stream that nobody reads.
OUTPUT_TOKENS_MAX = 100_000
WORDS = ("credits ", "are ", "held ", "before ", "the ", "call ", "and ", "settled ", "after ", "it. ")

Json = dict[str, Any]


def prompt_tokens(body: Json) -> int:
    """One a word of everything that the body says as text."""
    count = 0
    stack: list[Any] = [body.get("messages"), body.get("input"), body.get("contents"), body.get("system")]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            count += len(value.split())
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            stack.extend(part for name, part in value.items() if name in ("content", "parts", "text"))
    return max(1, count)


def output_tokens(body: Json) -> int:
    config = body.get("generationConfig") or {}
    asked = (
        body.get("max_completion_tokens")
        or body.get("max_tokens")
        or config.get("maxOutputTokens")
        or OUTPUT_TOKENS_DEFAULT
    )
    return min(int(asked), OUTPUT_TOKENS_MAX)


def words(count: int) -> Iterator[str]:
    return (WORDS[at % len(WORDS)] for at in range(count))


class OpenAI:
    """POST /v1/chat/completions."""

    def __init__(self, body: Json, number: int) -> None:
        self.model = body.get("model", "gpt-4o-mini")
        self.input, self.output = prompt_tokens(body), output_tokens(body)
        self.tells_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.head: Json = {"id": f"chatcmpl-{number}", "created": int(time.time()), "model": self.model}

    def usage(self) -> Json:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }

    def whole(self) -> Json:
        message = {"role": "assistant", "content": "".join(words(self.output)), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self.head | {"object": "chat.completion", "choices": [choice], "usage": self.usage()}

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.tells_usage else {}
        return self.head | {"object": "chat.completion.chunk", "choices": [choice]} | usage

    def start(self) -> list[tuple[str, Json]]:
        return [("", self._chunk({"role": "assistant", "content": "", "refusal": None}))]

    def word(self, text: str) -> tuple[str, Json]:
        return "", self._chunk({"content": text})

    def end(self) -> list[tuple[str, Json]]:
        chunks = [("", self._chunk({}, "stop"))]
        if self.tells_usage:
            chunks.append(("", self.head | {"object": "chat.completion.chunk", "choices": [], "usage": self.usage()}))
        return chunks

    last = b"data: [DONE]\n\n"


class Anthropic:
    """POST /v1/messages."""

    def __init__(self, body: Json, number: int) -> None:
        self.model = body.get("model", "claude-sonnet-4-5")
        self.input, self.output = prompt_tokens(body), output_tokens(body)
        self.number = number

    def _message(self, text: str, output: int, stop: str | None) -> Json:
        usage = {
            "input_tokens": self.input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output,
            "service_tier": "standard",
        }
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    def whole(self) -> Json:
        return self._message("".join(words(self.output)), self.output, "end_turn")

    def start(self) -> list[tuple[str, Json]]:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        start = {"type": "message_start", "message": self._message("", 1, None)}
        return [("message_start", start), ("content_block_start", block), ("ping", {"type": "ping"})]

    def word(self, text: str) -> tuple[str, Json]:
        delta = {"type": "text_delta", "text": text}
        return "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}

    def end(self) -> list[tuple[str, Json]]:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        return [
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": self.output}}),
            ("message_stop", {"type": "message_stop"}),
        ]

    last = b""


class Gemini:
    """POST /v1beta/models/MODEL:generateContent and :streamGenerateContent."""

    def __init__(self, body: Json, number: int, model: str) -> None:
        self.model = model
        self.input, self.output = prompt_tokens(body), output_tokens(body)
        self.number = number
        self.told = 0

    def _content(self, text: str, finish: str | None) -> Json:
        candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        usage = {
            "promptTokenCount": self.input,
            "candidatesTokenCount": self.told,
            "totalTokenCount": self.input + self.told,
        }
        return {
            "candidates": [candidate | ({"finishReason": finish} if finish else {})],
            "usageMetadata": usage,
            "modelVersion": self.model,
            "responseId": str(self.number),
        }

    def whole(self) -> Json:
        self.told = self.output
        return self._content("".join(words(self.output)), "STOP")

    def start(self) -> list[tuple[str, Json]]:
        return []

    def word(self, text: str) -> tuple[str, Json]:
        self.told += 1
        return "", self._content(text, None)

    def end(self) -> list[tuple[str, Json]]:
        return [("", self._content("", "STOP"))]

    last = b""


Answer = OpenAI | Anthropic | Gemini


class Handler(http.server.BaseHTTPRequestHandler):
    """Each connection has a thread of its own."""

    server: Provider  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            body = json.dumps(self.server.calls).encode()
        self._send(200, body)

    def do_POST(self) -> None:
        body: Json = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        call: Json = {"path": self.path, "words": 0, "ended": ""}
        with self.server.lock:
            self.server.calls.append(call)
            number = len(self.server.calls)
        if status := int(self.headers.get("x-fail") or 0):
            call["ended"] = "failed"
            fault = {"error": {"message": "the provider is overloaded", "type": "server_error", "code": None}}
            self._send(status, json.dumps(fault).encode())
            return
        answer, streams = self._answer(body, number)
        if answer is None:
            self._send(404, b'{"error": {"message": "no such path"}}')
        elif streams:
            self._stream(answer, call)
        else:
            time.sleep(int(self.headers.get("x-delay-ms") or 0) / 1000)
            call |= {"words": answer.output, "ended": "whole"}
            self._send(200, json.dumps(answer.whole()).encode())

    def _answer(self, body: Json, number: int) -> tuple[Answer | None, bool]:
        path = self.path.partition("?")[0]
        if path.endswith("/chat/completions"):
            return OpenAI(body, number), bool(body.get("stream"))
        if path.endswith("/messages"):
            return Anthropic(body, number), bool(body.get("stream"))
        model, _, verb = path.rpartition("/")[2].partition(":")
        return (Gemini(body, number, model), verb.startswith("stream")) if verb else (None, False)

    def _stream(self, answer: Answer, call: Json) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        delay_s = int(self.headers.get("x-delay-ms") or 0) / 1000
        cut_after = int(self.headers.get("x-cut-after") or -1)
        try:
            for event in answer.start():
                self._event(*event)
            for text in words(answer.output):
                if call["words"] == cut_after:
                    call["ended"] = "cut"
                    self.close_connection = True
                    self.connection.close()
                    return
                time.sleep(delay_s)
                self._event(*answer.word(text))
                call["words"] += 1
            for event in answer.end():
                self._event(*event)
            self._chunk(answer.last)
            self.wfile.write(b"0\r\n\r\n")
            call["ended"] = "whole"
        except OSError:
            call["ended"] = "left"
            self.close_connection = True

    def _event(self, name: str, data: Json) -> None:
        head = f"event: {name}\n" if name else ""
        self._chunk(f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Provider(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.lock = threading.Lock()
        self.calls: list[Json] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def main() -> None:
    with Provider(int(sys.argv[1]) if len(sys.argv) > 1 else 8300) as provider:
        print(provider.url, flush=True)
        try:
            provider.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
