"""The price book as JSON: what is stored with every version, and what a book is built from.

Everything that affects a price is in it, and nothing else, so that the hash of its canonical form is the version.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from meterd.core import catalog, catalogue, errors, pricing, ratecards

# Raised when the same content would be priced in another way.
FORMAT = 1
VERSION_CHARS = 12

Document = dict[str, Any]


def canonical(document: Mapping[str, Any]) -> bytes:
    """The document as bytes that are equal for equal documents."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def version_of(content: bytes) -> str:
    """The version that names this content."""
    return hashlib.blake2b(content, digest_size=VERSION_CHARS // 2).hexdigest()


def built(document: Document) -> pricing.PriceBook:
    """The book that a document describes; FailedPreconditionError if it was written in another format."""
    if document.get("format") != FORMAT:
        raise errors.FailedPreconditionError(f"price book: format {document.get('format')!r}, expected {FORMAT}")
    content = canonical(document)
    margins, unknown = document["margins"], document["unknown_model"]
    return pricing.PriceBook(
        version=version_of(content),
        content=content,
        credit_value_femtos=document["credit_value_femtos"],
        margins=pricing.Margins(
            default=margins["default"],
            providers=margins["providers"],
            models=margins["models"],
            features=margins["features"],
        ),
        unknown_policy=unknown["policy"],
        unknown_prices=_prices(unknown["prices"]),
        features={key: tuple(_feature(value) for value in values) for key, values in document["features"].items()},
        rates={key: tuple(_rate(value) for value in values) for key, values in document["rates"].items()},
        overrides=_overrides(document["models"]),
        providers=providers(document["providers"]),
    )


def layer(sold: catalog.Catalog, base: pricing.PriceBook) -> Document | None:
    """What a tenant's catalog changes of `base`, for `layered`; None if that is nothing."""
    margins = sold.margins
    if not (sold.credit_value_femtos or margins or sold.features or sold.rates):
        return None
    return {
        "format": FORMAT,
        "base": base.version,
        # As in a whole book: the value that counts.
        "credit_value_femtos": sold.credit_value_femtos or base.credit_value_femtos,
        "margins": dataclasses.asdict(margins) if margins is not None else None,
        "features": {
            item.feature_id: [
                {
                    "price_micros": item.amount_micros,
                    "wallet": item.wallet,
                    "category": item.category,
                    "active": item.active,
                }
            ]
            for item in sold.features
        },
        "rates": {
            item.rate_id: [
                {
                    "price_scaled": item.unit_price_scaled,
                    "unit": item.unit,
                    "category": "",
                    "fractional": item.fractional,
                    "wallet": item.wallet,
                    "active": item.active,
                }
            ]
            for item in sold.rates
        },
    }


def layered(document: Mapping[str, Any], base: pricing.PriceBook) -> pricing.PriceBook:
    """The book of a layer on its base, whose tables of models it shares."""
    assert document["base"] == base.version
    content = canonical(document)
    margins = document["margins"]
    features = {key: tuple(_feature(value) for value in values) for key, values in document["features"].items()}
    rates = {key: tuple(_rate(value) for value in values) for key, values in document["rates"].items()}
    return dataclasses.replace(
        base,
        version=version_of(content),
        content=content,
        base=base.version,
        credit_value_femtos=document["credit_value_femtos"],
        margins=pricing.Margins(**margins) if margins is not None else base.margins,
        features={**base.features, **features},
        rates={**base.rates, **rates},
        resolved={},
    )


def providers(values: list[Document]) -> tuple[catalogue.Provider, ...]:
    """The catalogue in the bundled data; without models where the values have none."""
    return tuple(_provider(value) for value in values)


def _overrides(values: list[Document]) -> dict[tuple[str, str], pricing.Override]:
    """By provider and each name; by the name alone where only the first of several providers has it."""
    found: dict[tuple[str, str], pricing.Override] = {}
    for value in values:
        override = pricing.Override(
            provider=value["provider"],
            model=value["model"],
            aliases=tuple(value["aliases"]),
            entries=tuple(_entry(entry, ()) for entry in value["prices"]),
        )
        for name in (override.model, *override.aliases):
            found[override.provider.lower(), name.lower()] = override
            found.setdefault(("", name.lower()), override)
    return found


def _provider(value: Document) -> catalogue.Provider:
    return catalogue.Provider(
        id=value["id"],
        match=_clause(value["match"]),
        model_match=_clause(value["model_match"]),
        fallbacks=tuple(value.get("fallbacks", ())),
        models=tuple(_model(model) for model in value.get("models", ())),
    )


def _model(value: Document) -> catalogue.Model:
    match = _clause(value["match"])
    assert match is not None
    variants = tuple(_variant(variant) for variant in value.get("variants", ()))
    return catalogue.Model(
        id=value["id"], match=match, entries=tuple(_entry(entry, variants) for entry in value["prices"])
    )


def _entry(value: Document, variants: tuple[catalogue.Variant, ...]) -> catalogue.Entry:
    own = tuple(_variant(variant) for variant in value.get("variants", ()))
    return catalogue.Entry(
        when=_when(value.get("when")),
        prices=_prices(value["prices"]),
        variants=own or variants,
        not_counted=tuple(value.get("not_counted", ())),
    )


def _variant(value: Document) -> catalogue.Variant:
    context: dict[str, str] = value["context"]
    return catalogue.Variant(
        context=tuple(context.items()), when=_when(value.get("when")), prices=_prices(value["prices"])
    )


def _when(value: Document | None) -> catalogue.When | None:
    return catalogue.When(**value) if value else None


def _prices(value: Document) -> ratecards.Prices:
    return {field: _price(price) for field, price in value.items()}


def _price(value: int | list[Any]) -> ratecards.Price:
    if isinstance(value, int):
        return value
    return ratecards.Tiered(base_femtos=value[0], steps=tuple((start, femtos) for start, femtos in value[1:]))


def _clause(value: list[Any] | None) -> catalogue.Clause | None:
    if value is None:
        return None
    operator, inner = value
    if isinstance(inner, str):
        return operator, inner
    clauses = (_clause(clause) for clause in inner)
    return operator, tuple(clause for clause in clauses if clause is not None)


def _feature(value: Document) -> pricing.Feature:
    return pricing.Feature(
        when=_when(value.get("when")),
        price_micros=value["price_micros"],
        wallet=value["wallet"],
        category=value["category"],
        active=value["active"],
    )


def _rate(value: Document) -> pricing.Rate:
    return pricing.Rate(
        when=_when(value.get("when")),
        price_scaled=value["price_scaled"],
        unit=value["unit"],
        category=value["category"],
        fractional=value["fractional"],
        wallet=value.get("wallet", ""),
        active=value.get("active", True),
    )
