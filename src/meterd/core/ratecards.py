"""Rate cards: what one model charges per unit of each class, as integers.

Prices are whole femto-dollars (1e-15 USD) per unit. Classes nest (cached input is input), and a unit is billed at the price of its
most specific class that has one. That makes the cost linear in the counts, so a card keeps one coefficient per class.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence

from meterd.core import errors, usage


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UnitClass:
    """A billable class: `field` of Usage, the word on a bill, the key in price files and the units that its price is for."""

    field: str
    name: str
    price_key: str
    per: int
    dimensions: frozenset[tuple[str, str]]


def _unit(field: str, name: str, price_key: str, per: int, **dimensions: str) -> UnitClass:
    return UnitClass(field=field, name=name, price_key=price_key, per=per, dimensions=frozenset(dimensions.items()))


_M, _K = 1_000_000, 1_000

# A class includes another if its dimensions are a subset of the other's.
CLASSES: Sequence[UnitClass] = (
    _unit("input_tokens", "input", "input_mtok", _M, way="in"),
    _unit("cache_read_tokens", "cache_read", "cache_read_mtok", _M, way="in", kind="cache_read"),
    _unit("cache_write_tokens", "cache_write", "cache_write_mtok", _M, way="in", kind="cache_write"),
    _unit("cache_write_1h_tokens", "cache_write_1h", "cache_write_1h_mtok", _M, way="in", kind="cache_write", ttl="1h"),
    _unit("input_audio_tokens", "input_audio", "input_audio_mtok", _M, way="in", modality="audio"),
    _unit("cache_audio_read_tokens", "cache_audio_read", "cache_audio_read_mtok", _M, way="in", modality="audio", kind="cache_read"),
    _unit("input_image_tokens", "input_image", "input_image_mtok", _M, way="in", modality="image"),
    _unit("cache_image_read_tokens", "cache_image_read", "cache_image_read_mtok", _M, way="in", modality="image", kind="cache_read"),
    _unit("input_video_tokens", "input_video", "input_video_mtok", _M, way="in", modality="video"),
    _unit("output_tokens", "output", "output_mtok", _M, way="out"),
    _unit("reasoning_tokens", "reasoning", "output_reasoning_mtok", _M, way="out", kind="reasoning"),
    _unit("citation_tokens", "citation", "output_citation_mtok", _M, way="out", kind="citation"),
    _unit("output_audio_tokens", "output_audio", "output_audio_mtok", _M, way="out", modality="audio"),
    _unit("output_image_tokens", "output_image", "output_image_mtok", _M, way="out", modality="image"),
    _unit("output_video_tokens", "output_video", "output_video_mtok", _M, way="out", modality="video"),
    _unit("web_searches", "web_search", "web_searches_kcount", _K, tool="web_search"),
    _unit("storage_searches", "storage_search", "storage_searches_kcount", _K, tool="storage_search"),
    _unit("requests", "request", "requests_kcount", _K, each="request"),
)  # fmt: skip

BY_FIELD = {unit.field: unit for unit in CLASSES}
BY_PRICE_KEY = {unit.price_key: unit for unit in CLASSES}
_BY_DIMENSIONS = {unit.dimensions: unit for unit in CLASSES}
_REQUESTS = "requests"
_TOTALS = ("input_tokens", "output_tokens")

# (count, field) × factor, summed: a count without the classes inside it, or a part of a cost.
Form = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tiered:
    """A price that changes for all units once a call's total input is above a number of tokens."""

    base_femtos: int
    # (above this many input tokens, femtos), ascending.
    steps: tuple[tuple[int, int], ...]


Price = int | Tiered
Prices = Mapping[str, Price]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """The prices of calls whose total input is above `above_tokens`."""

    above_tokens: int
    # Coefficients of the two counts that every call has, of the others, and the price of each request.
    input_femtos: int
    output_femtos: int
    others: tuple[tuple[Callable[[usage.Usage], int], int], ...]
    request_femtos: int
    # Femtos per unit by field, as published.
    prices: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RateCard:
    # Highest first; the last is above −1.
    bands: tuple[Band, ...]
    # What is billed of each priced class: its count without the priced classes inside it.
    leaves: tuple[tuple[UnitClass, Form], ...]


# A class's share of a cost: its name on a bill, the quantity, and femtos per unit.
Part = tuple[str, int, int]


def compiled(prices: Prices) -> RateCard:
    """The card for these prices by field. ValueError says which price is missing for the nesting of classes to be decidable."""
    _check_nesting(prices)
    forms = _leaf_forms(prices)
    leaves = tuple((BY_FIELD[field], tuple(sorted(form.items()))) for field, form in forms.items())
    starts = sorted({step[0] for price in prices.values() if isinstance(price, Tiered) for step in price.steps})
    bands = tuple(_band(above, prices, forms) for above in reversed([-1, *starts]))
    return RateCard(bands=bands, leaves=leaves)


def band_of(card: RateCard, input_tokens: int) -> Band:
    """The band that a call with this total input is billed by."""
    for band in card.bands:
        if input_tokens > band.above_tokens:
            return band
    raise AssertionError("the last band is above -1")


def cost_femtos(card: RateCard, counts: usage.Usage) -> int:
    """Exact cost of the counts. InvalidArgumentError if classes overlap in more units than there are."""
    band = card.bands[0] if len(card.bands) == 1 else band_of(card, counts.input_tokens)
    cost = counts.input_tokens * band.input_femtos + counts.output_tokens * band.output_femtos
    nested = False
    for count_of, coefficient in band.others:
        count = count_of(counts)
        if count:
            cost += count * coefficient
            nested = True
    if nested:
        for unit, form in card.leaves:
            if len(form) > 1 and _value(form, counts) < 0:
                raise errors.InvalidArgumentError(f"usage.{unit.field}", "less than the classes that it includes")
    if band.request_femtos:
        cost += (counts.requests or 1) * band.request_femtos
    return cost


def parts(card: RateCard, counts: usage.Usage) -> list[Part]:
    """The cost by class; classes without units are left out. The sum of quantity × price is the cost."""
    band = band_of(card, counts.input_tokens)
    found: list[Part] = []
    for unit, form in card.leaves:
        quantity = _value(form, counts)
        if quantity:
            found.append((unit.name, quantity, band.prices[unit.field]))
    if band.request_femtos:
        found.append((BY_FIELD[_REQUESTS].name, counts.requests or 1, band.request_femtos))
    return found


def _value(form: Form, counts: usage.Usage) -> int:
    value, given = 0, counts.__dict__
    for field, factor in form:
        if field in given:
            value += given[field] * factor
    return value


def _check_nesting(prices: Prices) -> None:
    priced = [BY_FIELD[field] for field in prices]
    for unit in priced:
        for other in CLASSES:
            if other.dimensions < unit.dimensions and other.field not in prices:
                raise ValueError(f"{unit.price_key} needs {other.price_key}, which includes it")
    for index, first in enumerate(priced):
        for second in priced[index + 1 :]:
            union = first.dimensions | second.dimensions
            keys = [key for key, _ in union]
            if len(set(keys)) < len(keys) or union in (first.dimensions, second.dimensions) or not _meet(first, second):
                continue
            both = _BY_DIMENSIONS.get(union)
            if both is None:
                raise ValueError(
                    f"{first.price_key} and {second.price_key} cannot both be priced: what is in both is not counted"
                )
            if both.field not in prices:
                raise ValueError(f"{first.price_key} and {second.price_key} need {both.price_key}, which is in both")


def _meet(first: UnitClass, second: UnitClass) -> bool:
    """Whether a unit can be in both classes: only tokens of one direction can."""
    ways = {value for unit in (first, second) for key, value in unit.dimensions if key == "way"}
    return len(ways) == 1 and all(any(key == "way" for key, _ in unit.dimensions) for unit in (first, second))


def _leaf_forms(prices: Prices) -> dict[str, dict[str, int]]:
    """For each priced class, its count less what is billed by priced classes inside it."""
    units = [BY_FIELD[field] for field in prices if field != _REQUESTS]
    units.sort(key=lambda unit: (-len(unit.dimensions), unit.field))
    forms: dict[str, dict[str, int]] = {}
    for unit in units:
        form = {unit.field: 1}
        for inner in units:
            if unit.dimensions < inner.dimensions:
                for field, factor in forms[inner.field].items():
                    form[field] = form.get(field, 0) - factor
        forms[unit.field] = {field: factor for field, factor in form.items() if factor}
    # In the order of CLASSES, which is the order on a bill.
    return {unit.field: forms[unit.field] for unit in CLASSES if unit.field in forms}


def _at(price: Price, above_tokens: int) -> int:
    """The price for an input just above `above_tokens`."""
    if isinstance(price, int):
        return price
    femtos = price.base_femtos
    for start, step_femtos in price.steps:
        if above_tokens >= start:
            femtos = step_femtos
    return femtos


def _band(above: int, prices: Prices, forms: Mapping[str, Mapping[str, int]]) -> Band:
    unit_femtos = {field: _at(price, above) for field, price in prices.items()}
    coefficients: dict[str, int] = {}
    for field, form in forms.items():
        for counted, factor in form.items():
            coefficients[counted] = coefficients.get(counted, 0) + factor * unit_femtos[field]
    # A class that costs what its total costs has coefficient 0, but still has to fit into its total: it stays for the check.
    others = [(field, coefficient) for field, coefficient in coefficients.items() if field not in _TOTALS]
    return Band(
        above_tokens=above,
        input_femtos=coefficients.get("input_tokens", 0),
        output_femtos=coefficients.get("output_tokens", 0),
        others=tuple((operator.attrgetter(field), coefficient) for field, coefficient in others),
        request_femtos=unit_femtos.get(_REQUESTS, 0),
        prices=unit_femtos,
    )
