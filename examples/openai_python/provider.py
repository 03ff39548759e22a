"""A tiny local provider: streams real-shaped chunks of OpenAI's chat API. `python provider.py PORT`; 0 takes any, and tells it."""

from __future__ import annotations

import http.server
import json
import sys
from typing import Any

TEXT = "Credits were set aside before this answer began , and what it did not need has returned ."
WORDS = TEXT.split()
MODEL = "gpt-4o-mini-2024-07-18"


class Handler(http.server.BaseHTTPRequestHandler):
    """POST /v1/chat/completions. Answers at most `max_completion_tokens` words, one a chunk, again and again if that is more."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = sum(len(str(message["content"]).split()) for message in asked["messages"])
        count = min(asked.get("max_completion_tokens") or len(WORDS), 10_000)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number in range(count):
                self._send(choices=[_choice({"content": WORDS[number % len(WORDS)] + " "}, None)])
            self._send(choices=[_choice({}, "length" if count < len(WORDS) else "stop")])
            if (asked.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
                self._send(choices=[], usage=usage)
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            # The caller has had enough.
            self.close_connection = True

    def _send(self, **fields: Any) -> None:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the example's output is its own."""


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


def serve(port: int) -> http.server.ThreadingHTTPServer:
    """A provider that listens, and serves once `serve_forever` runs."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server = serve(int(sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()
