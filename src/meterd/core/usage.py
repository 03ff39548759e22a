"""Usage: how many units of each class a model call took."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TypedDict, Unpack

from meterd.core import errors

# No provider takes or makes more in one call; larger counts are mistakes, and their price would not fit an amount.
COUNT_MAX = 10**12


class Counts(TypedDict, total=False):
    """The fields of the proto message Usage."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    cache_audio_read_tokens: int
    output_audio_tokens: int
    input_image_tokens: int
    output_image_tokens: int
    input_video_tokens: int
    web_searches: int
    requests: int
    cache_image_read_tokens: int
    output_video_tokens: int
    citation_tokens: int
    storage_searches: int


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Usage:
    """Counts by class. input_tokens and output_tokens are totals and include the classes below them.

    Made on every call, so it has no slots: a count that was not given is the class's 0, and making one costs what it carries.
    The constructor does not check; `checked` does.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    cache_audio_read_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    input_video_tokens: int = 0
    web_searches: int = 0
    requests: int = 0
    cache_image_read_tokens: int = 0
    output_video_tokens: int = 0
    citation_tokens: int = 0
    storage_searches: int = 0

    def __init__(self, **counts: Unpack[Counts]) -> None:
        self.__dict__.update(counts)


FIELDS = tuple(field.name for field in dataclasses.fields(Usage))
_KNOWN = frozenset(FIELDS)

# Each total with classes that never overlap, whose sum it therefore bounds.
_SUMS = (
    ("input_tokens", ("cache_read_tokens", "cache_write_tokens")),
    ("input_tokens", ("input_audio_tokens", "input_image_tokens", "input_video_tokens")),
    ("cache_read_tokens", ("cache_audio_read_tokens", "cache_image_read_tokens")),
    ("cache_write_tokens", ("cache_write_1h_tokens",)),
    ("input_audio_tokens", ("cache_audio_read_tokens",)),
    ("input_image_tokens", ("cache_image_read_tokens",)),
    ("output_tokens", ("reasoning_tokens", "citation_tokens")),
    ("output_tokens", ("output_audio_tokens", "output_image_tokens", "output_video_tokens")),
)


def checked(counts: Mapping[str, int], field: str = "usage") -> Usage:
    """The usage with these counts. InvalidArgumentError names what is not an int from 0 to 10^12, or larger than its total."""
    for name, count in counts.items():
        if name not in _KNOWN:
            raise errors.InvalidArgumentError(f"{field}.{name}", "unknown class")
        if type(count) is not int:
            raise errors.InvalidArgumentError(f"{field}.{name}", "must be an integer")
    return checked_counts(counts, field)


def checked_counts(counts: Mapping[str, int], field: str) -> Usage:
    """As `checked`, for counts that are surely ints of known classes, such as those of a message."""
    for name, count in counts.items():
        if not 0 <= count <= COUNT_MAX:
            raise errors.InvalidArgumentError(f"{field}.{name}", f"must be from 0 to {COUNT_MAX}")
    for total, parts in _sums_of(tuple(counts)):
        part_sum = 0
        for part in parts:
            part_sum += counts[part]
        if part_sum > counts.get(total, 0):
            first = next(part for part in parts if counts[part])
            named = " + ".join(parts)
            reason = f"{named} is {part_sum}, more than {total}, which includes it and is {counts.get(total, 0)}"
            raise errors.InvalidArgumentError(f"{field}.{first}", reason)
    usage = Usage()
    usage.__dict__.update(counts)
    return usage


# Calls of one kind have the same classes, in the same order.
@functools.lru_cache(maxsize=1024)
def _sums_of(names: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each total with those of the named classes whose sum it bounds."""
    sums = ((total, tuple(part for part in parts if part in names)) for total, parts in _SUMS)
    return tuple((total, parts) for total, parts in sums if parts)


def with_counts(usage: Usage, **counts: Unpack[Counts]) -> Usage:
    """The usage with these counts instead of its own; for the hot path, where dataclasses.replace takes 5 µs."""
    changed = Usage()
    changed.__dict__.update(usage.__dict__)
    changed.__dict__.update(counts)
    return changed


def set_counts(usage: Usage) -> dict[str, int]:
    """The counts that are not 0, by field; `Usage(**set_counts(usage)) == usage`."""
    return {name: count for name, count in usage.__dict__.items() if count}


def output_tokens_min(usage: Usage) -> int:
    """The smallest output_tokens that the usage's output classes allow."""
    by_kind = usage.output_audio_tokens + usage.output_image_tokens + usage.output_video_tokens
    return max(by_kind, usage.reasoning_tokens + usage.citation_tokens)
