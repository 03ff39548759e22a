"""Money: exact integers, one rounding, strings that read back as the same number."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies

from meterd.core import errors, money

MAX = 2**53 - 1
_bounded = hypothesis.settings(derandomize=True, max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize(
    ("numerator", "denominator", "amount"),
    [
        (0, 7, 0),
        (1, 7, 1),
        (6, 7, 1),
        (7, 7, 1),
        (8, 7, 2),
        (10**30, 10**15, 10**15),
        (MAX, 1, MAX),
        (MAX * 3 - 2, 3, MAX),
    ],
)
def test_a_charge_is_rounded_up_to_the_micro_credit(numerator: int, denominator: int, amount: int) -> None:
    assert money.charge_micros(numerator, denominator) == amount
    assert money.ceil_div(numerator, denominator) == amount


def test_a_charge_above_the_range_is_refused() -> None:
    with pytest.raises(errors.OutOfRangeError) as caught:
        money.charge_micros(MAX * 3 + 1, 3)
    assert caught.value.field == "amount_micros"


@_bounded
@hypothesis.given(
    numerator=strategies.integers(min_value=0, max_value=10**18),
    denominator=strategies.integers(min_value=1, max_value=10**12),
)
def test_a_charge_is_the_least_that_is_not_below_the_exact_price(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    hypothesis.assume(exact <= MAX)
    assert exact <= money.charge_micros(numerator, denominator) < exact + 1


@_bounded
@hypothesis.given(
    budget=strategies.integers(min_value=0, max_value=10**12),
    numerator=strategies.integers(min_value=1, max_value=10**6),
    denominator=strategies.integers(min_value=1, max_value=10**12),
    fixed=strategies.integers(min_value=0, max_value=10**15),
    unit=strategies.integers(min_value=1, max_value=10**12),
)
def test_the_covered_units_are_the_last_whose_charge_fits(
    budget: int, numerator: int, denominator: int, fixed: int, unit: int
) -> None:
    units = money.covered_units(budget, numerator, denominator, fixed, unit)

    def charge(count: int) -> int:
        return money.ceil_div((fixed + count * unit) * numerator, denominator)

    assert (units == -1) == (charge(0) > budget)
    assert units == -1 or charge(units) <= budget < charge(units + 1)


@pytest.mark.parametrize("value", [MAX, -MAX, 0, 1])
def test_an_amount_in_the_range_is_itself(value: int) -> None:
    assert money.checked_micros(value, "amount_micros") == value


@pytest.mark.parametrize("value", [MAX + 1, -MAX - 1, 2**63, -(2**63)])
def test_an_amount_outside_the_range_is_refused_by_name(value: int) -> None:
    with pytest.raises(errors.OutOfRangeError, match=r"grant\.amount_micros: ") as caught:
        money.checked_micros(value, "grant.amount_micros")
    assert caught.value.field == "grant.amount_micros"


@pytest.mark.parametrize(
    ("text", "decimals", "scaled"),
    [
        ("1.5", 3, 1500),
        ("1.5000", 1, 15),
        ("0", 6, 0),
        ("0.0000001", 6, None),
        ("1E+3", 0, 1000),
        ("-2.5", 1, -25),
        ("123456789012345678901234567890.123", 3, 123456789012345678901234567890123),
    ],
)
def test_a_decimal_is_scaled_exactly_or_not_at_all(text: str, decimals: int, scaled: int | None) -> None:
    assert money.scaled(Decimal(text), decimals) == scaled


@pytest.mark.parametrize(
    ("price", "units", "femtos"),
    [("0.15", 10**6, 150_000_000), ("3", 10**6, 3_000_000_000), ("10", 1000, 10**13), ("0.0000000001", 10**6, None)],
)
def test_a_price_is_whole_femto_dollars_per_unit_or_refused(price: str, units: int, femtos: int | None) -> None:
    assert money.femtos_per_unit(Decimal(price), units) == femtos


@pytest.mark.parametrize(
    ("price", "femtos"),
    [
        ("0.18000000000000002", 180_000_000),
        ("0.0833333333333333", 83_333_333),
        ("0.0000000005", 1),
        ("0.0000000004999", 0),
    ],
)
def test_a_price_made_by_floats_is_rounded_half_up(price: str, femtos: int) -> None:
    assert money.nearest_femtos_per_unit(Decimal(price), 10**6) == femtos


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(1500, 3, "1.5"), (0, 6, "0"), (1, 15, "0.000000000000001"), (10**6, 6, "1"), (120, 0, "120"), (100, 1, "10")],
)
def test_a_scaled_number_is_written_without_exponent_and_trailing_zeros(value: int, decimals: int, text: str) -> None:
    assert money.decimal_string(value, decimals) == text


@pytest.mark.parametrize(
    ("numerator", "denominator", "text"),
    [
        (1, 3, "1/3"),
        (2, 6, "1/3"),
        (1, 8, "0.125"),
        (7, 1, "7"),
        (0, 9, "0"),
        (10, 4, "2.5"),
        (1, 10**15, "0.000000000000001"),
    ],
)
def test_a_ratio_is_written_exactly(numerator: int, denominator: int, text: str) -> None:
    assert money.ratio_string(numerator, denominator) == text


@_bounded
@hypothesis.given(
    numerator=strategies.integers(min_value=0, max_value=10**30),
    denominator=strategies.integers(min_value=1, max_value=10**12),
)
def test_a_ratio_reads_back_as_itself(numerator: int, denominator: int) -> None:
    assert Fraction(money.ratio_string(numerator, denominator)) == Fraction(numerator, denominator)


@_bounded
@hypothesis.given(femtos=strategies.integers(min_value=0, max_value=10**30))
def test_usd_reads_back_as_itself(femtos: int) -> None:
    text = money.usd_string(femtos)
    assert Fraction(text) == Fraction(femtos, 10**15)
    assert Fraction(money.usd_from_femtos(femtos)) == Fraction(femtos, 10**15)
    assert "E" not in text and (text == "0" or not text.endswith("0") or "." not in text)


@pytest.mark.parametrize(
    ("numerator", "denominator", "nearest"),
    [(0, 7, 0), (3, 7, 0), (4, 7, 1), (1, 2, 1), (5, 2, 3), (-1, 2, 0), (-3, 2, -1), (10**30 + 5, 10, 10**29 + 1)],
)
def test_figures_round_half_up(numerator: int, denominator: int, nearest: int) -> None:
    assert money.nearest_div(numerator, denominator) == nearest
