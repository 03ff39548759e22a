"""Limits on their way to and from the scripts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from meterd.core import catalog, limits

# As LIMIT in limits.lua, up to the id and the value.
_HEAD = struct.Struct("<dddd7B")


def packed(defined: Sequence[limits.Limit]) -> bytes:
    """Definitions as the account keeps them."""
    parts: list[bytes] = []
    for limit in defined:
        shape, name, value = limit.shape(), limit.limit_id.encode(), limit.value.encode()
        head = (limit.limit_no, limit.cap, shape.length_ms, shape.anchor_ms)
        kinds = (limit.subject, limit.metric, shape.kind, shape.slots, int(limit.observe), limit.window)
        parts.append(_HEAD.pack(*head, *kinds, len(name)) + name + bytes((len(value),)) + value)
    return b"".join(parts)


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
        number, cap, _length, anchor, subject, metric, kind, _slots, observed, window, size = _HEAD.unpack_from(
            text, at
        )
        at += _HEAD.size
        name, at = text[at : at + size].decode(), at + size
        value, at = text[at + 1 : at + 1 + text[at]].decode(), at + 1 + text[at]
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
