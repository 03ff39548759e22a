"""The tenant's file: what it says, and what is said of a wrong one."""

from __future__ import annotations

import pathlib
import re

import pytest

from meterd.core import catalog, money, pricing
from meterd.pricing import catalog_file, yaml_file

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "CATALOG.md"


def problem(text: str) -> yaml_file.FileError:
    with pytest.raises(yaml_file.FileError) as caught:
        catalog_file.parsed(text, "catalog.yaml")
    return caught.value


def test_everything_that_a_file_can_say_is_read() -> None:
    found = catalog_file.parsed("""
        credit_value_usd: 0.01
        currency: usd
        account: {welcome_bonus: 10, low_balance: 20.5, plan: pro}
        packages:
          big: {name: Big, credits: 100, bonus: 5.5, price: 19, discount_percent: 12.50, flags: [popular, best value],
                stripe_price: price_1, wallet: chat, active: false}
        plans:
          pro:
            name: Pro
            price: 48.5
            currency: eur
            interval: year
            period: billing_month
            allowances: {default: 1000, forecast: 0}
            unlimited: true
            actions_per_day: 100
            rollover: true
            trial_days: 14
            welcome_bonus: 3
            stripe_price: price_2
            active: false
        features:
          letter: {name: Letter, category: writing, credits: 0.000001, wallet: chat, active: false}
        rates:
          minute: {name: Minute, credits: 0.000000000000001, unit: minute, fractional: false, wallet: chat, active: false}
        margins: {default: 2, providers: {openai: 3}, models: {openai/gpt-4o: 4}, features: {letter: 1.5}}
        rewards:
          daily: {name: Daily, kind: day, credits: 1, weekly_cap: 5, wallet: chat}
          first: {name: First, kind: once, credits: 2, lifetime_spent: 100}
        limits:
          - {id: day, window: day, amount: 5.000001}
          - {id: keys, subject: key, value: web, metric: cost, window: rolling-month, amount: 20, mode: observe}
          - {id: tokens, subject: user, metric: tokens, window: operation, amount: 9007199254740991}
          - {id: parallel, subject: user, metric: open-holds, amount: 0}
        """)
    assert found == catalog.Catalog(
        version=found.version,
        credit_value_femtos=10**13,
        account=catalog.AccountDefaults(welcome_bonus_micros=10_000_000, low_balance_micros=20_500_000, plan_id="pro"),
        packages=(
            catalog.Package(
                package_id="big",
                name="Big",
                amount_micros=100_000_000,
                bonus_micros=5_500_000,
                price="19.00",
                currency="usd",
                discount_percent="12.5",
                flags=("popular", "best value"),
                stripe_price="price_1",
                wallet="chat",
                active=False,
            ),
        ),
        plans=(
            catalog.Plan(
                plan_id="pro",
                name="Pro",
                price="48.50",
                currency="eur",
                interval="year",
                period="billing_month",
                allowances=(
                    catalog.Allowance(wallet="default", amount_micros=1_000_000_000),
                    catalog.Allowance(wallet="forecast", amount_micros=0),
                ),
                unlimited=True,
                actions_per_day=100,
                rollover=True,
                trial_days=14,
                welcome_bonus_micros=3_000_000,
                stripe_price="price_2",
                active=False,
            ),
        ),
        features=(
            catalog.Feature(
                feature_id="letter", name="Letter", category="writing", amount_micros=1, wallet="chat", active=False
            ),
        ),
        rates=(
            catalog.Rate(
                rate_id="minute",
                name="Minute",
                unit_price_scaled=1,
                unit="minute",
                fractional=False,
                wallet="chat",
                active=False,
            ),
        ),
        margins=pricing.Margins(
            default="2", providers={"openai": "3"}, models={"openai/gpt-4o": "4"}, features={"letter": "1.5"}
        ),
        rewards=(
            catalog.Reward(
                reward_id="daily", name="Daily", kind="day", amount_micros=1_000_000, weekly_cap=5, wallet="chat"
            ),
            catalog.Reward(
                reward_id="first", name="First", kind="once", amount_micros=2_000_000, lifetime_spent_micros=100_000_000
            ),
        ),
        limits=(
            catalog.LimitDefault(limit_id="day", subject="account", metric="credits", window="day", cap=5_000_001),
            catalog.LimitDefault(
                limit_id="keys",
                subject="key",
                value="web",
                metric="cost",
                window="rolling-month",
                cap=20_000_000,
                observe=True,
            ),
            catalog.LimitDefault(
                limit_id="tokens", subject="user", metric="tokens", window="operation", cap=9007199254740991
            ),
            catalog.LimitDefault(limit_id="parallel", subject="user", metric="open-holds", window="lifetime", cap=0),
        ),
    )
    assert catalog.from_document(catalog.to_document(found)) == found


def test_what_is_not_said_has_its_default() -> None:
    found = catalog_file.parsed("""
        packages: {small: {credits: 1, price: 5, currency: jpy}}
        plans: {free: {price: 0}}
        features: {letter: {credits: 0}}
        rates: {minute: {credits: 1}}
        """)
    assert found.packages == (
        catalog.Package(package_id="small", name="small", amount_micros=1_000_000, price="5", currency="jpy"),
    )
    assert found.plans == (catalog.Plan(plan_id="free", name="free"),)
    assert found.features == (catalog.Feature(feature_id="letter", name="letter", amount_micros=0),)
    assert found.rates == (catalog.Rate(rate_id="minute", name="minute", unit_price_scaled=10**15),)
    assert (found.margins, found.credit_value_femtos, found.account) == (None, 0, catalog.AccountDefaults())


def test_equal_content_has_an_equal_version() -> None:
    one = catalog_file.parsed("currency: usd\nplans: {pro: {price: 5}}")
    same = catalog_file.parsed("# Another hand.\nplans:\n  pro: {currency: usd, price: 5.00, active: true}\n")
    other = catalog_file.parsed("currency: usd\nplans: {pro: {price: 6}}")
    assert one == same
    assert one.version != other.version
    assert re.fullmatch("[0-9a-f]{12}", one.version)


@pytest.mark.parametrize(
    ("text", "line", "place", "reason"),
    [
        ("pakages: {}", 1, "pakages", "unknown field; known are credit_value_usd, currency, account"),
        ("features:\n  x: {credits: 1, color: red}", 2, "features.x.color", "unknown field"),
        ("features:\n  x: {credits: 1}\n  x: {credits: 2}", 3, "features.x", "stands here twice"),
        ("features:\n  x: {credits: 1,\n      credits: 2}", 3, "features.x.credits", "stands here twice"),
        ("features:\n  x: {name: X}", 2, "features.x.credits", "is missing"),
        ("features:\n  x:\n    credits: -1", 3, "features.x.credits", "must not be negative"),
        ("features:\n  x: {credits: 0.0000001}", 2, "features.x.credits", "finer than can be charged: at most 6"),
        ("features:\n  x: {credits: 1e3}", 2, "features.x.credits", "is not a plain decimal number"),
        ("features:\n  x: {credits: one}", 2, "features.x.credits", "is not a plain decimal number"),
        ("features:\n  x: {credits: .nan}", 2, "features.x.credits", "is not a plain decimal number"),
        ("features:\n  x: {credits: [1]}", 2, "features.x.credits", "must be a single value"),
        ("features:\n  x: {credits: 1, active: yes}", 2, "features.x.active", "'yes' is not one of true, false"),
        ("features:\n  x: {credits: 1, wallet: A B}", 2, "features.x.wallet", "must be 1 to 64 of"),
        ("features:\n  x: {credits: 1, name: null}", 2, "features.x.name", "must be a single value"),
        ("features:\n  x: {credits: 1000000001}", 2, "features.x.credits", "must be at most 1000000000"),
        ("features:\n  - x", 2, "features", "must be a mapping"),
        ("features:\n  a b: {credits: 1}", 2, "features.a b", "must be 1 to 64 letters"),
        ("rates:\n  x: {credits: 0.0000000000000001}", 2, "rates.x.credits", "at most 15 decimals"),
        ("packages:\n  x: {credits: 1, price: 5}", 2, "packages.x.currency", "is missing, here and at the top"),
        ("packages:\n  x: {credits: 1, price: 5, currency: USD}", 2, "packages.x.currency", "three lower-case"),
        ("currency: usd\npackages:\n  x: {credits: 1, price: 5.001}", 3, "packages.x.price", "usd has 2 decimals"),
        ("currency: jpy\npackages:\n  x: {credits: 1, price: 5.5}", 3, "packages.x.price", "jpy has 0 decimals"),
        ("currency: usd\npackages:\n  x: {credits: 1, price: -5}", 3, "packages.x.price", "must not be negative"),
        ("currency: usd\npackages:\n  x: {credits: 0, price: 5}", 3, "packages.x.credits", "must be greater than 0"),
        ("currency: usd\npackages:\n  x: {credits: 1, price: 5, flags: [a, a]}", 3, "packages.x.flags", "each once"),
        ("currency: usd\npackages:\n  x: {credits: 1, price: 5, discount_percent: 101}", 3, "packages.x.discount_percent", "from 0 to 100"),
        ("plans:\n  x: {price: 0, interval: week}", 2, "plans.x.interval", "'week' is not one of month, year"),
        ("plans:\n  x: {price: 0, period: day}", 2, "plans.x.period", "not one of calendar_month, 30_days, billing_month"),
        ("plans:\n  x: {price: 0, actions_per_day: 1.5}", 2, "plans.x.actions_per_day", "must be a whole number"),
        ("plans:\n  x: {price: 0, trial_days: 366}", 2, "plans.x.trial_days", "at most 365"),
        ("plans:\n  x: {price: 0, allowances: {a: 1, a: 2}}", 2, "plans.x.allowances.a", "stands here twice"),
        ("plans:\n  x: {price: 0, allowances: {A: 1}}", 2, "plans.x.allowances.A", "must be 1 to 64 of"),
        ("plans:\n  x: {price: 0, allowances: {a: -1}}", 2, "plans.x.allowances.a", "must not be negative"),
        ("rewards:\n  x: {credits: 1, kind: weekly}", 2, "rewards.x.kind", "'weekly' is not one of once, day, referral"),
        ("rewards:\n  x: {credits: 1, kind: once, weekly_cap: 2}", 2, "rewards.x.weekly_cap", "is for rewards of kind day alone"),
        ("rewards:\n  x: {credits: 1, kind: day, lifetime_spent: 2}", 2, "rewards.x.lifetime_spent", "of kind once alone"),
        ("rewards:\n  x: {credits: 1, kind: day, weekly_cap: 8}", 2, "rewards.x.weekly_cap", "at most 7"),
        ("account: {plan: pro}", 1, "account.plan", "no plan pro in this catalog"),
        ("margins: {default: 0}", 1, "margins.default", "must be a factor greater than 0"),
        ("credit_value_usd: 0", 1, "credit_value_usd", "must be greater than 0"),
        ("limits: {a: b}", 1, "limits", "must be a list"),
        ("limits:\n  - {id: a, window: day, amount: 1}\n  - {window: day, amount: 1}", 3, "limits[1].id", "is missing"),
        ("limits:\n  - {id: a, window: day, amount: 1}\n  - {id: a, window: day, amount: 1}", 3, "limits[1].id", "a stands here twice"),
        ("limits:\n  - {id: a, window: day}", 2, "limits[0].amount", "is missing"),
        ("limits:\n  - {id: a, amount: 1}", 2, "limits[0].window", "is missing"),
        ("limits:\n  - {id: a, window: week, amount: 1}", 2, "limits[0].window", "'week' is not one of minute, hour, day"),
        ("limits:\n  - {id: a, window: day, amount: -1}", 2, "limits[0].amount", "must not be negative"),
        ("limits:\n  - {id: a, window: day, amount: 0.0000001}", 2, "limits[0].amount", "at most 6 decimals"),
        ("limits:\n  - {id: a, window: day, metric: actions, amount: 1.5}", 2, "limits[0].amount", "must be a whole number"),
        ("limits:\n  - {id: a, window: day, metric: dollars, amount: 1}", 2, "limits[0].metric", "'dollars' is not one of credits,"),
        ("limits:\n  - {id: a, window: day, subject: org, amount: 1}", 2, "limits[0].subject", "'org' is not one of account,"),
        ("limits:\n  - {id: a, window: day, amount: 1, value: x}", 2, "limits[0].value", "is for other subjects than account"),
        ("limits:\n  - {id: a, window: day, amount: 1, mode: maybe}", 2, "limits[0].mode", "is not one of enforce, observe"),
        ("limits:\n  - {id: a, window: day, metric: open-holds, amount: 1}", 2, "limits[0].window", "while they are open"),
        ("limits:\n  - {id: a, window: day, amount: 1, max: 2}", 2, "limits[0].max", "unknown field; known are id, subject,"),
        ("limits: [" + ", ".join(f"{{id: l{at}, window: day, amount: 1}}" for at in range(17)) + "]", 1, "limits", "more than 16 entries"),
        ("a: b: c", 1, "", "not YAML"),
        ("features: {", 1, "", "not YAML"),
        ("features: &f {}\nrates: *f", 2, "*f", "aliases are not supported"),
        ("[" * 40, 1, "", "nested more than 32 deep"),
        ("- a", 1, "", "must be a mapping"),
        ("", 0, "", "is empty"),
        ("# Nothing.", 0, "", "is empty"),
        ("a: " + "é" * 600_000, 0, "", "larger than 1048576 bytes"),
        ("{}\n---\n{}", 2, "", "not YAML"),
        ("features:" + "".join(f"\n  f{n}: {{credits: 1}}" for n in range(1001)), 1, "features", "more than 1000 entries"),
        ("plans: {p: {price: 0, allowances: {" + ", ".join(f"w{n}: 1" for n in range(101)) + "}}}", 1, "plans.p.allowances", "more than"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_field(text: str, line: int, place: str, reason: str) -> None:
    found = problem(text)
    assert (found.line, found.place) == (line, place)
    assert reason in found.reason
    assert str(found).startswith(f"catalog.yaml:{line}: " if line else "catalog.yaml: ")


def test_the_document_of_a_later_program_is_not_misread() -> None:
    document = catalog.to_document(catalog.EMPTY)
    with pytest.raises(Exception, match="format 2, expected 1"):
        catalog.from_document(document | {"format": 2})
    with pytest.raises(Exception, match="cannot be read"):
        catalog.from_document(document | {"features": [{"feature_id": "x", "colour": "red"}]})


@pytest.mark.parametrize(
    ("price", "currency", "units"),
    [("19.00", "usd", 1900), ("5", "jpy", 5), ("1.250", "kwd", 1250), ("0.00", "eur", 0)],
)
def test_prices_have_the_decimals_of_their_currency(price: str, currency: str, units: int) -> None:
    assert money.minor_units(price, currency) == units
    assert money.price_string(units, currency) == price


def test_the_example_of_the_documentation_is_right() -> None:
    [example] = re.findall(r"```yaml\n(# catalog\.yaml.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    found = catalog_file.parsed(example)
    sections = (found.packages, found.plans, found.features, found.rates, found.rewards)
    assert all(sections)
