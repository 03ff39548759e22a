"""A tenant's catalog in YAML. docs/CATALOG.md describes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TypeVar

from meterd.core import catalog, limits, money, pricing
from meterd.pricing import yaml_file

# A larger one would take the server seconds to read.
DOCUMENT_BYTES_MAX = 1024 * 1024
# A year's trial is a mistake, and so is a plan with more actions a day than there are milliseconds.
TRIAL_DAYS_MAX = 365
ACTIONS_PER_DAY_MAX = 86_400_000
# No day of the week has two days.
WEEKLY_CAP_MAX = 7
# A badge has room for fewer.
FLAGS_MAX = 20
# In each section. A page of prices with more is read by nobody, and every server has all tenants' catalogs in memory.
ITEMS_MAX = 1_000
# Of one plan.
ALLOWANCES_MAX = 100

_CURRENCY = re.compile(r"[a-z]{3}\Z")
_FIELDS = (
    "credit_value_usd", "currency", "account", "packages", "plans", "features", "rates", "margins", "rewards", "limits"
)  # fmt: skip
_PACKAGE = (
    "name", "credits", "bonus", "price", "currency", "discount_percent", "flags", "stripe_price", "wallet", "active"
)  # fmt: skip
_PLAN = (
    "name", "price", "currency", "interval", "period", "allowances", "unlimited", "actions_per_day", "rollover",
    "trial_days", "welcome_bonus", "stripe_price", "active",
)  # fmt: skip

_LIMIT = ("id", "subject", "value", "metric", "window", "amount", "mode")

ItemT = TypeVar("ItemT")


def parsed(text: str, source: str = "catalog") -> catalog.Catalog:
    """The catalog that a file describes, with its version. yaml_file.FileError names what is wrong with it and where."""
    if len(text.encode(errors="surrogatepass")) > DOCUMENT_BYTES_MAX:
        raise yaml_file.FileError(source, 0, "", f"larger than {DOCUMENT_BYTES_MAX} bytes")
    root = yaml_file.composed(text, source)
    if root is None or yaml_file.is_null(root):
        raise yaml_file.FileError(source, 0, "", "is empty; a catalog that sells nothing is written {}")
    return catalog.versioned(_Reader(source).catalog(root))


class _Reader(yaml_file.Reader):
    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._default_currency = ""

    def catalog(self, root: yaml_file.Node) -> catalog.Catalog:
        fields = self._fields(root, "", _FIELDS)
        self._default_currency = self._optional(fields, "currency", "", self._currency) or ""
        margins = self._optional(fields, "margins", "", self._margins)
        plans = self._all(fields, "plans", self._plan)
        return catalog.Catalog(
            credit_value_femtos=self._optional(fields, "credit_value_usd", "", self._credit_value) or 0,
            packages=self._all(fields, "packages", self._package),
            plans=plans,
            features=self._all(fields, "features", self._feature),
            rates=self._all(fields, "rates", self._rate),
            rewards=self._all(fields, "rewards", self._reward),
            margins=pricing.Margins(**margins) if margins else None,
            limits=tuple(self._optional(fields, "limits", "", self._limits) or ()),
            account=self._optional(fields, "account", "", lambda node, at: self._account(node, at, plans))
            or catalog.AccountDefaults(),
        )

    # ---- sections

    def _all(
        self,
        fields: yaml_file.Fields,
        name: str,
        read: Callable[[yaml_file.Node, str, str], ItemT],
    ) -> tuple[ItemT, ...]:
        """A section: a mapping by id, in the order of the file."""
        if name not in fields:
            return ()
        nodes = self._map(fields[name][1], name, lambda node, at: (node, at))
        if len(nodes) > ITEMS_MAX:
            raise self._error(fields[name][0], name, f"more than {ITEMS_MAX} entries")
        return tuple(read(node, at, item_id) for item_id, (node, at) in nodes.items())

    def _account(self, node: yaml_file.Node, place: str, plans: tuple[catalog.Plan, ...]) -> catalog.AccountDefaults:
        fields = self._fields(node, place, ("welcome_bonus", "low_balance", "plan"))
        plan_id = self._optional(fields, "plan", place, self._text) or ""
        if plan_id and plan_id not in {plan.plan_id for plan in plans}:
            raise self._error(fields["plan"][1], f"{place}.plan", f"no plan {plan_id} in this catalog")
        return catalog.AccountDefaults(
            welcome_bonus_micros=self._micros(fields, "welcome_bonus", place),
            low_balance_micros=self._micros(fields, "low_balance", place),
            plan_id=plan_id,
        )

    def _package(self, node: yaml_file.Node, place: str, package_id: str) -> catalog.Package:
        fields = self._fields(node, place, _PACKAGE)
        price, currency = self._price_of(node, fields, place)
        discount = self._optional(fields, "discount_percent", place, self._percent)
        return catalog.Package(
            package_id=package_id,
            name=self._name(fields, place, package_id),
            amount_micros=self._positive(*self._required(fields, "credits", node, place)),
            bonus_micros=self._micros(fields, "bonus", place),
            price=price,
            currency=currency,
            discount_percent=discount or "",
            flags=tuple(self._optional(fields, "flags", place, self._flags) or ()),
            stripe_price=self._optional(fields, "stripe_price", place, self._text) or "",
            wallet=self._wallet_of(fields, place),
            active=self._flag(fields, "active", place),
        )

    def _plan(self, node: yaml_file.Node, place: str, plan_id: str) -> catalog.Plan:
        fields = self._fields(node, place, _PLAN)
        price, currency = self._price_of(node, fields, place)
        allowances: dict[str, int] = self._optional(fields, "allowances", place, self._allowances) or {}
        return catalog.Plan(
            plan_id=plan_id,
            name=self._name(fields, place, plan_id),
            price=price,
            currency=currency,
            interval=self._one_of(fields, "interval", place, catalog.INTERVALS),
            period=self._one_of(fields, "period", place, catalog.PERIODS),
            allowances=tuple(catalog.Allowance(wallet=key, amount_micros=value) for key, value in allowances.items()),
            unlimited=self._flag(fields, "unlimited", place, absent=False),
            actions_per_day=self._count(fields, "actions_per_day", place, ACTIONS_PER_DAY_MAX),
            rollover=self._flag(fields, "rollover", place, absent=False),
            trial_days=self._count(fields, "trial_days", place, TRIAL_DAYS_MAX),
            welcome_bonus_micros=self._micros(fields, "welcome_bonus", place),
            stripe_price=self._optional(fields, "stripe_price", place, self._text) or "",
            active=self._flag(fields, "active", place),
        )

    def _feature(self, node: yaml_file.Node, place: str, feature_id: str) -> catalog.Feature:
        fields = self._fields(node, place, ("name", "category", "credits", "wallet", "active"))
        return catalog.Feature(
            feature_id=feature_id,
            name=self._name(fields, place, feature_id),
            category=self._optional(fields, "category", place, self._text) or "",
            amount_micros=self._amount(*self._required(fields, "credits", node, place)),
            wallet=self._wallet_of(fields, place),
            active=self._flag(fields, "active", place),
        )

    def _rate(self, node: yaml_file.Node, place: str, rate_id: str) -> catalog.Rate:
        fields = self._fields(node, place, ("name", "credits", "unit", "fractional", "wallet", "active"))
        scaled = self._credits(*self._required(fields, "credits", node, place), 6 + pricing.RATE_DECIMALS)
        return catalog.Rate(
            rate_id=rate_id,
            name=self._name(fields, place, rate_id),
            unit_price_scaled=scaled,
            unit=self._optional(fields, "unit", place, self._text) or "",
            fractional=self._flag(fields, "fractional", place),
            wallet=self._wallet_of(fields, place),
            active=self._flag(fields, "active", place),
        )

    def _reward(self, node: yaml_file.Node, place: str, reward_id: str) -> catalog.Reward:
        fields = self._fields(node, place, ("name", "credits", "kind", "weekly_cap", "lifetime_spent", "wallet"))
        kind_node, kind_at = self._required(fields, "kind", node, place)
        kind = self._choice(kind_node, kind_at, catalog.REWARD_KINDS)
        for name, of in (("weekly_cap", catalog.DAY), ("lifetime_spent", catalog.ONCE)):
            if name in fields and kind != of:
                raise self._error(fields[name][0], f"{place}.{name}", f"is for rewards of kind {of} alone")
        return catalog.Reward(
            reward_id=reward_id,
            name=self._name(fields, place, reward_id),
            amount_micros=self._positive(*self._required(fields, "credits", node, place)),
            kind=kind,
            weekly_cap=self._count(fields, "weekly_cap", place, WEEKLY_CAP_MAX),
            lifetime_spent_micros=self._micros(fields, "lifetime_spent", place),
            wallet=self._wallet_of(fields, place),
        )

    def _limits(self, node: yaml_file.Node, place: str) -> list[catalog.LimitDefault]:
        items = self._items(node, place)
        if len(items) > limits.LIMITS_PER_CATALOG_MAX:
            raise self._error(node, place, f"more than {limits.LIMITS_PER_CATALOG_MAX} entries")
        found: dict[str, catalog.LimitDefault] = {}
        for index, item in enumerate(items):
            limit = self._limit(item, f"{place}[{index}]")
            if limit.limit_id in found:
                raise self._error(item, f"{place}[{index}].id", f"{limit.limit_id} stands here twice")
            found[limit.limit_id] = limit
        return list(found.values())

    def _limit(self, node: yaml_file.Node, place: str) -> catalog.LimitDefault:
        fields = self._fields(node, place, _LIMIT)
        subject = self._one_of(fields, "subject", place, tuple(limits.SUBJECTS))
        metric = self._one_of(fields, "metric", place, tuple(limits.METRICS))
        if "value" in fields and limits.SUBJECTS[subject] is limits.Subject.ACCOUNT:
            raise self._error(fields["value"][0], f"{place}.value", "is for other subjects than account")
        is_windowless = limits.METRICS[metric] is limits.Metric.HOLDS
        if is_windowless and "window" in fields:
            raise self._error(fields["window"][0], f"{place}.window", "open-holds are counted while they are open")
        window = limits.word(limits.Window.LIFETIME)
        if not is_windowless:
            window = self._choice(*self._required(fields, "window", node, place), tuple(limits.WINDOWS))
        amount_node, amount_at = self._required(fields, "amount", node, place)
        return catalog.LimitDefault(
            limit_id=self._text(*self._required(fields, "id", node, place)),
            subject=subject,
            value=self._optional(fields, "value", place, self._text) or "",
            metric=metric,
            window=window,
            cap=self._cap(amount_node, amount_at, limits.METRICS[metric]),
            observe=self._one_of(fields, "mode", place, ("enforce", "observe")) == "observe",
        )

    def _cap(self, node: yaml_file.Node, place: str, metric: limits.Metric) -> int:
        if metric in (limits.Metric.CREDITS, limits.Metric.COST):
            return self._amount(node, place)
        text = self._scalar(node, place)
        # Tokens of a month may be more than a price can be.
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= limits.CAP_MAX):
            raise self._error(node, place, f"must be a whole number of at most {limits.CAP_MAX}")
        return int(text)

    # ---- parts

    def _allowances(self, node: yaml_file.Node, place: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for key, (key_node, value) in self._fields(node, place, None).items():
            found[self._wallet(key_node, f"{place}.{key[:80]}")] = self._amount(value, f"{place}.{key[:80]}")
        if len(found) > ALLOWANCES_MAX:
            raise self._error(node, place, f"more than {ALLOWANCES_MAX} entries")
        return found

    def _price_of(self, node: yaml_file.Node, fields: yaml_file.Fields, place: str) -> tuple[str, str]:
        """Price with the currency's decimals, and currency; "0" and "" for what is free and says no currency."""
        currency = self._optional(fields, "currency", place, self._currency) or self._default_currency
        price_node, at = self._required(fields, "price", node, place)
        price = self._number(price_node, at)
        if not currency:
            if price:
                raise self._error(node, f"{place}.currency", "is missing, here and at the top")
            return "0", ""
        units = money.scaled(price, money.currency_decimals(currency))
        if units is None:
            decimals = money.currency_decimals(currency)
            raise self._error(price_node, at, f"{currency} has {decimals} decimals")
        return money.price_string(units, currency), currency

    def _currency(self, node: yaml_file.Node, place: str) -> str:
        text = self._scalar(node, place)
        if not _CURRENCY.match(text):
            raise self._error(node, place, "must be three lower-case letters, such as usd")
        return text

    def _percent(self, node: yaml_file.Node, place: str) -> str:
        value = self._number(node, place)
        scaled = money.scaled(value, 2)
        if scaled is None or value > Decimal(100):
            raise self._error(node, place, "must be from 0 to 100, with at most 2 decimals")
        return money.decimal_string(scaled, 2)

    def _flags(self, node: yaml_file.Node, place: str) -> list[str]:
        flags = self._texts(node, place)
        if len(flags) > FLAGS_MAX or len(set(flags)) < len(flags):
            raise self._error(node, place, f"must be at most {FLAGS_MAX}, each once")
        return flags

    def _name(self, fields: yaml_file.Fields, place: str, item_id: str) -> str:
        return self._optional(fields, "name", place, self._text) or item_id

    def _wallet_of(self, fields: yaml_file.Fields, place: str) -> str:
        return self._optional(fields, "wallet", place, self._wallet) or catalog.DEFAULT_WALLET

    def _one_of(self, fields: yaml_file.Fields, name: str, place: str, choices: tuple[str, ...]) -> str:
        """The first choice if the field is not there."""
        return self._optional(fields, name, place, lambda node, at: self._choice(node, at, choices)) or choices[0]

    def _amount(self, node: yaml_file.Node, place: str) -> int:
        """Credits as micro-credits."""
        return self._credits(node, place, 6)

    def _positive(self, node: yaml_file.Node, place: str) -> int:
        amount = self._amount(node, place)
        if not amount:
            raise self._error(node, place, "must be greater than 0")
        return amount

    def _micros(self, fields: yaml_file.Fields, name: str, place: str) -> int:
        return self._optional(fields, name, place, self._amount) or 0

    def _count(self, fields: yaml_file.Fields, name: str, place: str, most: int) -> int:
        """A whole number, 0 if the field is not there."""

        def read(node: yaml_file.Node, at: str) -> int:
            count = money.scaled(self._number(node, at), 0)
            if count is None or count > most:
                raise self._error(node, at, f"must be a whole number of at most {most}")
            return count

        return self._optional(fields, name, place, read) or 0
