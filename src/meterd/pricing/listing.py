"""Price books in words: what one charges for a model, and what differs between two."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping

from meterd.core import catalogue, money, pricing, ratecards


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A price of a model: USD and credits (margin included) for `per` units, decimal strings."""

    usage_class: str
    above_input_tokens: int
    per: int
    usd: str
    credits: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A price or setting that two books have differently; "" where one has none."""

    item: str
    name: str
    before: str
    after: str


def rows(book: pricing.PriceBook, provider: str, model: str, service_tier: str, at_ms: int) -> list[Row]:
    """What the book charges for a model at a time, dearest band last. Errors as pricing.quote_model."""
    found = pricing.resolve(book, provider, model)
    card = pricing.card_at(found, service_tier, at_ms)
    listed: list[Row] = []
    for band in reversed(card.bands):
        for unit in ratecards.CLASSES:
            if unit.field not in band.prices:
                continue
            femtos = band.prices[unit.field] * unit.per
            micros = femtos * found.basis.numerator
            listed.append(
                Row(
                    usage_class=unit.name,
                    above_input_tokens=max(0, band.above_tokens),
                    per=unit.per,
                    usd=money.usd_string(femtos),
                    credits=money.ratio_string(micros, found.basis.denominator * money.MICROS_PER_CREDIT),
                )
            )
    return listed


def changes(before: pricing.PriceBook, after: pricing.PriceBook) -> list[Change]:
    """What differs, by item and name."""
    old, new = dict(_facts(before)), dict(_facts(after))
    both = ((key, old.get(key, ""), new.get(key, "")) for key in sorted(old.keys() | new.keys()))
    return [
        Change(item=item, name=name, before=value, after=other) for (item, name), value, other in both if value != other
    ]


def _facts(book: pricing.PriceBook) -> Iterator[tuple[tuple[str, str], str]]:
    """All that affects a price, as (item, name) and value."""
    yield ("book", "credit_value_usd"), book.credit_value_usd
    yield ("book", "unknown_model.policy"), book.unknown_policy
    yield from (((("book", f"unknown_model.{name}")), value) for name, value in _prices(book.unknown_prices))
    yield ("margin", "default"), book.margins.default
    by_kind = (("provider", book.margins.providers), ("model", book.margins.models), ("feature", book.margins.features))
    for kind, margins in by_kind:
        yield from ((("margin", f"{kind} {key}"), margin) for key, margin in margins.items())
    for key, features in book.features.items():
        for feature in features:
            time = when_text(feature.when)
            yield (f"feature:{key}", f"credits{time}"), money.decimal_string(feature.price_micros, 6)
            yield (f"feature:{key}", f"active{time}"), str(feature.active).lower()
            yield (f"feature:{key}", f"wallet{time}"), feature.wallet
            yield (f"feature:{key}", f"category{time}"), feature.category
    for key, rates in book.rates.items():
        for rate in rates:
            time = when_text(rate.when)
            yield (f"rate:{key}", f"credits{time}"), money.decimal_string(rate.price_scaled, pricing.RATE_DECIMALS + 6)
            yield (f"rate:{key}", f"fractional{time}"), str(rate.fractional).lower()
            yield (f"rate:{key}", f"unit{time}"), rate.unit
            yield (f"rate:{key}", f"category{time}"), rate.category
    for (provider, name), override in book.overrides.items():
        if provider:
            yield from _entries(f"model:{provider}/{name}", "own ", override.entries)
    for provider in book.providers:
        for model in provider.models:
            yield from _entries(f"model:{provider.id}/{model.id}", "", model.entries)


def _entries(item: str, prefix: str, entries: tuple[catalogue.Entry, ...]) -> Iterator[tuple[tuple[str, str], str]]:
    for entry in entries:
        time = when_text(entry.when)
        yield from (((item, f"{prefix}{name}{time}"), value) for name, value in _prices(entry.prices))
        for variant in entry.variants:
            context = ", ".join(f"{key}={value}" for key, value in variant.context)
            named = f" [{context}]{time}{when_text(variant.when)}"
            yield from (((item, f"{prefix}{name}{named}"), value) for name, value in _prices(variant.prices))


def _prices(prices: ratecards.Prices) -> Iterator[tuple[str, str]]:
    for field, price in prices.items():
        unit = ratecards.BY_FIELD[field]
        if isinstance(price, int):
            yield unit.price_key, money.usd_string(price * unit.per)
            continue
        steps = "".join(f", {money.usd_string(femtos * unit.per)} above {start}" for start, femtos in price.steps)
        yield unit.price_key, money.usd_string(price.base_femtos * unit.per) + steps


def when_text(when: catalogue.When | None) -> str:
    """A price's time in words, with a leading space; "" for always."""
    if when is None:
        return ""
    text = "" if when.from_ms is None else f" from {_time(when.from_ms)}"
    text += "" if when.until_ms is None else f" until {_time(when.until_ms)}"
    if when.day_from_ms is not None and when.day_until_ms is not None:
        text += f" daily {_clock(when.day_from_ms)}-{_clock(when.day_until_ms)} UTC"
    return text


def _time(at_ms: int) -> str:
    at = datetime.datetime.fromtimestamp(at_ms // 1000, datetime.UTC)
    return at.date().isoformat() if at_ms % 86_400_000 == 0 else at.isoformat().replace("+00:00", "Z")


def _clock(day_ms: int) -> str:
    minutes = day_ms // 60_000
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def counts(book: pricing.PriceBook) -> Mapping[str, int]:
    """How much is in the book."""
    return {
        "models": sum(len(provider.models) for provider in book.providers),
        "own_models": len({(override.provider, override.model) for override in book.overrides.values()}),
        "features": len(book.features),
        "rates": len(book.rates),
    }
