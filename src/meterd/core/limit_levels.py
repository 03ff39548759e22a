"""When limits are told of: what the ledger's records used of them, and which levels that reached. Pure.

The hot path counts open holds too, and denies by that; told is of what was settled, when its record is in the ledger. So the same records
tell the same, whatever Redis lost in between. Limits on open holds are not told of: a Reserve has no record.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meterd.core import events, limits, money

# An operation's settlements may come this long after its last one, and are then counted anew.
_OPERATION_MS = limits.OPERATION_MEMORY_MS

Key = tuple[int, str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """A record that used something: a Commit, a Charge, or an expiry that charged.

    `already_micros` is what the expiry of a hold that was committed late had charged.
    """

    kind: str
    at_ms: int
    charged_micros: int
    terms: Mapping[str, Any]
    detail: Mapping[str, Any]
    already_micros: int = 0

    @property
    def counts_at_ms(self) -> int:
        """When it counts: what was held counts where it was reserved."""
        return self.terms.get("at", self.at_ms) if self.kind in ("C", "E") else self.at_ms


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A limit's use by one value, in a counter as in core.limits (`over` is 0).

    `told` is the highest level (percent) of `cap` that was told since the use was below it; 0: none. From `same_from_ms` until
    `same_until_ms` (exclusive) uses belong to the same part of the window; so much is known of a level from the first step on.
    """

    counter: limits.Counter
    cap: int
    told: int
    same_from_ms: int = 0
    same_until_ms: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """A level that a record reached. `window_ms` is the window's start, of a rolling one that of its last part; `resets_ms` 0: never."""

    limit: limits.Limit
    value: str
    operation: str
    kind: events.Type
    percent: int
    used: int
    window_ms: int
    resets_ms: int

    @property
    def scope(self) -> str:
        """As a denial names it, such as "user:alice"."""
        return limits.scope(self.limit.subject, self.value)


def counted(defined: Sequence[limits.Limit], record: Settled) -> Iterator[tuple[limits.Limit, Key, int]]:
    """The limits that a record counts for, with the key of its level and the amount in the metric's unit."""
    share = limits.share_of(record.already_micros, record.charged_micros)
    amounts = limits.measured(record.terms, record.detail, record.charged_micros, holds=0, share=share)
    values = limits.values_of(record.terms)
    for limit in defined:
        value, amount = values[limit.subject], amounts[limit.metric]
        if value is None or limit.value not in ("", value) or amount <= 0:
            continue
        operation = ""
        if limit.shape().kind == limits.Kind.OPERATION:
            operation = record.terms.get("op", "")
            if not operation:
                continue
        yield limit, (limit.limit_no, value, operation), amount


def step(
    level: Level | None, limit: limits.Limit, key: Key, amount: int, at_ms: int
) -> tuple[Level, Sequence[Crossing]]:
    """The level after `amount` more, used at that time, and what it reached. What belongs to a window that has turned changes nothing."""
    if level is not None and level.cap == limit.cap and level.same_from_ms <= at_ms < level.same_until_ms:
        return _added(level, limit, key, 0, amount, at_ms)
    shape = limit.shape()
    if level is not None and _is_past(level.counter, shape, at_ms):
        return level, ()
    at, ends_ms = limits.window_at(shape, at_ms)
    counter = limits.current(level.counter if level is not None else None, shape, at_ms)
    told = level.told if level is not None and level.cap == limit.cap else 0
    same_from_ms, same_until_ms, place = at, ends_ms, 0
    if shape.kind == limits.Kind.ROLLING:
        # What it has let go of may be reached again.
        told = min(told, _reached(counter.total(), limit.cap))
        length_ms, place = limits.slot_ms(shape), counter.at - at
        same_from_ms, same_until_ms = counter.at * length_ms, (counter.at + 1) * length_ms
    elif level is not None and counter.at != level.counter.at:
        told = 0
    if shape.kind == limits.Kind.OPERATION:
        counter.at = max(counter.at, at_ms + _OPERATION_MS)
    fresh = Level(counter=counter, cap=limit.cap, told=told, same_from_ms=same_from_ms, same_until_ms=same_until_ms)
    return _added(fresh, limit, key, place, amount, at_ms)


def _added(
    level: Level, limit: limits.Limit, key: Key, place: int, amount: int, at_ms: int
) -> tuple[Level, Sequence[Crossing]]:
    """The level, as it stands at that time, with `amount` more in a part of its window."""
    used = list(level.counter.used)
    used[place] = min(money.AMOUNT_MAX_MICROS, used[place] + amount)
    counter = limits.Counter(at=level.counter.at, over=0, used=used)
    reached = _reached(sum(used), limit.cap)
    after = Level(
        counter=counter,
        cap=level.cap,
        told=max(level.told, reached),
        same_from_ms=level.same_from_ms,
        same_until_ms=level.same_until_ms,
    )
    if reached <= level.told:
        return after, ()
    return after, _crossings(limit, key, counter, level.told, reached, at_ms)


def _is_past(counter: limits.Counter, shape: limits.Shape, at_ms: int) -> bool:
    """Whether the time lies before the counter's window."""
    if shape.kind == limits.Kind.ROLLING:
        return limits.window_at(shape, at_ms)[0] < counter.at - shape.slots
    return shape.kind != limits.Kind.OPERATION and at_ms < counter.at


def _reached(used: int, cap: int) -> int:
    """The highest level (percent) that the use has reached; 0: none."""
    reached = 0
    for percent, _ in events.LIMIT_LEVELS:
        if used * 100 >= percent * cap and used > 0:
            reached = percent
    return reached


def _crossings(
    limit: limits.Limit, key: Key, counter: limits.Counter, told: int, reached: int, at_ms: int
) -> Sequence[Crossing]:
    shape, used = limit.shape(), counter.total()
    is_rolling = shape.kind == limits.Kind.ROLLING
    return [
        Crossing(
            limit=limit,
            value=key[1],
            operation=key[2],
            kind=kind,
            percent=percent,
            used=used,
            window_ms=counter.at * limits.slot_ms(shape) if is_rolling else limits.window_at(shape, at_ms)[0],
            resets_ms=limits.resets_ms(counter, shape, at_ms, used),
        )
        for percent, kind in events.LIMIT_LEVELS
        if told < percent <= reached
    ]


def draft(
    crossing: Crossing, *, tenant_id: str, account_no: int, account_id: str, transaction_id: str, at_ms: int
) -> events.Draft:
    """The event of a crossing. Once in a turn of the window for each subject and amount, and of a rolling one in each of its parts."""
    limit = crossing.limit
    payload: dict[str, Any] = {
        "limit_id": limit.limit_id,
        "subject": crossing.scope,
        "metric": limits.word(limit.metric),
        "window": limits.word(limit.window),
        "used": crossing.used,
        "max": limit.cap,
        "percent": crossing.percent,
        "observe": limit.observe,
        "resets_ms": crossing.resets_ms,
        "transaction_id": transaction_id,
    }
    if crossing.operation:
        payload["operation_id"] = crossing.operation
    return events.Draft(
        tenant_id=tenant_id,
        account_no=account_no,
        account_id=account_id,
        type=crossing.kind,
        subject=limit.limit_id,
        once=json.dumps([limit.limit_no, crossing.value, crossing.operation, crossing.window_ms, limit.cap]),
        payload=payload,
        at_ms=at_ms,
    )


def ends_ms(level: Level, limit: limits.Limit) -> int:
    """From when on the level counts no more (ms); 0: never."""
    shape, at = limit.shape(), level.counter.at
    match shape.kind:
        case limits.Kind.LIFETIME:
            return 0
        case limits.Kind.OPERATION:
            return at
        case limits.Kind.ROLLING:
            return (at + shape.slots + 1) * limits.slot_ms(shape)
        case _:
            return limits.window_at(shape, at)[1]
