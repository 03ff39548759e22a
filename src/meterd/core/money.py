"""Money: int micro-credits and exact USD. All rounding of meterd happens here."""

from __future__ import annotations

from decimal import Decimal

from meterd.core import errors

# Redis scripts compute in IEEE doubles, which hold integers exactly up to here.
AMOUNT_MAX_MICROS = 2**53 - 1

MICROS_PER_CREDIT = 1_000_000

# Prices are kept in whole femto-dollars: the finest published price per token has fewer than 15 decimals.
FEMTOS_PER_USD = 10**15


def ceil_div(numerator: int, denominator: int) -> int:
    """The smallest integer that is not below numerator ÷ denominator. denominator > 0."""
    return -(-numerator // denominator)


def checked_micros(value: int, field: str) -> int:
    """`value` if it lies in ±(2^53 − 1); OutOfRangeError naming `field` otherwise."""
    if not -AMOUNT_MAX_MICROS <= value <= AMOUNT_MAX_MICROS:
        raise errors.OutOfRangeError(field, f"{value} is outside ±(2^53 − 1) micro-credits")
    return value


def usd_from_femtos(femtos: int) -> Decimal:
    """Exact USD of a whole number of femto-dollars."""
    return Decimal(femtos).scaleb(-15)


def usd_string(femtos: int) -> str:
    """Exact decimal string without exponent and trailing zeros: 1_500_000_000_000 -> "0.0015"; 0 -> "0"."""
    whole, part = divmod(femtos, FEMTOS_PER_USD)
    return f"{whole}.{part:015d}".rstrip("0").rstrip(".")
