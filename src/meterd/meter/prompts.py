"""Counts the tokens of prompts that are given as text, without making other calls wait."""

from __future__ import annotations

import asyncio

from meterd.pricing import tokens

# Counting so many characters takes a millisecond at most; longer prompts go to a thread.
INLINE_CHARS_MAX = 4_096


class PromptCounter:
    """Loads the vocabularies on first use, since they take a second and 110 MB that most servers never need."""

    def __init__(self) -> None:
        self._loading: asyncio.Task[tokens.Counter] | None = None

    async def count(self, model: str, text: str) -> int:
        """Tokens of `text` as `model` counts them, nearly; see pricing.tokens."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(asyncio.to_thread(tokens.loaded))
        counter = await asyncio.shield(self._loading)
        if len(text) <= INLINE_CHARS_MAX:
            return counter.count(model, text)
        return await asyncio.to_thread(counter.count, model, text)
