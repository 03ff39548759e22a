"""How values that every call makes are declared."""

from __future__ import annotations

import dataclasses
import typing

T = typing.TypeVar("T")


@typing.dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def value(cls: type[T]) -> type[T]:
    """A keyword-only dataclass with slots that the type checker alone keeps frozen.

    For what the hot path makes: at run time, freezing sets each field through object.__setattr__, and making a value takes three times
    as long.
    """
    return dataclasses.dataclass(kw_only=True, slots=True, unsafe_hash=True)(cls)
