"""One metered chat, asynchronously: METERD_SERVER=… METERD_KEY=… python examples/openai_python/main.py ACCOUNT QUESTION

OPENAI_BASE_URL names the provider; without it a local one is started. With the openai package its client is used, otherwise httpx.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import provider

import meterd_client
from meterd_client.v1 import types_pb2

MODEL = "gpt-4o-mini"


async def chat(messages: list[dict[str, Any]], max_tokens: int) -> AsyncIterator[Any]:
    """The provider's chunks: the SDK's objects, or dicts."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": messages,
        "max_completion_tokens": max_tokens,
        "stream": True,
        # Without it OpenAI does not say what the answer used, and it is charged as counted.
        "stream_options": {"include_usage": True},
    }
    if importlib.util.find_spec("openai") is not None:
        async with importlib.import_module("openai").AsyncOpenAI() as client:
            async for chunk in await client.chat.completions.create(**asked):
                yield chunk
        return
    headers = {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as client:
        url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
        async with client.stream("POST", url, json=asked) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))


def text(chunk: Any) -> str:
    """What a chunk adds to the answer."""
    choices = chunk["choices"] if isinstance(chunk, dict) else chunk.choices
    if not choices:
        return ""
    delta = choices[0]["delta"] if isinstance(chunk, dict) else choices[0].delta
    return (delta.get("content") if isinstance(delta, dict) else delta.content) or ""


async def answer(meter: meterd_client.Meter, account: str, messages: list[dict[str, Any]], max_tokens: int) -> None:
    """Prints the answer as it comes, and what it came to."""
    async with meter.hold(account, model=MODEL, prompt=messages, max_output_tokens=max_tokens) as hold:
        async for chunk in hold.stream(chat(messages, max_tokens)):
            print(text(chunk), end="", flush=True)

    print()
    if hold.settlement is not None:
        state = types_pb2.UsageState.Name(hold.settlement.usage_state).removeprefix("USAGE_STATE_")
        stopped = ", stopped" if hold.stopped else ""
        print(f"held {hold.amount_micros} charged {hold.settlement.charged_micros} micro-credits, {state}{stopped}")


async def main(account: str, question: str, max_tokens: int = 100) -> int:
    """The exit status: 2 if the account cannot pay."""
    async with meterd_client.Meter(os.environ["METERD_SERVER"], key=os.environ["METERD_KEY"]) as meter:
        try:
            await answer(meter, account, [{"role": "user", "content": question}], max_tokens)
        except meterd_client.DeniedError as denied:
            print(f"402 {json.dumps(denied.as_dict())}")
            return 2
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3 or not {"METERD_SERVER", "METERD_KEY"} <= os.environ.keys():
        sys.exit(__doc__)
    if "OPENAI_BASE_URL" not in os.environ:
        server = provider.serve(0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "local"}
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
