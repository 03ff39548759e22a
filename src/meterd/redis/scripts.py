"""The Lua verbs: their text as Redis gets it, and their SHA-1."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import re
import types
from collections.abc import Mapping, Sequence

from meterd.redis import inlining


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
    parts = prelude.split("\n\n")
    in_place = inlining.found_in(parts)
    paragraphs = [inlining.without_comments(inlining.put_in_place(part, in_place)) for part in parts]
    body = inlining.put_in_place(body, in_place)
    code = inlining.without_comments(body)
    rare = {name for names in _ONLY_HERE.findall(body) for name in names.split(", ")}
    common = _needed(paragraphs, set(_WORD.findall(code)) - rare)

    def placed(comment: re.Match[str]) -> str:
        words = set[str]()
        for name in comment[1].split(", "):
            is_call = name not in in_place or re.search(rf"\b{name}\(", code)
            words |= (
                {name} if is_call else set(_WORD.findall(inlining.without_comments(in_place[name].statements))) - rare
            )
        return "\n".join(needed for needed in _needed(paragraphs, words) if needed not in common)

    return "\n".join((*common, inlining.without_comments(_ONLY_HERE.sub(placed, body))))


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
