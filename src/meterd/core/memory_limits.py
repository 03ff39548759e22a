"""The limits of one account in memory, as the oracle of what the scripts do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meterd.core import limits, money

_ALWAYS = frozenset((limits.Kind.FIXED, limits.Kind.MONTHS, limits.Kind.LIFETIME))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a hold remembers of a counter that it was counted in."""

    field: str
    at: int
    amount: int
    metric: limits.Metric
    kind: limits.Kind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a call comes to: the limits without room, and the counters and entries if it is made."""

    exceeded: Sequence[limits.Exceeded] = ()
    counters: Mapping[str, limits.Counter] = dataclasses.field(default_factory=dict[str, limits.Counter])
    entries: Sequence[Entry] = ()


@dataclasses.dataclass(kw_only=True, slots=True)
class Limits:
    """Definitions, and counters by name."""

    defined: Sequence[limits.Limit] = ()
    counters: dict[str, limits.Counter] = dataclasses.field(default_factory=dict[str, limits.Counter])

    def define(self, defined: Sequence[limits.Limit] | None) -> None:
        """Sets the definitions (None: as they are). Counters without a limit go; those of a limit that stays stay."""
        if defined is None:
            return
        self.defined = tuple(defined)
        if not defined:
            self.counters.clear()

    def look(
        self, terms: Mapping[str, Any], want: limits.Measure, now_ms: int, until_ms: int, *, is_extension: bool = False
    ) -> Outcome:
        """What a call that wants that much comes to; changes nothing."""
        exceeded: list[limits.Exceeded] = []
        counters: dict[str, limits.Counter] = {}
        entries: list[Entry] = []
        for limit in self.defined:
            value, shape, amount = limits.values_of(terms)[limit.subject], limit.shape(), want.get(limit.metric)
            if value is None or limit.value not in ("", value):
                continue
            if not limits.is_concerned(limit, shape.kind, terms, amount):
                continue
            amount = amount or 0
            operation = terms.get("op", "") if shape.kind == limits.Kind.OPERATION else ""
            field = limit.field(value, operation)
            counter = limits.current(self.counters.get(field), shape, now_ms)
            if shape.kind == limits.Kind.OPERATION and not operation:
                counter = limits.current(None, shape, now_ms)
            used = counter.total()
            if amount > 0 and used + amount > limit.cap:
                if limit.observe:
                    counter.over += 1
                else:
                    exceeded.append(_exceeded(limit, value, counter, shape, now_ms, used + amount - limit.cap))
            if shape.kind == limits.Kind.OPERATION:
                if not operation:
                    continue
                counter.at = max(counter.at, until_ms)
            counter.used[0] = min(money.AMOUNT_MAX_MICROS, counter.used[0] + amount)
            counters[field] = counter
            if amount > 0 or not is_extension:
                at = 0 if shape.kind == limits.Kind.OPERATION else counter.at
                entries.append(Entry(field=field, at=at, amount=amount, metric=limit.metric, kind=shape.kind))
        return Outcome(exceeded=exceeded, counters=counters, entries=entries)

    def settle(self, entries: Iterable[Entry], held: int, charged: int | None, detail: Mapping[str, Any]) -> None:
        """Ends what a hold of `held` was counted as; `charged` None: it ends without a trace."""
        left: dict[str, int] = {}
        for entry in reversed(list(entries)):
            part = _change(entry, held, charged, detail, left)
            counter = self.counters.get(entry.field)
            if counter is None:
                continue
            place = None
            if entry.kind == limits.Kind.OPERATION or (entry.kind in _ALWAYS and counter.at == entry.at):
                place = 0
            elif entry.kind == limits.Kind.ROLLING and 0 <= counter.at - entry.at < len(counter.used):
                place = counter.at - entry.at
            if place is not None:
                counter.used[place] = max(0, min(money.AMOUNT_MAX_MICROS, counter.used[place] + part))

    def uses(self, now_ms: int) -> list[limits.Use]:
        """All counters that count something, by limit and value."""
        by_no = limits.numbered(self.defined)
        found = (limits.use_of(field, counter, by_no, now_ms) for field, counter in self.counters.items())
        return sorted((use for use in found if use is not None), key=limits.use_key)


def _exceeded(
    limit: limits.Limit, value: str, counter: limits.Counter, shape: limits.Shape, now_ms: int, surplus: int
) -> limits.Exceeded:
    return limits.Exceeded(
        limit_id=limit.limit_id,
        subject=limit.subject,
        value=value,
        metric=limit.metric,
        window=limit.window,
        cap=limit.cap,
        used=counter.total(),
        resets_ms=limits.resets_ms(counter, shape, now_ms, surplus),
    )


def _change(entry: Entry, held: int, charged: int | None, detail: Mapping[str, Any], left: dict[str, int]) -> int:
    """By how much the entry's counter changes; `left` is what of a change in credits the later entries have not taken, by counter."""
    if charged is None or entry.metric == limits.Metric.HOLDS:
        return -entry.amount
    if entry.metric == limits.Metric.CREDITS:
        left.setdefault(entry.field, charged - held)
        part = max(left[entry.field], -entry.amount)
        left[entry.field] -= part
        return part
    actual = None
    if entry.metric == limits.Metric.COST:
        actual = limits.cost_of(detail)
    elif entry.metric == limits.Metric.TOKENS:
        actual = limits.tokens_of(detail)
    return 0 if actual is None else actual - entry.amount
