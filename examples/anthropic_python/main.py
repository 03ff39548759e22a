"""One metered message, without asyncio: METERD_SERVER=… METERD_KEY=… python examples/anthropic_python/main.py ACCOUNT QUESTION

ANTHROPIC_BASE_URL names the provider; without it a local one is started. With the anthropic package its client is used, otherwise urllib.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import provider

import meterd_client
from meterd_client.v1 import types_pb2

MODEL = "claude-sonnet-4-5"


def message(messages: list[dict[str, Any]], max_tokens: int) -> Iterator[Any]:
    """The provider's events: the SDK's objects, or dicts."""
    asked: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "stream": True}
    if importlib.util.find_spec("anthropic") is not None:
        with importlib.import_module("anthropic").Anthropic() as client:
            yield from client.messages.create(**asked)
        return
    url = f"{os.environ['ANTHROPIC_BASE_URL']}/v1/messages"
    headers = {"content-type": "application/json", "x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def text(event: Any) -> str:
    """What an event adds to the answer."""
    if isinstance(event, dict):
        return event["delta"]["text"] if event["type"] == "content_block_delta" else ""
    return event.delta.text if event.type == "content_block_delta" else ""


def answer(meter: meterd_client.SyncMeter, account: str, messages: list[dict[str, Any]], max_tokens: int) -> None:
    """Prints the answer as it comes, and what it came to."""
    with meter.hold(account, model=MODEL, prompt=messages, max_output_tokens=max_tokens) as hold:
        for event in hold.stream(message(messages, max_tokens)):
            print(text(event), end="", flush=True)

    print()
    if hold.settlement is not None:
        state = types_pb2.UsageState.Name(hold.settlement.usage_state).removeprefix("USAGE_STATE_")
        stopped = ", stopped" if hold.stopped else ""
        print(f"held {hold.amount_micros} charged {hold.settlement.charged_micros} micro-credits, {state}{stopped}")


def main(account: str, question: str, max_tokens: int = 100) -> int:
    """The exit status: 2 if the account cannot pay."""
    with meterd_client.SyncMeter(os.environ["METERD_SERVER"], key=os.environ["METERD_KEY"]) as meter:
        try:
            answer(meter, account, [{"role": "user", "content": question}], max_tokens)
        except meterd_client.DeniedError as denied:
            print(f"402 {json.dumps(denied.as_dict())}")
            return 2
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or not {"METERD_SERVER", "METERD_KEY"} <= os.environ.keys():
        sys.exit(__doc__)
    if "ANTHROPIC_BASE_URL" not in os.environ:
        server = provider.serve(0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "local"}
    sys.exit(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
