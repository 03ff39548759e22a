"""genai-prices -> the bundled price data. Run as `python -m meterd.pricing.compile` when that package is updated.

The data is bundled rather than compiled at start, because importing genai-prices takes 100 MB and a second, and because every server
of an installation must price alike whatever it was installed with. A test holds the bundled files against the installed package.
"""

from __future__ import annotations

import datetime
import gzip
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import genai_prices.types as source
import orjson
from genai_prices import data

from meterd.core import money, ratecards
from meterd.pricing import bundled

# A price with fewer digits was written by a person, and must be exact.
FLOAT_DIGITS_MIN = 15
# Half a femto-dollar per token, at 0.04 USD per million tokens.
ERROR_MAX = Decimal("1.25e-8")

# The destinations of genai-prices' extractors that Usage has a count for.
_COUNTED = {
    "output_reasoning_tokens": "reasoning_tokens",
    "output_citation_tokens": "citation_tokens",
} | {
    unit.field: unit.field for unit in ratecards.CLASSES if unit.field not in ("reasoning_tokens", "citation_tokens", "requests")
}  # fmt: skip


def providers() -> list[dict[str, Any]]:
    """The catalogue of genai-prices as it stands in a price book. ValueError if a price is finer than a femto-dollar per unit."""
    return [_provider(provider) for provider in data.providers]


def extractors() -> list[dict[str, Any]]:
    """Where each provider's responses have the usage, by flavor; flavors without any count of Usage are left out."""
    return [_extractors(provider) for provider in data.providers]


def _provider(provider: source.Provider) -> dict[str, Any]:
    return {
        "id": provider.id,
        "match": _clause(provider.provider_match),
        "model_match": _clause(provider.model_match),
        "fallbacks": list(provider.fallback_model_providers or ()),
        "models": [_model(provider.id, model) for model in provider.models],
    }


def _model(provider_id: str, model: source.ModelInfo) -> dict[str, Any]:
    name = f"{provider_id}/{model.id}"
    if isinstance(model.prices, source.ModelPrice):
        entries = [_entry(name, model, model.prices, None)]
    else:
        entries = [_entry(name, model, price.prices, price.constraint) for price in model.prices]
    compiled: dict[str, Any] = {"id": model.id, "match": _clause(model.match), "prices": entries}
    variants = [
        _timed({"context": dict(variant.when), "prices": _prices(name, variant.prices)[0]}, variant.constraint)
        for variant in model.price_variants or ()
    ]
    if variants:
        compiled["variants"] = variants
    return compiled


def _entry(
    name: str,
    model: source.ModelInfo,
    price: source.ModelPrice,
    constraint: source.StartDateConstraint | source.TimeOfDateConstraint | None,
) -> dict[str, Any]:
    prices, not_counted = _prices(name, price)
    if not prices and not not_counted and model.id.endswith(":free"):
        # The only models without prices that are known to be free; others are merely not known.
        prices = {"input_tokens": 0, "output_tokens": 0}
    ratecards.compiled(dict.fromkeys(prices, 0))
    entry: dict[str, Any] = {"prices": prices}
    if not_counted:
        entry["not_counted"] = not_counted
    return _timed(entry, constraint)


def _timed(
    value: dict[str, Any], constraint: source.StartDateConstraint | source.TimeOfDateConstraint | None
) -> dict[str, Any]:
    if isinstance(constraint, source.StartDateConstraint):
        start = datetime.datetime.combine(constraint.start_date, datetime.time(), tzinfo=datetime.UTC)
        value["when"] = {"from_ms": int(start.timestamp()) * 1000}
    elif constraint is not None:
        value["when"] = {"day_from_ms": _day_ms(constraint.start_time), "day_until_ms": _day_ms(constraint.end_time)}
    return value


def _day_ms(value: datetime.time) -> int:
    """Milliseconds since the start of the UTC day; times without a zone are UTC."""
    utc = datetime.datetime.combine(datetime.date(2000, 1, 2), value, tzinfo=value.tzinfo or datetime.UTC)
    utc = utc.astimezone(datetime.UTC)
    return ((utc.hour * 60 + utc.minute) * 60 + utc.second) * 1000 + utc.microsecond // 1000


def _prices(name: str, price: source.ModelPrice) -> tuple[dict[str, Any], list[str]]:
    """Femtos by field of Usage, and the price keys that Usage has no count for."""
    prices: dict[str, Any] = {}
    not_counted: list[str] = []
    values: Mapping[str, Decimal | source.TieredPrices | None] = vars(price)
    for key, value in values.items():
        unit = ratecards.BY_PRICE_KEY.get(key)
        if value is None:
            continue
        if unit is None:
            not_counted.append(key)
        elif isinstance(value, source.TieredPrices):
            steps = [[tier.start, _femtos(name, unit, tier.price)] for tier in value.tiers]
            prices[unit.field] = [_femtos(name, unit, value.base), *steps]
        else:
            prices[unit.field] = _femtos(name, unit, value)
    return prices, sorted(not_counted)


def _femtos(name: str, unit: ratecards.UnitClass, price: Decimal) -> int:
    exact = money.femtos_per_unit(price, unit.per)
    femtos = money.nearest_femtos_per_unit(price, unit.per) if exact is None else exact
    # Some published prices are results of float arithmetic (0.18000000000000002, 0.0833333333333333), and these alone are rounded.
    error = abs(Decimal(femtos * unit.per).scaleb(-15) - price)
    if femtos < 0 or (exact is None and (len(price.as_tuple().digits) < FLOAT_DIGITS_MIN or error > price * ERROR_MAX)):
        raise ValueError(f"{name}: {unit.price_key} {price} is not a whole number of femto-dollars per unit")
    return femtos


def _clause(clause: Any) -> list[Any] | None:
    if clause is None:
        return None
    [(name, value)] = vars(clause).items()
    if isinstance(value, list):
        return [name.rstrip("_"), [_clause(inner) for inner in value]]
    return [name, value]


def _extractors(provider: source.Provider) -> dict[str, Any]:
    flavors: list[dict[str, Any]] = []
    for extractor in provider.extractors or ():
        mappings = [
            {"path": _path(mapping.path), "field": _COUNTED[mapping.dest], "required": mapping.required}
            for mapping in extractor.mappings
            if mapping.dest in _COUNTED
        ]
        if mappings:
            flavors.append(
                {
                    "name": extractor.api_flavor,
                    "root": _path(extractor.root),
                    "model": _path(extractor.model_path),
                    "mappings": mappings,
                }
            )
    return {
        "id": provider.id,
        "match": _clause(provider.provider_match),
        "model_match": _clause(provider.model_match),
        "flavors": flavors,
    }


def _path(path: source.ExtractPath) -> list[Any]:
    """Keys, or [field, text] for the list's first item whose field equals the text."""
    steps = [path] if isinstance(path, str) else path
    compiled: list[Any] = []
    for step in steps:
        if isinstance(step, str):
            compiled.append(step)
            continue
        operator, text = _clause(step.match) or ["", ""]
        assert operator == "equals", step
        compiled.append([step.field, text])
    return compiled


def main() -> None:
    for name, content in ((bundled.PROVIDERS, providers()), (bundled.EXTRACTORS, extractors())):
        # mtime 0: equal content makes equal files.
        packed = gzip.compress(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), compresslevel=9, mtime=0)
        bundled.path(name).write_bytes(packed)
        print(f"{name}: {len(packed)} bytes")


if __name__ == "__main__":
    main()
