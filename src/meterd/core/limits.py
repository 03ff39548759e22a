"""Limits: caps on what a subject may use in a window. Pure; the scripts in redis/lua do the same sums.

A limit counts from the moment at which it is set. Its counter is a row of whole numbers, which stays as it is until it is written again:
what of it still counts follows from the time.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from meterd.core import catalog, periods

# Each limit that applies costs some microseconds inside Redis.
LIMITS_PER_ACCOUNT_MAX = 32
# Of a catalog. They come besides the account's own.
LIMITS_PER_CATALOG_MAX = 16
CAP_MAX = 2**53 - 1
# An operation is remembered for this long after the last of its holds would have expired.
OPERATION_MEMORY_MS = 60 * 60 * 1000

_MINUTE_MS = 60 * 1000
_HOUR_MS = 60 * _MINUTE_MS


class Subject(enum.IntEnum):
    """Whom a limit counts; the numbers are those of the proto enum LimitSubject."""

    ACCOUNT = 1
    USER = 2
    TEAM = 3
    KEY = 4
    FEATURE = 5
    MODEL = 6


class Metric(enum.IntEnum):
    """What a limit counts: micro-credits, micro-USD, actions, tokens in and out, open holds. Numbers as in the proto enum LimitMetric."""

    CREDITS = 1
    COST = 2
    ACTIONS = 3
    TOKENS = 4
    HOLDS = 5


class Window(enum.IntEnum):
    """How long a limit counts; numbers as in the proto enum LimitWindow. Fixed windows are those of UTC; a rolling month has 30 days."""

    MINUTE = 1
    HOUR = 2
    DAY = 3
    MONTH = 4
    ROLLING_MINUTE = 5
    ROLLING_HOUR = 6
    ROLLING_DAY = 7
    ROLLING_MONTH = 8
    PERIOD = 9
    LIFETIME = 10
    OPERATION = 11


def word(value: Subject | Metric | Window) -> str:
    """Its name as people write it, such as "open-holds" and "rolling-day"."""
    return "open-holds" if value is Metric.HOLDS else value.name.lower().replace("_", "-")


def scope(subject: Subject, value: str) -> str:
    """Whom a counter counts, such as "user:alice"; "account" for the whole of it."""
    return f"{word(subject)}:{value}" if value else word(subject)


SUBJECTS = {word(subject): subject for subject in Subject}
METRICS = {word(metric): metric for metric in Metric}
WINDOWS = {word(window): window for window in Window}


class Kind(enum.IntEnum):
    """How a window is reckoned."""

    FIXED = 1
    MONTHS = 2
    ROLLING = 3
    LIFETIME = 4
    OPERATION = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A window's arithmetic. FIXED: `length_ms` from `anchor_ms` on, again and again. MONTHS: the anchor's day and time in each month.

    ROLLING: the last `length_ms`, in `slots` equal parts and the one that has just begun, so that nothing is let go of too early.
    """

    kind: Kind
    length_ms: int = 0
    anchor_ms: int = 0
    slots: int = 0


_SHAPES = {
    Window.MINUTE: Shape(kind=Kind.FIXED, length_ms=_MINUTE_MS),
    Window.HOUR: Shape(kind=Kind.FIXED, length_ms=_HOUR_MS),
    Window.DAY: Shape(kind=Kind.FIXED, length_ms=periods.DAY_MS),
    Window.MONTH: Shape(kind=Kind.MONTHS),
    Window.ROLLING_MINUTE: Shape(kind=Kind.ROLLING, length_ms=_MINUTE_MS, slots=12),
    Window.ROLLING_HOUR: Shape(kind=Kind.ROLLING, length_ms=_HOUR_MS, slots=12),
    Window.ROLLING_DAY: Shape(kind=Kind.ROLLING, length_ms=periods.DAY_MS, slots=24),
    Window.ROLLING_MONTH: Shape(kind=Kind.ROLLING, length_ms=periods.DAYS_30_MS, slots=30),
    Window.LIFETIME: Shape(kind=Kind.LIFETIME),
    Window.OPERATION: Shape(kind=Kind.OPERATION),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A cap in the metric's unit. `value` "" gives each value of the subject a counter of its own; ACCOUNT has none.

    `limit_no` names the counters: another one is another count. `observe` counts what would be denied, and denies nothing.
    """

    limit_no: int
    limit_id: str
    subject: Subject
    value: str
    metric: Metric
    window: Window
    cap: int
    observe: bool = False
    # For PERIOD: the plan's period, in core.catalog's words, and where it is counted from (0 for calendar months).
    period: str = catalog.CALENDAR_MONTH
    anchor_ms: int = 0

    def shape(self) -> Shape:
        if self.metric == Metric.HOLDS:
            return _SHAPES[Window.LIFETIME]
        if self.window != Window.PERIOD:
            return _SHAPES[self.window]
        if self.period == catalog.DAYS_30:
            return Shape(kind=Kind.FIXED, length_ms=periods.DAYS_30_MS, anchor_ms=self.anchor_ms)
        is_billing = self.period == catalog.BILLING_MONTH
        return Shape(kind=Kind.MONTHS, anchor_ms=self.anchor_ms if is_billing else 0)

    def field(self, value: str, operation: str = "") -> str:
        """The name of the counter."""
        return field_of(self.limit_no, value, operation)


@dataclasses.dataclass(kw_only=True, slots=True)
class Counter:
    """What was used in the window that begins `at_ms`. ROLLING: `at` is the number of a slot, and `used` has that slot and those before.

    OPERATION: `at` is the time until which it is remembered. `over` counts calls that an observing limit would have denied.
    """

    at: int
    over: int
    used: list[int]

    def total(self) -> int:
        return sum(self.used)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exceeded:
    """A limit that has no room. `resets_ms` is when it will have, or when its window ends; 0: not by itself."""

    limit_id: str
    subject: Subject
    value: str
    metric: Metric
    window: Window
    cap: int
    used: int
    resets_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """A counter as it stands now."""

    limit_no: int
    value: str
    used: int
    over: int
    resets_ms: int
    operation: str = ""

    @property
    def field(self) -> str:
        return field_of(self.limit_no, self.value, self.operation)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A counter by its name, as it is put into Redis."""

    field: str
    counter: Counter


# Amounts by metric; a metric that is missing is not concerned.
Measure = Mapping[Metric, int]


def field_of(limit_no: int, value: str, operation: str = "") -> str:
    """The name of a counter. Ids have no control characters, so that no two names meet."""
    return f"{limit_no}:{value}\0{operation}" if operation else f"{limit_no}:{value}"


def use_key(use: Use) -> tuple[int, str, str]:
    """Sorts by limit, value and operation."""
    return use.limit_no, use.value, use.operation


@functools.lru_cache(maxsize=1024)
def _calendar_month(day: int) -> tuple[int, int]:
    """Start and end of the month of a day, counted from 1970."""
    found = periods.span(catalog.CALENDAR_MONTH, day * periods.DAY_MS, 1)
    return found.start_ms, found.end_ms


def months_window(anchor_ms: int, now_ms: int) -> tuple[int, int]:
    """Start and end of the month that `now_ms` lies in, counted from the anchor's day and time."""
    if anchor_ms == 0:
        return _calendar_month(now_ms // periods.DAY_MS)
    # From far back, so that a moment before the anchor has its own month too.
    months = (now_ms - anchor_ms) // (31 * periods.DAY_MS)
    start, months = periods.add_months(anchor_ms, months), months
    while start > now_ms:
        months -= 1
        start = periods.add_months(anchor_ms, months)
    while (end := periods.add_months(anchor_ms, months + 1)) <= now_ms:
        months += 1
        start = end
    return start, end


def window_at(shape: Shape, now_ms: int) -> tuple[int, int]:
    """What `at` of a counter is now, and when the window ends (ms; 0 for windows that end bit by bit, or never)."""
    match shape.kind:
        case Kind.FIXED:
            start = shape.anchor_ms + (now_ms - shape.anchor_ms) // shape.length_ms * shape.length_ms
            return start, start + shape.length_ms
        case Kind.MONTHS:
            return months_window(shape.anchor_ms, now_ms)
        case Kind.ROLLING:
            return now_ms // slot_ms(shape), 0
        case _:
            return 0, 0


def slot_ms(shape: Shape) -> int:
    return shape.length_ms // shape.slots


def current(counter: Counter | None, shape: Shape, now_ms: int) -> Counter:
    """The counter as it counts now: a new one where its window has turned. A clock that went back changes nothing."""
    at, _ = window_at(shape, now_ms)
    if shape.kind == Kind.OPERATION:
        if counter is None or counter.at <= now_ms:
            return Counter(at=0, over=0, used=[0])
        return dataclasses.replace(counter, used=list(counter.used))
    empty = Counter(at=at, over=0, used=[0] * (shape.slots + 1))
    if counter is None or counter.at < at - shape.slots or (shape.slots == 0 and counter.at < at):
        return empty
    moved = max(0, at - counter.at)
    used = ([0] * moved + counter.used)[: shape.slots + 1]
    return Counter(at=max(at, counter.at), over=counter.over, used=used)


def is_stale(counter: Counter, limit: Limit, now_ms: int) -> bool:
    """Whether the counter says no more than a missing one."""
    shape = limit.shape()
    if limit.metric == Metric.HOLDS:
        return counter.total() == 0
    if shape.kind == Kind.OPERATION:
        return counter.at <= now_ms
    return counter.at < window_at(shape, now_ms)[0] - shape.slots


def resets_ms(counter: Counter, shape: Shape, now_ms: int, surplus: int) -> int:
    """When `surplus` of what was used will count no more; 0 if time alone does not bring that about."""
    if shape.kind != Kind.ROLLING:
        return window_at(shape, now_ms)[1]
    freed = 0
    for back in range(shape.slots, 0, -1):
        freed += counter.used[back]
        if freed >= surplus:
            return (counter.at - back + shape.slots + 1) * slot_ms(shape)
    return (counter.at + shape.slots + 1) * slot_ms(shape)


def usd_micros(usd: str) -> int:
    """An exact USD amount (decimal string) in micro-USD, rounded up."""
    whole, _, part = usd.partition(".")
    return int(whole) * 1_000_000 + int(part[:6].ljust(6, "0")) + (part[6:].strip("0") != "")


def decoded(packed: bytes) -> dict[str, Any]:
    """Terms or detail; nothing is an empty object."""
    return orjson.loads(packed) if packed else {}


def feature_of(terms: Mapping[str, Any]) -> str | None:
    item: str = terms.get("item", "")
    return item.removeprefix("feature:") if item.startswith("feature:") else None


def values_of(terms: Mapping[str, Any]) -> dict[Subject, str | None]:
    """The subjects of a call; None where it names none."""
    return {
        Subject.ACCOUNT: "",
        Subject.USER: terms.get("user"),
        Subject.TEAM: terms.get("team"),
        Subject.KEY: terms.get("key"),
        Subject.FEATURE: feature_of(terms),
        Subject.MODEL: terms.get("model"),
    }


def cost_of(detail: Mapping[str, Any]) -> int | None:
    """Micro-USD; None if the detail does not say."""
    return usd_micros(detail["cost"]) if "cost" in detail else None


def tokens_of(detail: Mapping[str, Any]) -> int | None:
    """Tokens in and out; None if the detail does not say."""
    usage = detail.get("usage")
    return None if usage is None else usage.get("input_tokens", 0) + usage.get("output_tokens", 0)


def actions_of(terms: Mapping[str, Any]) -> int:
    """The actions of a feature, 1 for everything else."""
    return int(terms["qty"]) if feature_of(terms) is not None and "qty" in terms else 1


def measured(
    terms: Mapping[str, Any], detail: Mapping[str, Any], credits_micros: int, *, holds: int, share: float = 1
) -> dict[Metric, int]:
    """What a call uses: by its detail where that says so, otherwise as its terms estimate it.

    A `share` below 1 is what is left of a call that was charged in part before.
    """
    cost, tokens = cost_of(detail), tokens_of(detail)
    if cost is None:
        cost = usd_micros(terms.get("cost", "0"))
    if tokens is None:
        tokens = terms.get("in", 0) + terms.get("out", 0) + terms.get("extra", {}).get("input_tokens", 0)
    return {
        Metric.CREDITS: credits_micros,
        Metric.COST: math.ceil(cost * share),
        Metric.ACTIONS: actions_of(terms) if share == 1 else 0,
        Metric.TOKENS: math.ceil(tokens * share),
        Metric.HOLDS: holds,
    }


def share_of(already_micros: int, charged_micros: int) -> float:
    """The part of a late settlement that its expiry has not charged."""
    return charged_micros / (already_micros + charged_micros) if already_micros else 1


def is_concerned(limit: Limit, kind: Kind, terms: Mapping[str, Any], amount: int | None) -> bool:
    """Whether a call that uses `amount` is counted. What a model costs may turn out only at the end."""
    if kind == Kind.OPERATION:
        return True
    return amount is not None and (amount > 0 or ("model" in terms and limit.metric in (Metric.COST, Metric.TOKENS)))


def use_of(field: str, counter: Counter, by_no: Mapping[int, Limit], now_ms: int) -> Use | None:
    """What the counter of that name comes to now; None if its limit is gone, or it counts nothing."""
    number, _, rest = field.partition(":")
    limit = by_no.get(int(number))
    if limit is None or is_stale(counter, limit, now_ms):
        return None
    value, _, operation = rest.partition("\0")
    shape = limit.shape()
    now = current(counter, shape, now_ms)
    resets = resets_ms(now, shape, now_ms, now.total())
    return Use(
        limit_no=limit.limit_no, value=value, used=now.total(), over=now.over, resets_ms=resets, operation=operation
    )


def period_of(kind: Kind, anchor_ms: int) -> str:
    """The plan's period with that arithmetic."""
    if kind == Kind.FIXED:
        return catalog.DAYS_30
    return catalog.BILLING_MONTH if anchor_ms else catalog.CALENDAR_MONTH


def numbered(limits: Sequence[Limit]) -> dict[int, Limit]:
    return {limit.limit_no: limit for limit in limits}
