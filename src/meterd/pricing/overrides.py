"""The operator's price file: YAML with credit value, margins, models, features and rates. docs/PRICES.md describes it.

Scalars are read as the text that stands in the file, so no number ever passes through a float.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from meterd.core import money, pricing, ratecards
from meterd.pricing import yaml_file

PRICE_KEYS = tuple(unit.price_key for unit in ratecards.CLASSES)
_POLICIES = (pricing.DENY, pricing.FALLBACK_RATE, pricing.QUARANTINE)


def parsed(text: str, source: str = "prices") -> dict[str, Any]:
    """The file as the operator's part of a price book (see pricing.document). An empty text is all defaults.

    yaml_file.FileError names what is wrong and where.
    """
    return _Reader(source).book(yaml_file.composed(text, source))


class _Reader(yaml_file.Reader):
    def book(self, root: yaml.Node | None) -> dict[str, Any]:
        fields = {} if root is None or yaml_file.is_null(root) else self._fields(root, "", _BOOK_FIELDS)
        margins = self._optional(fields, "margins", "", self._margins)
        unknown = self._optional(fields, "unknown_model", "", self._unknown)
        return {
            "credit_value_femtos": self._optional(fields, "credit_value_usd", "", self._credit_value) or 10**12,
            "margins": margins or {"default": "1", "providers": {}, "models": {}, "features": {}},
            "unknown_model": unknown or {"policy": pricing.DENY, "prices": {}},
            "models": self._optional(fields, "models", "", self._models) or [],
            "features": self._optional(fields, "features", "", self._features) or {},
            "rates": self._optional(fields, "rates", "", self._rates) or {},
        }

    # ---- sections

    def _unknown(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("policy", "prices"))
        policy = self._choice(*self._required(fields, "policy", node, place), _POLICIES)
        prices = self._optional(fields, "prices", place, lambda inner, at: self._prices(inner, at)[0])
        if policy != pricing.DENY and not prices:
            raise self._error(node, place, f"{policy} needs prices")
        if prices and not any(prices.values()):
            raise self._error(node, f"{place}.prices", "all prices are 0: an unknown model must not be free")
        return {"policy": policy, "prices": prices or {}}

    def _models(self, node: yaml_file.Node, place: str) -> list[dict[str, Any]]:
        seen: dict[tuple[str, str], str] = {}
        found: list[dict[str, Any]] = []
        for index, item in enumerate(self._items(node, place)):
            at = f"{place}[{index}]"
            fields = self._fields(item, at, ("provider", "model", "aliases", "prices"))
            provider = self._text(*self._required(fields, "provider", item, at))
            model = self._text(*self._required(fields, "model", item, at))
            aliases = self._optional(fields, "aliases", at, self._texts) or []
            entries = self._dated(*self._required(fields, "prices", item, at), self._model_entry)
            for name in (model, *aliases):
                before = seen.setdefault((provider.lower(), name.lower()), at)
                if before != at:
                    raise self._error(item, at, f"{provider}/{name} stands in {before} too")
            found.append({"provider": provider.lower(), "model": model, "aliases": aliases, "prices": entries})
        return found

    def _model_entry(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        prices, fields = self._prices(node, place, ("from", "until", "service_tiers"))
        if not prices:
            raise self._error(node, place, "has no price; a free model needs input_mtok: 0 and output_mtok: 0")
        entry: dict[str, Any] = {"prices": prices}
        tiers = self._optional(
            fields,
            "service_tiers",
            place,
            lambda inner, at: self._map(inner, at, lambda tier, to: self._prices(tier, to, whole=False)[0]),
        )
        if tiers:
            entry["variants"] = [{"context": _context(tier), "prices": changed} for tier, changed in tiers.items()]
            for tier, changed in tiers.items():
                self._check_card(fields["service_tiers"][1], f"{place}.service_tiers.{tier}", prices | changed)
        return entry | self._when(fields, place)

    def _features(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        return self._map(node, place, lambda inner, at: self._dated(inner, at, self._feature))

    def _feature(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("credits", "wallet", "category", "active", "from", "until"))
        price = self._credits(*self._required(fields, "credits", node, place), 6)
        return {
            "price_micros": price,
            "wallet": self._optional(fields, "wallet", place, self._wallet) or "",
            "category": self._optional(fields, "category", place, self._text) or "",
            "active": self._flag(fields, "active", place),
        } | self._when(fields, place)

    def _rates(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        return self._map(node, place, lambda inner, at: self._dated(inner, at, self._rate))

    def _rate(self, node: yaml_file.Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("credits", "unit", "category", "fractional", "from", "until"))
        price = self._credits(*self._required(fields, "credits", node, place), 6 + pricing.RATE_DECIMALS)
        return {
            "price_scaled": price,
            "unit": self._optional(fields, "unit", place, self._text) or "",
            "category": self._optional(fields, "category", place, self._text) or "",
            "fractional": self._flag(fields, "fractional", place),
        } | self._when(fields, place)

    # ---- parts

    def _prices(
        self, node: yaml_file.Node, place: str, others: Sequence[str] = (), *, whole: bool = True
    ) -> tuple[dict[str, Any], yaml_file.Fields]:
        """The prices by field of Usage, and all fields of the node. `whole`: they stand alone, not on top of others."""
        fields = self._fields(node, place, (*PRICE_KEYS, *others))
        prices = {
            ratecards.BY_PRICE_KEY[key].field: self._price(value, f"{place}.{key}", ratecards.BY_PRICE_KEY[key])
            for key, (_, value) in fields.items()
            if key in ratecards.BY_PRICE_KEY
        }
        if whole:
            self._check_card(node, place, prices)
        return prices, fields

    def _check_card(self, node: yaml_file.Node, place: str, prices: Mapping[str, Any]) -> None:
        try:
            ratecards.compiled(dict.fromkeys(prices, 0))
        except ValueError as exc:
            raise self._error(node, place, str(exc)) from exc

    def _price(self, node: yaml_file.Node, place: str, unit: ratecards.UnitClass) -> int | list[Any]:
        if not isinstance(node, yaml.MappingNode):
            return self._femtos(node, place, unit)
        fields = self._fields(node, place, ("base", "tiers"))
        price: list[Any] = [self._femtos(*self._required(fields, "base", node, place), unit)]
        above = -1
        tiers, at = self._required(fields, "tiers", node, place)
        for index, item in enumerate(self._items(tiers, at)):
            step = self._fields(item, f"{at}[{index}]", ("above", "price"))
            start_node, start_at = self._required(step, "above", item, f"{at}[{index}]")
            start = money.scaled(self._number(start_node, start_at), 0)
            if start is None or start <= above:
                raise self._error(
                    start_node, start_at, "must be a whole number of input tokens, larger than the one before"
                )
            above = start
            price.append([start, self._femtos(*self._required(step, "price", item, f"{at}[{index}]"), unit)])
        return price

    def _femtos(self, node: yaml_file.Node, place: str, unit: ratecards.UnitClass) -> int:
        femtos = money.femtos_per_unit(self._number(node, place), unit.per)
        if femtos is None:
            decimals = 15 - len(str(unit.per)) + 1
            raise self._error(node, place, f"finer than can be charged: at most {decimals} decimals")
        return femtos

    def _dated(
        self, node: yaml_file.Node, place: str, read: Callable[[yaml_file.Node, str], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """One entry, or a list of dated ones of which the last that holds counts."""
        if isinstance(node, yaml.SequenceNode):
            items = self._items(node, place)
            if not items:
                raise self._error(node, place, "must not be empty")
            return [read(item, f"{place}[{index}]") for index, item in enumerate(items)]
        return [read(node, place)]

    def _when(self, fields: yaml_file.Fields, place: str) -> dict[str, Any]:
        when = {
            f"{name}_ms": value
            for name in ("from", "until")
            if (value := self._optional(fields, name, place, self._time_ms)) is not None
        }
        if when.get("from_ms", -1) >= when.get("until_ms", 2**63):
            raise self._error(fields["until"][1], f"{place}.until", "must be after from")
        return {"when": when} if when else {}

    def _time_ms(self, node: yaml_file.Node, place: str) -> int:
        text = self._scalar(node, place)
        try:
            value = datetime.datetime.fromisoformat(text)
        except ValueError as exc:
            raise self._error(
                node, place, "must be a date (2026-01-31) or a time with its zone (2026-01-31T12:00:00Z)"
            ) from exc
        if value.tzinfo is None:
            if len(text) > 10:
                raise self._error(node, place, "a time needs its zone, such as Z or +02:00")
            value = value.replace(tzinfo=datetime.UTC)
        since = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        return since // datetime.timedelta(milliseconds=1)


_BOOK_FIELDS = ("credit_value_usd", "margins", "unknown_model", "models", "features", "rates")


def _context(service_tier: str) -> dict[str, str]:
    return {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}
