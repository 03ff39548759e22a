"""The Lua verbs: their text as Redis gets it, and their SHA-1."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import re
import types
from collections.abc import Mapping, Sequence


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
_ONLY_HERE = re.compile(r"^ *-- only here: ([\w, ]+)$", re.MULTILINE)
_DEFINED = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)


def _without_comments(text: str) -> str:
    """Comments are for readers; Redis need not keep them."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--") and line.strip())


def _needed(paragraphs: Sequence[str], words: set[str]) -> list[str]:
    """The paragraphs that code of these words needs, directly or through another: each closure costs some 0.1 µs a call."""
    kept: list[str] = []
    for code in reversed(paragraphs):
        names = (name.strip() for group in _DEFINED.findall(code) for name in group.split(","))
        if not words.isdisjoint(names):
            kept.insert(0, code)
            words = words | set(_WORD.findall(code))
    return kept


def _linked(prelude: str, body: str) -> str:
    """The body behind what it needs of the prelude. What a comment `only here: name, …` in a block names is made there alone, so that
    calls that do not come by have nothing of it."""
    paragraphs = [_without_comments(paragraph) for paragraph in prelude.split("\n\n")]
    rare = {name for names in _ONLY_HERE.findall(body) for name in names.split(", ")}
    common = _needed(paragraphs, set(_WORD.findall(_without_comments(body))) - rare)

    def placed(comment: re.Match[str]) -> str:
        wanted = _needed(paragraphs, set(comment[1].split(", ")))
        return "\n".join(code for code in wanted if code not in common)

    return "\n".join((*common, _without_comments(_ONLY_HERE.sub(placed, body))))


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
    prelude = "\n".join(folder.joinpath(f"{shared}.lua").read_text() for shared in SHARED)
    text = _inlined(f"{first}\n{_linked(prelude, body)}\n")
    return Script(name=name, text=text, sha=hashlib.sha1(text.encode()).hexdigest().encode())


@functools.cache
def read_all() -> Mapping[str, Script]:
    """Every verb by name."""
    return types.MappingProxyType({name: read(name) for name in NAMES})
