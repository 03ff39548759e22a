"""The Lua verbs: their text as Redis gets it, and their SHA-1."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import re
import types
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    name: str
    text: str
    sha: bytes


NAMES = (
    "account",
    "charge",
    "clawback",
    "commit",
    "deadline",
    "expire",
    "expire_grants",
    "extend",
    "grant",
    "load",
    "peek",
    "release",
    "report",
    "reserve",
    "revoke",
    "settings",
    "tidy",
    "uses",
)


# What verbs share, in this order.
SHARED = ("prelude", "limits")

_WORD = re.compile(r"\w+")
_DEFINED = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)


def _without_comments(text: str) -> str:
    """Comments are for readers; Redis need not keep them."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--") and line.strip())


def _needed(prelude: str, body: str) -> str:
    """The prelude's paragraphs that `body` needs, directly or through another: each closure costs 0.1 µs a call."""
    kept: list[str] = []
    words = set(_WORD.findall(body))
    for paragraph in reversed(prelude.split("\n\n")):
        code = _without_comments(paragraph)
        names = (name.strip() for group in _DEFINED.findall(code) for name in group.split(","))
        if not words.isdisjoint(names):
            kept.insert(0, code)
            words.update(_WORD.findall(code))
    return "\n".join(kept)


def _inlined(text: str) -> str:
    """The text with names of places (a line such as `local A, B = 1, 2`) as the numbers that they stand for: a name would be a variable
    that each closure keeps."""
    places: dict[str, str] = {}
    for line in re.findall(r"^local [A-Z_, ]+ = [\d, ]+$", text, re.MULTILINE):
        text = text.replace(line + "\n", "")
        names, _, numbers = line.removeprefix("local ").partition(" = ")
        places |= zip(names.split(", "), numbers.split(", "), strict=True)
    return re.sub(r"\b[A-Z_]+\b(?!')", lambda word: places.get(word[0], word[0]), text)


def read(name: str) -> Script:
    """The verb `name`: its first line (flags), what it needs of the shared prelude, its body."""
    folder = importlib.resources.files("meterd.redis").joinpath("lua")
    first, _, body = folder.joinpath(f"{name}.lua").read_text().partition("\n")
    body = _without_comments(body)
    prelude = "\n".join(folder.joinpath(f"{shared}.lua").read_text() for shared in SHARED)
    text = _inlined(f"{first}\n{_needed(prelude, body)}\n{body}\n")
    return Script(name=name, text=text, sha=hashlib.sha1(text.encode()).hexdigest().encode())


@functools.cache
def read_all() -> Mapping[str, Script]:
    """Every verb by name."""
    return types.MappingProxyType({name: read(name) for name in NAMES})
