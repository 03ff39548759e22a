"""A tiny local provider: streams real-shaped events of Anthropic's messages API. `python provider.py PORT`; 0 takes any, and tells it."""

from __future__ import annotations

import http.server
import json
import sys
from typing import Any

TEXT = "Credits were set aside before this answer began , and what it did not need has returned ."
WORDS = TEXT.split()
MODEL = "claude-sonnet-4-5-20250929"


class Handler(http.server.BaseHTTPRequestHandler):
    """POST /v1/messages. Answers at most `max_tokens` words, one an event."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = sum(len(str(message["content"]).split()) for message in asked["messages"])
        count = min(asked["max_tokens"], 10_000)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            self._begin(prompt)
            for number in range(count):
                delta = {"type": "text_delta", "text": WORDS[number % len(WORDS)] + " "}
                self._send("content_block_delta", index=0, delta=delta)
            self._send("content_block_stop", index=0)
            delta = {"stop_reason": "max_tokens" if count < len(WORDS) else "end_turn", "stop_sequence": None}
            self._send("message_delta", delta=delta, usage={"output_tokens": count})
            self._send("message_stop")
        except (BrokenPipeError, ConnectionResetError):
            # The caller has had enough.
            self.close_connection = True

    def _begin(self, prompt_tokens: int) -> None:
        usage = {"input_tokens": prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
        ends = {"stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
        self._send("message_start", message={**message, **ends})
        self._send("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self._send("ping")

    def _send(self, kind: str, **fields: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the example's output is its own."""


def serve(port: int) -> http.server.ThreadingHTTPServer:
    """A provider that listens, and serves once `serve_forever` runs."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server = serve(int(sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()
