"""Limits on their way to and from the scripts."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from meterd.core import catalog, limits

# As LIMIT in limits.lua, up to the number, the value and the id.
_HEAD = struct.Struct("<ddd7B")
# As SAID there: up to the names, and the size of each.
_WANTED = struct.Struct("<5d")
_SIZE = struct.Struct("<H")


def packed(defined: Sequence[limits.Limit]) -> bytes:
    """Definitions as the account keeps them."""
    parts: list[bytes] = []
    for limit in defined:
        shape, name, value = limit.shape(), limit.limit_id.encode(), limit.value.encode()
        number = b"%d:" % limit.limit_no
        head = (limit.cap, shape.length_ms, shape.anchor_ms)
        kinds = (limit.subject, limit.metric, shape.kind, shape.slots, int(limit.observe), limit.window)
        parts += (
            _HEAD.pack(*head, *kinds, len(number)),
            number,
            bytes((len(value),)),
            value,
            bytes((len(name),)),
            name,
        )
    return b"".join(parts)


def said(terms: Mapping[str, Any]) -> bytes:
    """What a call to be reserved wants and says, as SAID in limits.lua; its credits and its hold are the script's to say."""
    cost = terms.get("cost")
    tokens = terms.get("in", 0) + terms.get("out", 0)
    if "extra" in terms:
        tokens += terms["extra"].get("input_tokens", 0)
    return (
        _WANTED.pack(0, limits.usd_micros(cost) if cost else 0, limits.actions_of(terms), tokens, 0)
        + _names(
            terms.get("user", ""),
            terms.get("team", ""),
            terms.get("key", ""),
            terms.get("item", ""),
            terms.get("model", ""),
        )
        + _name(terms.get("op", ""))
    )


def spent(detail: Mapping[str, Any]) -> tuple[int, int]:
    """Cost (micro-USD) and tokens of a hold by the detail of its Commit, -1 for what it does not say."""
    cost, tokens = limits.cost_of(detail), limits.tokens_of(detail)
    return -1 if cost is None else cost, -1 if tokens is None else tokens


# Callers ask for the same users and models again and again.
@functools.lru_cache(maxsize=4096)
def _names(user: str, team: str, key: str, item: str, model: str) -> bytes:
    feature = limits.feature_of({"item": item}) or ""
    return b"".join(_name(name) for name in (user, team, key, feature, model))


def _name(text: str) -> bytes:
    name = text.encode()
    return _SIZE.pack(len(name)) + name


def packed_counter(counter: limits.Counter) -> bytes:
    return struct.pack(f"<{len(counter.used) + 2}d", counter.at, counter.over, *counter.used)


def counter(row: bytes) -> limits.Counter:
    """The counter in a field of the counters' hash."""
    at, over, *used = (int(value) for value in struct.unpack(f"<{len(row) // 8}d", row))
    return limits.Counter(at=at, over=over, used=used)


def defined(text: bytes) -> list[limits.Limit]:
    """The definitions that an account keeps. A period's own name is not kept: its arithmetic is."""
    found: list[limits.Limit] = []
    at = 0
    while at < len(text):
        cap, _length, anchor, subject, metric, kind, _slots, observed, window, size = _HEAD.unpack_from(text, at)
        at += _HEAD.size
        number, at = text[at : at + size - 1], at + size
        value, at = text[at + 1 : at + 1 + text[at]].decode(), at + 1 + text[at]
        name, at = text[at + 1 : at + 1 + text[at]].decode(), at + 1 + text[at]
        is_period = window == limits.Window.PERIOD and metric != limits.Metric.HOLDS
        found.append(
            limits.Limit(
                limit_no=int(number),
                limit_id=name,
                subject=limits.Subject(subject),
                value=value,
                metric=limits.Metric(metric),
                window=limits.Window(window),
                cap=int(cap),
                observe=observed == 1,
                period=limits.period_of(limits.Kind(kind), int(anchor)) if is_period else catalog.CALENDAR_MONTH,
                anchor_ms=int(anchor),
            )
        )
    return found


def uses(text: bytes, rows: Sequence[bytes], *, now_ms: int) -> list[limits.Use]:
    """What counters, each a name and a row, come to by these definitions."""
    by_no = limits.numbered(defined(text))
    found = (limits.use_of(rows[at].decode(), counter(rows[at + 1]), by_no, now_ms) for at in range(0, len(rows), 2))
    return [use for use in found if use is not None]


def exceeded(rows: Sequence[Any]) -> list[limits.Exceeded]:
    """The limits that a denial names."""
    return [
        limits.Exceeded(
            limit_id=name.decode(),
            subject=limits.Subject(subject),
            value=value.decode(),
            metric=limits.Metric(metric),
            window=limits.Window(window),
            cap=cap,
            used=used,
            resets_ms=resets_ms,
        )
        for name, subject, value, metric, window, cap, used, resets_ms in rows
    ]
