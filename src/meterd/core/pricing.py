"""Prices: from usage, actions and quantities to exact costs and amounts. Pure and integer.

A quote is exact until its last step: cost in whole femto-dollars × margin ÷ value of a credit, rounded up once by money.charge_micros.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from meterd.core import catalogue, errors, ids, money, ratecards, usage, values

# Model names come from callers: the memo of names must stay bounded, and a full one is simply begun anew.
RESOLVED_MAX = 10_000
# Decimals of a quantity, and of a rate's price in micro-credits.
QUANTITY_DECIMALS = 9
RATE_DECIMALS = 9
# Features are charged in whole actions; more in one call is a mistake.
ACTIONS_MAX = 10**9
SERVICE_TIER_CHARS_MAX = 64

DENY, FALLBACK_RATE, QUARANTINE = "deny", "fallback_rate", "quarantine"

_QUANTITY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?\Z")
_TIER = re.compile(r"[A-Za-z0-9 _./:,=-]*\Z")
# What a tier is called in the price data, where that is not {"service_tier": name}.
_TIERS: Mapping[str, Mapping[str, str]] = {
    "batch": {"service_tier": "batch", "processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
}


# Unlike costs, prices are the same for many calls.
price_string = functools.lru_cache(maxsize=4096)(money.usd_string)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A fixed price per action, in a time."""

    when: catalogue.When | None
    price_micros: int
    wallet: str = ""
    category: str = ""
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A price per unit, in a time. `price_scaled` is in 1e-9 micro-credits."""

    when: catalogue.When | None
    price_scaled: int
    unit: str = ""
    category: str = ""
    # Whether a part of a unit can be charged.
    fractional: bool = True
    wallet: str = ""
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """Prices of the operator for one model. They come after the catalogue's: where they hold, they replace them whole."""

    provider: str
    model: str
    aliases: tuple[str, ...]
    entries: tuple[catalogue.Entry, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Margins:
    """Factors on costs, as decimal strings; the most specific one counts. Models as "provider/model"."""

    default: str = "1"
    providers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    models: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    # On the price of a feature.
    features: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What quotes of the same item in the same book share."""

    # "model:openai/gpt-4o-mini", "feature:KEY" or "rate:KEY".
    item: str
    # The factor on the price, as a decimal string.
    margin: str
    price_version: str
    credit_value_femtos: int
    # Exact micro-credits are numerator ÷ denominator × the cost in femto-dollars; for features and rates numerator is 1.
    numerator: int
    denominator: int
    # An unknown model, priced at the ceiling rate that the operator set for these.
    quarantined: bool = False
    # What a feature or rate is paid from unless a call says otherwise; "" for none of its own.
    wallet: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a pair of names means in a book. Made once per pair, so `cards` fills as dates and tiers are asked for."""

    basis: Basis
    entries: tuple[catalogue.Entry, ...]
    # Whether the first entry holds where none else does; false for prices of the operator alone.
    first_holds: bool
    # The card of all times without a tier, where there is only one.
    card: ratecards.RateCard | None
    cards: dict[tuple[int, tuple[int, ...]], ratecards.RateCard]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PriceBook:
    """All prices of a version. Immutable but for the memo of resolved names."""

    # Hash of `content`, at most 16 characters.
    version: str
    # What the book is made of, as canonical JSON; see pricing.books.dump.
    content: bytes
    # The version of the book on which a tenant's prices are laid; "" for a whole book.
    base: str = ""
    credit_value_femtos: int
    margins: Margins
    unknown_policy: str
    unknown_prices: ratecards.Prices
    features: Mapping[str, tuple[Feature, ...]]
    rates: Mapping[str, tuple[Rate, ...]]
    overrides: Mapping[tuple[str, str], Override]
    providers: tuple[catalogue.Provider, ...]
    # None for names without a price.
    resolved: dict[tuple[str, str], Resolved | None] = dataclasses.field(
        default_factory=dict[tuple[str, str], Resolved | None], compare=False, repr=False
    )

    @property
    def credit_value_usd(self) -> str:
        return money.usd_string(self.credit_value_femtos)


@values.value
class Line:
    """One line of a bill. unit_price is in USD for models, in credits for features and rates; cost_femtos is None for these."""

    usage_class: str
    quantity: str
    unit_price: str
    cost_femtos: int | None


@values.value
class Quote:
    """A price. amount_micros is exact_numerator ÷ basis.denominator rounded up; cost_femtos is None for features and rates."""

    amount_micros: int
    cost_femtos: int | None
    exact_numerator: int
    basis: Basis
    card: ratecards.RateCard | None = None
    counts: usage.Usage | None = None
    line: Line | None = None

    @property
    def item(self) -> str:
        return self.basis.item

    @property
    def margin(self) -> str:
        return self.basis.margin

    @property
    def price_version(self) -> str:
        return self.basis.price_version

    @property
    def quarantined(self) -> bool:
        return self.basis.quarantined

    @property
    def wallet(self) -> str:
        return self.basis.wallet

    @property
    def credit_value_usd(self) -> str:
        """USD per credit, as a decimal string."""
        return price_string(self.basis.credit_value_femtos)

    def exact_string(self) -> str:
        """The amount before rounding, in micro-credits as a decimal string ("n/d" where that has no end)."""
        return money.ratio_string(self.exact_numerator, self.basis.denominator)


def quote_model(
    book: PriceBook, provider: str, model: str, counts: usage.Usage, service_tier: str, at_ms: int
) -> Quote:
    """The price of a model call at `at_ms`. "" for the provider finds it from the model's name, "" for the tier is standard.

    NotFoundError for a model without prices (policy DENY), InvalidArgumentError for counts that contradict each other,
    OutOfRangeError above 2^53 − 1 micro-credits.
    """
    found = book.resolved.get((provider, model)) or _resolve(book, provider, model)
    card = found.card if found.card is not None and not service_tier else card_at(found, service_tier, at_ms)
    cost_femtos = ratecards.cost_femtos(card, counts)
    basis = found.basis
    exact_numerator = cost_femtos * basis.numerator
    return Quote(
        amount_micros=money.charge_micros(exact_numerator, basis.denominator),
        cost_femtos=cost_femtos,
        exact_numerator=exact_numerator,
        basis=basis,
        card=card,
        counts=counts,
    )


def affordable_output_tokens(
    book: PriceBook, provider: str, model: str, base: usage.Usage, service_tier: str, at_ms: int, budget_micros: int
) -> int:
    """The most output tokens in total that a call with the counts of `base` may have for `budget_micros`; at most 10^12.

    `base.output_tokens` does not matter, the output classes of `base` do: below what they need, the answer is 0. Exact:
    quote_model with that many costs at most the budget, and with one more it costs more.
    """
    found = book.resolved.get((provider, model)) or _resolve(book, provider, model)
    card = found.card if found.card is not None and not service_tier else card_at(found, service_tier, at_ms)
    least = usage.output_tokens_min(base)
    # By the linear form, the cost without output tokens is right even where their classes need some.
    floor_femtos = ratecards.cost_femtos(card, usage.with_counts(base, output_tokens=least))
    band = ratecards.band_of(card, base.input_tokens)
    fixed_femtos = floor_femtos - least * band.output_femtos
    basis = found.basis
    if floor_femtos * basis.numerator > budget_micros * basis.denominator:
        return 0
    if band.output_femtos == 0:
        return usage.COUNT_MAX
    covered = money.covered_units(budget_micros, basis.numerator, basis.denominator, fixed_femtos, band.output_femtos)
    return min(covered, usage.COUNT_MAX)


def quote_feature(book: PriceBook, key: str, quantity: int, at_ms: int) -> Quote:
    """The price of `quantity` actions. NotFoundError for a feature that is unknown, not active or without a price at that time."""
    feature = _in_force(book.features.get(key), "feature", key, at_ms)
    if not feature.active:
        raise errors.NotFoundError(f"feature: {key} is not active")
    if not 1 <= quantity <= ACTIONS_MAX:
        raise errors.InvalidArgumentError("feature.quantity", f"must be from 1 to {ACTIONS_MAX}")
    price = money.decimal_string(feature.price_micros, 6)
    line = Line(usage_class="feature", quantity=str(quantity), unit_price=price, cost_femtos=None)
    numerator, denominator = feature_price(book, key, feature.price_micros)
    margin = _feature_margin(book, key)
    return _fixed(book, f"feature:{key}", margin, feature.wallet, numerator * quantity, denominator, line)


def feature_price(book: PriceBook, key: str, price_micros: int) -> tuple[int, int]:
    """What an action at this price is charged with the margin of the feature: exact micro-credits as numerator and denominator."""
    factor, divisor = margin_ratio(_feature_margin(book, key))
    return price_micros * factor, divisor


def _feature_margin(book: PriceBook, key: str) -> str:
    return book.margins.features.get(key, "1")


def quote_rate(book: PriceBook, key: str, quantity: str, at_ms: int) -> Quote:
    """The price of `quantity` units, a decimal string greater than 0 with at most 9 decimals. NotFoundError as for features."""
    rate = _in_force(book.rates.get(key), "rate", key, at_ms)
    if not rate.active:
        raise errors.NotFoundError(f"rate: {key} is not active")
    scaled = checked_quantity(quantity)
    if not rate.fractional and scaled % 10**QUANTITY_DECIMALS:
        raise errors.InvalidArgumentError("rate.quantity", f"{key} is charged in whole units")
    price = money.decimal_string(rate.price_scaled, RATE_DECIMALS + 6)
    units = money.decimal_string(scaled, QUANTITY_DECIMALS)
    line = Line(usage_class="rate", quantity=units, unit_price=price, cost_femtos=None)
    denominator = 10 ** (RATE_DECIMALS + QUANTITY_DECIMALS)
    return _fixed(book, f"rate:{key}", "1", rate.wallet, rate.price_scaled * scaled, denominator, line)


def _fixed(book: PriceBook, item: str, margin: str, wallet: str, numerator: int, denominator: int, line: Line) -> Quote:
    basis = Basis(
        item=item,
        margin=margin,
        price_version=book.version,
        credit_value_femtos=book.credit_value_femtos,
        numerator=1,
        denominator=denominator,
        wallet=wallet,
    )
    return Quote(
        amount_micros=money.charge_micros(numerator, denominator),
        cost_femtos=None,
        exact_numerator=numerator,
        basis=basis,
        line=line,
    )


def explain(quote: Quote) -> Sequence[Line]:
    """The quote's lines. Those of a model sum up to its cost."""
    if quote.line is not None:
        return (quote.line,)
    if quote.card is None or quote.counts is None:
        return ()
    return [
        Line(
            usage_class=name,
            quantity=str(quantity),
            unit_price=price_string(unit_femtos),
            cost_femtos=quantity * unit_femtos,
        )
        for name, quantity, unit_femtos in ratecards.parts(quote.card, quote.counts)
    ]


def checked_quantity(quantity: str, field: str = "rate.quantity") -> int:
    """A decimal string greater than 0 as a whole number of 1e-9 units."""
    found = _QUANTITY.match(quantity)
    if found is None:
        raise errors.InvalidArgumentError(
            field, f"must be a decimal number with at most 15 digits before and {QUANTITY_DECIMALS} after the point"
        )
    scaled = int(found[1]) * 10**QUANTITY_DECIMALS + int((found[2] or "").ljust(QUANTITY_DECIMALS, "0"))
    if scaled == 0:
        raise errors.InvalidArgumentError(field, "must be greater than 0")
    return scaled


@functools.lru_cache(maxsize=1024)
def margin_ratio(margin: str) -> tuple[int, int]:
    """A decimal string as an exact numerator and denominator."""
    whole, _, part = margin.partition(".")
    return int(whole + part), 10 ** len(part)


def resolve(book: PriceBook, provider: str, model: str) -> Resolved:
    """What the names mean in the book; NotFoundError for a model without prices (policy DENY)."""
    return book.resolved.get((provider, model)) or _resolve(book, provider, model)


def card_at(found: Resolved, service_tier: str, at_ms: int) -> ratecards.RateCard:
    """The prices in force at `at_ms` for the tier; NotFoundError if there are none."""
    index = len(found.entries) - 1
    while index >= 0 and not catalogue.holds(found.entries[index].when, at_ms):
        index -= 1
    if index < 0 and found.first_holds:
        index = 0
    if index < 0 or not found.entries[index].prices:
        raise errors.NotFoundError(
            f"model: {found.basis.item.removeprefix('model:')} has no price in force at that time"
        )
    entry = found.entries[index]
    variants = catalogue.with_context(entry, _context(service_tier), at_ms) if service_tier else ()
    card = found.cards.get((index, variants))
    if card is None:
        card = ratecards.compiled(catalogue.prices_of(entry, variants))
        found.cards[index, variants] = card
    return card


@functools.lru_cache(maxsize=1024)
def _context(service_tier: str) -> Mapping[str, str]:
    """The context that a tier's name stands for; "key=value,key=value" is a context itself."""
    if len(service_tier) > SERVICE_TIER_CHARS_MAX or not _TIER.match(service_tier):
        raise errors.InvalidArgumentError(
            "service_tier", f"must be at most {SERVICE_TIER_CHARS_MAX} letters, digits and _ . / : , = -"
        )
    if "=" in service_tier:
        pairs = (part.partition("=") for part in service_tier.split(","))
        return {key.strip(): value.strip() for key, _, value in pairs}
    name = service_tier.strip().lower()
    return _TIERS.get(name) or {"service_tier": name}


_PricedT = TypeVar("_PricedT", Feature, Rate)


def _in_force(prices: tuple[_PricedT, ...] | None, kind: str, key: str, at_ms: int) -> _PricedT:
    """The last of the prices that holds."""
    if prices is None:
        raise errors.NotFoundError(f"{kind}: no {kind} {ids.checked_id(key, kind)!r} in the price book")
    for price in reversed(prices):
        if catalogue.holds(price.when, at_ms):
            return price
    raise errors.NotFoundError(f"{kind}: {key} has no price in force at that time")


def _resolve(book: PriceBook, provider: str, model: str) -> Resolved:
    ids.checked_text(provider, "provider", ids.ID_BYTES_MAX)
    ids.checked_id(model, "model")
    names = (provider, model)
    found = None
    if names not in book.resolved:
        found = _known(book, provider, model) or _unknown(book, provider, model)
        if len(book.resolved) >= RESOLVED_MAX:
            book.resolved.clear()
        book.resolved[names] = found
    if found is None:
        named = f"{provider}/{model}" if provider else model
        raise errors.NotFoundError(f"model: no price for {named!r} in the price book")
    return found


def _known(book: PriceBook, provider: str, model: str) -> Resolved | None:
    """What the operator's prices and the catalogue say about a model; None if neither has a price for it."""
    base = catalogue.find(book.providers, provider, model)
    if base is not None and not any(entry.prices for entry in base.model.entries):
        base = None
    override = _override(book, provider, model, base)
    if base is not None:
        provider_id, model_id = base.provider.id, base.model.id
        entries = base.model.entries
        if not base.own:
            entries = tuple(dataclasses.replace(entry, variants=()) for entry in entries)
    elif override is not None:
        provider_id, model_id, entries = override.provider, override.model, ()
    else:
        return None
    if override is not None:
        entries += override.entries
    margin = _margin(book.margins, provider_id, model_id)
    item = f"model:{provider_id}/{model_id}"
    return _resolved(book, item, margin, entries, first_holds=base is not None)


def _override(book: PriceBook, provider: str, model: str, base: catalogue.Found | None) -> Override | None:
    if not book.overrides:
        return None
    if base is not None:
        names = ((base.provider.id, model.lower()), (base.provider.id, base.model.id.lower()))
    else:
        known = catalogue.find_provider(book.providers, provider) if provider else None
        names = ((provider.lower().strip(), model.lower()), (known.id if known else provider, model.lower()))
    return next((book.overrides[name] for name in names if name in book.overrides), None)


def _unknown(book: PriceBook, provider: str, model: str) -> Resolved | None:
    """The stand-in for a model without prices; None for policy DENY."""
    if book.unknown_policy == DENY:
        return None
    entries = (catalogue.Entry(when=None, prices=book.unknown_prices),)
    item = f"model:{provider}/{model}" if provider else f"model:{model}"
    margin = _margin(book.margins, provider, model)
    quarantined = book.unknown_policy == QUARANTINE
    return _resolved(book, item, margin, entries, first_holds=True, quarantined=quarantined)


def _resolved(
    book: PriceBook,
    item: str,
    margin: str,
    entries: tuple[catalogue.Entry, ...],
    *,
    first_holds: bool,
    quarantined: bool = False,
) -> Resolved:
    factor, divisor = margin_ratio(margin)
    numerator, denominator = factor * money.MICROS_PER_CREDIT, divisor * book.credit_value_femtos
    common = math.gcd(numerator, denominator)
    timeless = len(entries) == 1 and entries[0].when is None and bool(entries[0].prices)
    basis = Basis(
        item=item,
        margin=margin,
        price_version=book.version,
        credit_value_femtos=book.credit_value_femtos,
        numerator=numerator // common,
        denominator=denominator // common,
        quarantined=quarantined,
    )
    return Resolved(
        basis=basis,
        entries=entries,
        first_holds=first_holds,
        card=ratecards.compiled(entries[0].prices) if timeless else None,
        cards={},
    )


def _margin(margins: Margins, provider: str, model: str) -> str:
    provider = provider.lower()
    by_model = margins.models.get(f"{provider}/{model.lower()}")
    return by_model or margins.providers.get(provider) or margins.default
