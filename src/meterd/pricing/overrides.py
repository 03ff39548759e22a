"""The operator's price file: YAML with credit value, margins, models, features and rates. docs/PRICES.md describes it.

Scalars are read as the text that stands in the file, so no number ever passes through a float.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import yaml

from meterd.core import errors, ids, money, pricing, ratecards

# The most that a price may be, in its own unit; more is a slip of the keyboard, and would leave the range of amounts.
PRICE_MAX = Decimal(1_000_000_000)
KEY_CHARS_MAX = 64
# A file with more would make every start slow.
ENTRIES_MAX = 10_000
# Prices nest 9 deep. The parser takes quadratic time for brackets in brackets: 2 minutes for 100 KB of them.
DEPTH_MAX = 32

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
PRICE_KEYS = tuple(unit.price_key for unit in ratecards.CLASSES)
_POLICIES = (pricing.DENY, pricing.FALLBACK_RATE, pricing.QUARANTINE)

_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)

Node = yaml.Node
Fields = dict[str, tuple[yaml.ScalarNode, yaml.Node]]


class PriceFileError(errors.MeterdError):
    """What is wrong with a price file, and where: `line` counts from 1, 0 is the file as a whole."""

    def __init__(self, source: str, line: int, place: str, reason: str) -> None:
        at = f"{source}:{line}" if line else source
        super().__init__(f"{at}: {place}: {reason}" if place else f"{at}: {reason}")
        self.line = line
        self.place = place
        self.reason = reason


def parsed(text: str, source: str = "prices") -> dict[str, Any]:
    """The file as the operator's part of a price book (see pricing.document). An empty text is all defaults."""
    return _Reader(source).book(_composed(text, source))


def _composed(text: str, source: str) -> yaml.Node | None:
    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            # An alias would let a small file grow without bounds.
            if isinstance(token, yaml.AliasToken):
                raise PriceFileError(source, token.start_mark.line + 1, f"*{token.value}", "aliases are not supported")
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > DEPTH_MAX:
                raise PriceFileError(source, token.start_mark.line + 1, "", f"nested more than {DEPTH_MAX} deep")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark is not None else 0
        raise PriceFileError(source, line, "", f"not YAML: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise PriceFileError(source, 0, "", f"not YAML: {exc}") from exc


class _Reader:
    """Reads nodes. Every method that takes a `place` names it in errors, such as "models[2].prices[0].input_mtok"."""

    def __init__(self, source: str) -> None:
        self._source = source

    def book(self, root: yaml.Node | None) -> dict[str, Any]:
        fields = {} if root is None or _is_null(root) else self._fields(root, "", _BOOK_FIELDS)
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

    def _credit_value(self, node: Node, place: str) -> int:
        value = self._number(node, place)
        femtos = money.scaled(value, 15)
        if not femtos:
            raise self._error(node, place, "must be greater than 0, with at most 15 decimals")
        return femtos

    def _margins(self, node: Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("default", "providers", "models", "features"))
        default = self._optional(fields, "default", place, self._margin)
        by_key: dict[str, Any] = {
            name: self._optional(fields, name, place, lambda inner, at: self._map(inner, at, self._margin, lower=True))
            for name in ("providers", "models")
        }
        for name in by_key.get("models") or ():
            if "/" not in name:
                raise self._error(fields["models"][1], f"{place}.models.{name}", 'must be written "provider/model"')
        features = self._optional(fields, "features", place, lambda inner, at: self._map(inner, at, self._margin))
        return {
            "default": default or "1",
            "providers": by_key["providers"] or {},
            "models": by_key["models"] or {},
            "features": features or {},
        }

    def _margin(self, node: Node, place: str) -> str:
        value = self._number(node, place)
        scaled = money.scaled(value, 6)
        if not scaled or value > 1000:
            raise self._error(node, place, "must be a factor greater than 0 and at most 1000, with at most 6 decimals")
        return money.decimal_string(scaled, 6)

    def _unknown(self, node: Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("policy", "prices"))
        policy = self._choice(*self._required(fields, "policy", node, place), _POLICIES)
        prices = self._optional(fields, "prices", place, lambda inner, at: self._prices(inner, at)[0])
        if policy != pricing.DENY and not prices:
            raise self._error(node, place, f"{policy} needs prices")
        if prices and not any(prices.values()):
            raise self._error(node, f"{place}.prices", "all prices are 0: an unknown model must not be free")
        return {"policy": policy, "prices": prices or {}}

    def _models(self, node: Node, place: str) -> list[dict[str, Any]]:
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

    def _model_entry(self, node: Node, place: str) -> dict[str, Any]:
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

    def _features(self, node: Node, place: str) -> dict[str, Any]:
        return self._map(node, place, lambda inner, at: self._dated(inner, at, self._feature))

    def _feature(self, node: Node, place: str) -> dict[str, Any]:
        fields = self._fields(node, place, ("credits", "wallet", "category", "active", "from", "until"))
        price = self._credits(*self._required(fields, "credits", node, place), 6)
        return {
            "price_micros": price,
            "wallet": self._optional(fields, "wallet", place, self._wallet) or "",
            "category": self._optional(fields, "category", place, self._text) or "",
            "active": self._flag(fields, "active", place),
        } | self._when(fields, place)

    def _rates(self, node: Node, place: str) -> dict[str, Any]:
        return self._map(node, place, lambda inner, at: self._dated(inner, at, self._rate))

    def _rate(self, node: Node, place: str) -> dict[str, Any]:
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
        self, node: Node, place: str, others: Sequence[str] = (), *, whole: bool = True
    ) -> tuple[dict[str, Any], Fields]:
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

    def _check_card(self, node: Node, place: str, prices: Mapping[str, Any]) -> None:
        try:
            ratecards.compiled(dict.fromkeys(prices, 0))
        except ValueError as exc:
            raise self._error(node, place, str(exc)) from exc

    def _price(self, node: Node, place: str, unit: ratecards.UnitClass) -> int | list[Any]:
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

    def _femtos(self, node: Node, place: str, unit: ratecards.UnitClass) -> int:
        femtos = money.femtos_per_unit(self._number(node, place), unit.per)
        if femtos is None:
            decimals = 15 - len(str(unit.per)) + 1
            raise self._error(node, place, f"finer than can be charged: at most {decimals} decimals")
        return femtos

    def _credits(self, node: Node, place: str, decimals: int) -> int:
        scaled = money.scaled(self._number(node, place), decimals)
        if scaled is None:
            raise self._error(node, place, f"finer than can be charged: at most {decimals} decimals")
        return scaled

    def _dated(self, node: Node, place: str, read: Callable[[Node, str], dict[str, Any]]) -> list[dict[str, Any]]:
        """One entry, or a list of dated ones of which the last that holds counts."""
        if isinstance(node, yaml.SequenceNode):
            items = self._items(node, place)
            if not items:
                raise self._error(node, place, "must not be empty")
            return [read(item, f"{place}[{index}]") for index, item in enumerate(items)]
        return [read(node, place)]

    def _when(self, fields: Fields, place: str) -> dict[str, Any]:
        when = {
            f"{name}_ms": value
            for name in ("from", "until")
            if (value := self._optional(fields, name, place, self._time_ms)) is not None
        }
        if when.get("from_ms", -1) >= when.get("until_ms", 2**63):
            raise self._error(fields["until"][1], f"{place}.until", "must be after from")
        return {"when": when} if when else {}

    def _time_ms(self, node: Node, place: str) -> int:
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

    # ---- leaves

    def _number(self, node: Node, place: str) -> Decimal:
        text = self._scalar(node, place)
        if text.startswith("-"):
            raise self._error(node, place, "must not be negative")
        if not _NUMBER.match(text) or len(text) > 40:
            raise self._error(node, place, f"{text[:40]!r} is not a plain decimal number")
        value = Decimal(text)
        if value > PRICE_MAX:
            raise self._error(node, place, f"must be at most {PRICE_MAX}")
        return value

    def _flag(self, fields: Fields, name: str, place: str) -> bool:
        if name not in fields:
            return True
        return self._choice(fields[name][1], f"{place}.{name}", ("true", "false")) == "true"

    def _choice(self, node: Node, place: str, choices: Sequence[str]) -> str:
        text = self._scalar(node, place)
        if text not in choices:
            raise self._error(node, place, f"{text[:40]!r} is not one of {', '.join(choices)}")
        return text

    def _wallet(self, node: Node, place: str) -> str:
        try:
            return ids.checked_wallet(self._scalar(node, place), place)
        except errors.InvalidArgumentError as exc:
            raise self._error(node, place, "must be 1 to 64 of a-z, 0-9, _ and -") from exc

    def _text(self, node: Node, place: str) -> str:
        text = self._scalar(node, place)
        try:
            return ids.checked_id(text, place)
        except errors.InvalidArgumentError as exc:
            raise self._error(node, place, str(exc).partition(": ")[2]) from exc

    def _texts(self, node: Node, place: str) -> list[str]:
        return [self._text(item, f"{place}[{index}]") for index, item in enumerate(self._items(node, place))]

    def _scalar(self, node: Node, place: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or _is_null(node):
            raise self._error(node, place, "must be a single value")
        return str(node.value)

    def _items(self, node: Node, place: str) -> Sequence[Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, place, "must be a list")
        if len(node.value) > ENTRIES_MAX:
            raise self._error(node, place, f"more than {ENTRIES_MAX} entries")
        return node.value

    def _map(self, node: Node, place: str, read: Callable[[Node, str], Any], *, lower: bool = False) -> dict[str, Any]:
        """A mapping with keys that the operator chooses."""
        found: dict[str, Any] = {}
        for key, (key_node, value) in self._fields(node, place, None).items():
            name = key.lower() if lower else key
            if not lower and (not _KEY.match(key) or len(key) > KEY_CHARS_MAX):
                raise self._error(
                    key_node, f"{place}.{key[:80]}", f"must be 1 to {KEY_CHARS_MAX} letters, digits, . _ and -"
                )
            if name in found:
                raise self._error(key_node, f"{place}.{key}", "stands here twice")
            found[name] = read(value, f"{place}.{key}")
        return found

    def _fields(self, node: Node, place: str, allowed: Sequence[str] | None) -> Fields:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, place, "must be a mapping")
        if len(node.value) > ENTRIES_MAX:
            raise self._error(node, place, f"more than {ENTRIES_MAX} entries")
        fields: Fields = {}
        for key_node, value in node.value:
            key = self._scalar(key_node, place)
            at = f"{place}.{key[:80]}" if place else key[:80]
            if key in fields:
                raise self._error(key_node, at, "stands here twice")
            if allowed is not None and key not in allowed:
                raise self._error(key_node, at, f"unknown field; known are {', '.join(allowed)}")
            fields[key] = (key_node, value)
        return fields

    def _required(self, fields: Fields, name: str, node: Node, place: str) -> tuple[Node, str]:
        at = f"{place}.{name}" if place else name
        if name not in fields:
            raise self._error(node, at, "is missing")
        return fields[name][1], at

    def _optional(self, fields: Fields, name: str, place: str, read: Callable[[Node, str], Any]) -> Any:
        at = f"{place}.{name}" if place else name
        return read(fields[name][1], at) if name in fields else None

    def _error(self, node: Node, place: str, reason: str) -> PriceFileError:
        return PriceFileError(self._source, node.start_mark.line + 1, place, reason)


_BOOK_FIELDS = ("credit_value_usd", "margins", "unknown_model", "models", "features", "rates")


def _is_null(node: Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _context(service_tier: str) -> dict[str, str]:
    return {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}
