"""YAML files that people write about money: read strictly, and every error names its line and field.

Scalars are read as the text that stands in the file, so no number ever passes through a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import yaml

from meterd.core import errors, ids, money

# The most that a price may be, in its own unit; more is a slip of the keyboard, and would leave the range of amounts.
PRICE_MAX = Decimal(1_000_000_000)
KEY_CHARS_MAX = 64
# A file with more would make every start slow.
ENTRIES_MAX = 10_000
# Prices nest 9 deep. The parser takes quadratic time for brackets in brackets: 2 minutes for 100 KB of them.
DEPTH_MAX = 32

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?\Z")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)

# libyaml's takes a seventh of the time, where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Node = yaml.Node
Fields = dict[str, tuple[yaml.ScalarNode, Node]]


class FileError(errors.MeterdError):
    """What is wrong with a file, and where: `line` counts from 1, 0 is the file as a whole."""

    def __init__(self, source: str, line: int, place: str, reason: str) -> None:
        at = f"{source}:{line}" if line else source
        super().__init__(f"{at}: {place}: {reason}" if place else f"{at}: {reason}")
        self.line = line
        self.place = place
        self.reason = reason


def composed(text: str, source: str) -> Node | None:
    try:
        depth = 0
        for token in yaml.scan(text, Loader=_LOADER):
            # An alias would let a small file grow without bounds.
            if isinstance(token, yaml.AliasToken):
                raise FileError(source, token.start_mark.line + 1, f"*{token.value}", "aliases are not supported")
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > DEPTH_MAX:
                raise FileError(source, token.start_mark.line + 1, "", f"nested more than {DEPTH_MAX} deep")
        return yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as exc:
        # libyaml finds what is missing at the end on the line after the last.
        line = min(exc.problem_mark.line + 1, len(text.splitlines())) if exc.problem_mark is not None else 0
        raise FileError(source, line, "", f"not YAML: {exc.problem}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise FileError(source, 0, "", f"not YAML: {exc}") from exc


class Reader:
    """Reads nodes. Every method that takes a `place` names it in errors, such as "models[2].prices[0].input_mtok"."""

    def __init__(self, source: str) -> None:
        self._source = source

    # ---- what price files and catalogs share

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

    def _credits(self, node: Node, place: str, decimals: int) -> int:
        scaled = money.scaled(self._number(node, place), decimals)
        if scaled is None:
            raise self._error(node, place, f"finer than can be charged: at most {decimals} decimals")
        return scaled

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

    def _flag(self, fields: Fields, name: str, place: str, *, absent: bool = True) -> bool:
        if name not in fields:
            return absent
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
        if not isinstance(node, yaml.ScalarNode) or is_null(node):
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

    def _error(self, node: Node, place: str, reason: str) -> FileError:
        return FileError(self._source, node.start_mark.line + 1, place, reason)


def is_null(node: Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
