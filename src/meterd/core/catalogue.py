"""The catalogue of models: which model a name means, and which of its prices hold at a time for a service tier. Pure.

Names are matched, and dated prices and variants chosen, as the genai-prices package does it, so that its data means the same here.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence

from meterd.core import ratecards

_DAY_MS = 24 * 60 * 60 * 1000

# (operator, text) for equals, starts_with, ends_with, contains and regex; (operator, clauses) for or, and.
Clause = tuple[str, "str | tuple[Clause, ...]"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class When:
    """The time in which a price holds: from and until in ms since 1970, and daily from and until in ms of the UTC day."""

    from_ms: int | None = None
    until_ms: int | None = None
    day_from_ms: int | None = None
    day_until_ms: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Prices that replace those of the same classes for calls with this context, such as (("service_tier", "flex"),)."""

    context: tuple[tuple[str, str], ...]
    when: When | None
    prices: ratecards.Prices


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One of a model's dated price lists."""

    when: When | None
    prices: ratecards.Prices
    variants: tuple[Variant, ...] = ()
    # Price keys of the source that Usage has no counts for, such as "audio_hours".
    not_counted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    id: str
    match: Clause
    # The last one that holds is used, the first one if none does.
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    id: str
    # Whether a provider's name means this one, and whether a model's name alone does.
    match: Clause | None
    model_match: Clause | None
    # Providers whose models this one serves too.
    fallbacks: tuple[str, ...]
    models: tuple[Model, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    provider: Provider
    model: Model
    # False for a model that comes from a fallback provider; its variants do not hold then.
    own: bool


def matches(clause: Clause, text: str) -> bool:
    """Whether `text` satisfies the clause; only a regex minds upper and lower case."""
    operator, value = clause
    if isinstance(value, tuple):
        return (
            any(matches(inner, text) for inner in value)
            if operator == "or"
            else all(matches(inner, text) for inner in value)
        )
    if operator == "regex":
        return re.search(value, text) is not None
    lowered, sought = text.lower(), value.lower()
    if operator == "equals":
        return lowered == sought
    if operator == "starts_with":
        return lowered.startswith(sought)
    if operator == "ends_with":
        return lowered.endswith(sought)
    assert operator == "contains"
    return sought in lowered


def find_provider(providers: Sequence[Provider], name: str) -> Provider | None:
    """The provider that `name` means: its id, or what its match says."""
    sought = name.lower().strip()
    for provider in providers:
        if provider.id == sought:
            return provider
    for provider in providers:
        if provider.match is not None and matches(provider.match, sought):
            return provider
    return None


def provider_of_model(providers: Sequence[Provider], model: str) -> Provider | None:
    """The provider that a model's name alone points to."""
    sought = model.lower()
    for provider in providers:
        if provider.model_match is not None and matches(provider.model_match, sought):
            return provider
    return None


def find(providers: Sequence[Provider], provider_name: str, model_name: str) -> Found | None:
    """The model that the names mean; "" for the provider finds it from the model's name."""
    sought = model_name.lower()
    provider: Provider | None = None
    if provider_name.lower() == "litellm":
        # LiteLLM writes the provider into the model's name.
        head, slash, tail = sought.partition("/")
        provider = find_provider(providers, head) if slash and head else None
        sought = tail if provider is not None else sought
        provider_name = "" if find_provider(providers, provider_name) is None else provider_name
    if provider is None:
        provider = find_provider(providers, provider_name) if provider_name else provider_of_model(providers, sought)
    return None if provider is None else find_model(providers, provider, sought)


def find_model(providers: Sequence[Provider], provider: Provider, model_name: str) -> Found | None:
    """The provider's model of that name, also where only a date in it is written 20251211 instead of 2025-12-11."""
    sought = model_name.lower()
    found = _match_model(providers, provider, sought)
    if found is None:
        dashed = _with_dashed_date(sought)
        found = _match_model(providers, provider, dashed) if dashed != sought else None
    return found


def _match_model(providers: Sequence[Provider], provider: Provider, sought: str) -> Found | None:
    for model in provider.models:
        if matches(model.match, sought):
            return Found(provider=provider, model=model, own=True)
    for fallback_id in provider.fallbacks:
        fallback = next((other for other in providers if other.id == fallback_id), None)
        for model in fallback.models if fallback is not None else ():
            if matches(model.match, sought):
                return Found(provider=provider, model=model, own=False)
    return None


_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def _with_dashed_date(name: str) -> str:
    def dashed(found: re.Match[str]) -> str:
        year, month, day = (int(part) for part in found.groups())
        try:
            return f"-{datetime.date(year, month, day).isoformat()}"
        except ValueError:
            return found.group(0)

    return _COMPACT_DATE.sub(dashed, name)


def holds(when: When | None, at_ms: int) -> bool:
    """Whether a price with this time holds at `at_ms`."""
    if when is None:
        return True
    if when.from_ms is not None and at_ms < when.from_ms:
        return False
    if when.until_ms is not None and at_ms >= when.until_ms:
        return False
    if when.day_from_ms is None or when.day_until_ms is None:
        return True
    day_ms = at_ms % _DAY_MS
    if when.day_until_ms < when.day_from_ms:
        return day_ms >= when.day_from_ms or day_ms < when.day_until_ms
    return when.day_from_ms <= day_ms < when.day_until_ms


def with_context(entry: Entry, context: Mapping[str, str], at_ms: int) -> tuple[int, ...]:
    """Which of the entry's variants hold for the context at `at_ms`, by index."""
    return tuple(
        index
        for index, variant in enumerate(entry.variants)
        if holds(variant.when, at_ms) and all(context.get(key) == value for key, value in variant.context)
    )


def prices_of(entry: Entry, variants: tuple[int, ...]) -> ratecards.Prices:
    """The entry's prices, with those of the variants in place; of two variants with the same class the earlier one counts."""
    replaced: dict[str, ratecards.Price] = {}
    for index in variants:
        for field, price in entry.variants[index].prices.items():
            replaced.setdefault(field, price)
    return {**entry.prices, **replaced}
