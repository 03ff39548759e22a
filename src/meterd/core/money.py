"""Money: int micro-credits and exact USD. All rounding of meterd happens here."""

from __future__ import annotations

import functools
import math
from decimal import Decimal

from meterd.core import errors

# Redis scripts compute in IEEE doubles, which hold integers exactly up to here.
AMOUNT_MAX_MICROS = 2**53 - 1

MICROS_PER_CREDIT = 1_000_000

# Prices are kept in whole femto-dollars: the finest published price per token has fewer than 15 decimals.
FEMTOS_PER_USD = 10**15

# Currencies without a minor unit, and those of a thousand; a price in any other has 2 decimals. As Stripe has it.
_DECIMALS_0 = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf")
)
_DECIMALS_3 = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))


def currency_decimals(currency: str) -> int:
    """Decimals of the currency's minor unit. `currency` is ISO 4217, lower case."""
    return 0 if currency in _DECIMALS_0 else 3 if currency in _DECIMALS_3 else 2


def minor_units(price: str, currency: str) -> int:
    """A price of a catalog in the currency's minor unit: ("19.00", "usd") -> 1900."""
    scaled_price = scaled(Decimal(price), currency_decimals(currency))
    assert scaled_price is not None, (price, currency)
    return scaled_price


def price_string(units: int, currency: str) -> str:
    """The inverse of minor_units: (1900, "usd") -> "19.00". units ≥ 0."""
    decimals = currency_decimals(currency)
    whole, part = divmod(units, 10**decimals)
    return f"{whole}.{part:0{decimals}d}" if decimals else str(whole)


def ceil_div(numerator: int, denominator: int) -> int:
    """The smallest integer that is not below numerator ÷ denominator. denominator > 0."""
    return -(-numerator // denominator)


def charge_micros(numerator: int, denominator: int) -> int:
    """The charge for exactly numerator ÷ denominator micro-credits, rounded up: the one rounding of a settlement.

    Neither is negative, denominator > 0. OutOfRangeError above 2^53 − 1.
    """
    amount = -(-numerator // denominator)
    if amount > AMOUNT_MAX_MICROS:
        raise errors.OutOfRangeError("amount_micros", f"the price of {amount} is above 2^53 − 1 micro-credits")
    return amount


def nearest_div(numerator: int, denominator: int) -> int:
    """numerator ÷ denominator rounded half up, for figures that nobody is charged by. denominator > 0."""
    return (2 * numerator + denominator) // (2 * denominator)


def covered_units(budget_micros: int, numerator: int, denominator: int, fixed: int, unit: int) -> int:
    """The most units that a budget covers: the inverse of charge_micros((fixed + units × unit) × numerator, denominator).

    −1 if the budget does not cover `fixed` alone. unit > 0, numerator > 0.
    """
    left = budget_micros * denominator - fixed * numerator
    return left // (unit * numerator) if left >= 0 else -1


def scaled(value: Decimal, decimals: int) -> int | None:
    """`value` × 10^decimals as an int; None if that is not whole. `value` is finite."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    number = int("".join(map(str, digits)))
    shift = exponent + decimals
    if shift >= 0:
        number *= 10**shift
    else:
        number, rest = divmod(number, 10**-shift)
        if rest:
            return None
    return -number if sign else number


def femtos_per_unit(price_usd: Decimal, units: int) -> int | None:
    """Femto-dollars for one of `units` units that cost `price_usd` together; None if that is not whole."""
    femtos = scaled(price_usd, 15)
    return None if femtos is None or femtos % units else femtos // units


def nearest_femtos_per_unit(price_usd: Decimal, units: int) -> int:
    """As femtos_per_unit, rounded half up: for prices that their publisher has computed in floats, such as 0.18000000000000002."""
    return (int(price_usd.scaleb(30)) * 2 // (units * 10**15) + 1) // 2


def decimal_string(value: int, decimals: int) -> str:
    """`value` ÷ 10^decimals without exponent and trailing zeros: (1500, 3) -> "1.5". value ≥ 0."""
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}".rstrip("0").rstrip(".") if decimals else str(whole)


def ratio_string(numerator: int, denominator: int) -> str:
    """Exact numerator ÷ denominator as a decimal string, or as "n/d" where it has no end. Both ≥ 0, denominator > 0."""
    whole, rest = divmod(numerator, denominator)
    if not rest:
        return str(whole)
    decimals = _decimals_of(denominator)
    if decimals is None:
        common = math.gcd(numerator, denominator)
        numerator, denominator = numerator // common, denominator // common
        decimals = _decimals_of(denominator)
    if decimals is None:
        return f"{numerator}/{denominator}"
    return decimal_string(numerator * 10**decimals // denominator, decimals)


# Denominators are those of a price book's items: few, and the same for every call.
@functools.lru_cache(maxsize=1024)
def _decimals_of(denominator: int) -> int | None:
    """How many decimals are enough for any whole number ÷ denominator; None if some have no end."""
    twos = (denominator & -denominator).bit_length() - 1
    fives, rest = 0, denominator >> twos
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    return max(twos, fives) if rest == 1 else None


def checked_micros(value: int, field: str) -> int:
    """`value` if it lies in ±(2^53 − 1); OutOfRangeError naming `field` otherwise."""
    if not -AMOUNT_MAX_MICROS <= value <= AMOUNT_MAX_MICROS:
        raise errors.OutOfRangeError(field, f"{value} is outside ±(2^53 − 1) micro-credits")
    return value


def usd_from_femtos(femtos: int) -> Decimal:
    """Exact USD of a whole number of femto-dollars."""
    # Arithmetic on a Decimal would round it to the context's 28 digits; making one does not.
    return Decimal(usd_string(femtos))


def usd_string(femtos: int) -> str:
    """Exact decimal string without exponent and trailing zeros: 1_500_000_000_000 -> "0.0015"; 0 -> "0"."""
    # Most costs are below one dollar, and this takes half of what splitting the number takes.
    if 0 < femtos < FEMTOS_PER_USD:
        return "0." + str(femtos).zfill(15).rstrip("0")
    whole, part = divmod(femtos, FEMTOS_PER_USD)
    return f"{whole}.{part:015d}".rstrip("0").rstrip(".")
