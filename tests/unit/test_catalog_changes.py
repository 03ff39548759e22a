"""What is said of a change of the catalog."""

from __future__ import annotations

import pytest

from meterd.core import catalog, catalog_changes
from meterd.pricing import catalog_file

BEFORE = """
currency: usd
packages: {small: {credits: 100, price: 5}, big: {credits: 1000, price: 40, flags: [popular]}}
plans: {pro: {price: 19, allowances: {default: 1000}}}
features: {letter: {credits: 12}, search: {credits: 1}}
rates: {minute: {credits: 0.5}}
rewards: {daily: {kind: day, credits: 1, weekly_cap: 5}}
"""


def changes(*edits: tuple[str, str]) -> list[str]:
    after = BEFORE
    for old, new in edits:
        assert old in after
        after = after.replace(old, new)
    return catalog_changes.changes(catalog_file.parsed(BEFORE), catalog_file.parsed(after))


def test_the_same_content_has_no_changes() -> None:
    assert changes() == []
    assert changes(("price: 5}", "price: 5.00, active: true}")) == []


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("letter: {credits: 12}", "letter: {credits: 10}", "feature letter: credits 12 → 10"),
        ("letter: {credits: 12}", "letter: {credits: 12, active: false}", "feature letter: active yes → no"),
        ("letter: {credits: 12}, ", "", "feature letter: removed"),
        ("letter: {credits: 12}", "letter: {credits: 12}, map: {credits: 2.5}",
         "feature map: new (name map, credits 2.5, wallet default, active yes)"),
        ("search: {credits: 1}", "search: {credits: 1, wallet: w}", "feature search: wallet default → w"),
        ("price: 40,", "price: 40, bonus: 7,", "package big: bonus none → 7"),
        ("flags: [popular]", "flags: []", "package big: flags popular → none"),
        ("price: 40", "price: 39.5", "package big: price 40.00 usd → 39.50 usd"),
        ("default: 1000}", "default: 1000, forecast: 0}", "plan pro: allowances.forecast none → 0"),
        ("default: 1000}", "default: 1500}", "plan pro: allowances.default 1000 → 1500"),
        ("price: 19", "price: 19, unlimited: true", "plan pro: unlimited no → yes"),
        ("credits: 0.5", "credits: 0.000000000000001", "rate minute: credits 0.5 → 0.000000000000001"),
        ("weekly_cap: 5", "weekly_cap: 4", "reward daily: weekly_cap 5 → 4"),
        ("rates:", "credit_value_usd: 0.01\nrates:", "credit_value_usd none → 0.01"),
        ("rates:", "account: {welcome_bonus: 10}\nrates:", "account.welcome_bonus none → 10"),
        ("rates:", "margins: {default: 2}\nrates:", "margins.default none → 2"),
        ("rates:", "limits: [{id: day, window: day, amount: 2.5}]\nrates:",
         "limit day: new (subject account, metric credits, window day, amount 2.5, mode enforce)"),
        ("letter: {credits: 12}, search: {credits: 1}", "search: {credits: 1}, letter: {credits: 12}", "features: in another order"),
    ],
)  # fmt: skip
def test_a_change_is_one_line(old: str, new: str, change: str) -> None:
    assert changes((old, new)) == [change]


def test_of_a_first_catalog_everything_is_new() -> None:
    found = catalog_changes.changes(catalog.EMPTY, catalog_file.parsed(BEFORE))
    assert [change.partition(":")[0] for change in found] == [
        "package small", "package big", "plan pro", "feature letter", "feature search", "rate minute", "reward daily",
    ]  # fmt: skip
    assert (
        found[1]
        == "package big: new (name big, credits 1000, price 40.00 usd, flags popular, wallet default, active yes)"
    )
