"""What a tenant sells: packages, plans, features, rates and rewards. Pure.

Amounts are whole micro-credits, prices decimal strings in the currency's major unit. pricing/catalog_file.py reads it from YAML, and
`to_document` is the form in which it is kept: nothing that the tenant can say is left out, so that its hash is the version.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from meterd.core import errors, pricing

# Raised when the same document would mean something else.
FORMAT = 1
VERSION_CHARS = 12
DEFAULT_WALLET = "default"

# How long an allowance lasts. See Period in catalog.proto.
CALENDAR_MONTH, DAYS_30, BILLING_MONTH = "calendar_month", "30_days", "billing_month"
PERIODS = (CALENDAR_MONTH, DAYS_30, BILLING_MONTH)
# How often a plan is paid.
MONTH, YEAR = "month", "year"
INTERVALS = (MONTH, YEAR)
# When a reward is due: once per account, once a UTC day, or to both sides of a referral.
ONCE, DAY, REFERRAL = "once", "day", "referral"
REWARD_KINDS = (ONCE, DAY, REFERRAL)

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """Credits to buy once."""

    package_id: str
    name: str
    amount_micros: int
    # Granted besides, as promotional credits.
    bonus_micros: int = 0
    price: str
    # ISO 4217, lower case.
    currency: str
    # For display alone.
    discount_percent: str = ""
    flags: tuple[str, ...] = ()
    stripe_price: str = ""
    wallet: str = DEFAULT_WALLET
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """Credits of a plan in one wallet, each period; 0 blocks the wallet."""

    wallet: str
    amount_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A subscription, or what an account has without one (price "0")."""

    plan_id: str
    name: str
    price: str = "0"
    currency: str = ""
    interval: str = MONTH
    period: str = CALENDAR_MONTH
    allowances: tuple[Allowance, ...] = ()
    # Nothing is deducted while it lasts.
    unlimited: bool = False
    # 0: no limit.
    actions_per_day: int = 0
    # Whether what is left of an allowance is kept for one period more.
    rollover: bool = False
    trial_days: int = 0
    welcome_bonus_micros: int = 0
    stripe_price: str = ""
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A fixed price per action."""

    feature_id: str
    name: str
    category: str = ""
    amount_micros: int
    # The wallet that pays unless a call names one.
    wallet: str = DEFAULT_WALLET
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A price per unit, such as a minute or a megabyte."""

    rate_id: str
    name: str
    # In 1e-9 micro-credits, as in core.pricing.
    unit_price_scaled: int
    unit: str = ""
    # Whether a part of a unit can be charged.
    fractional: bool = True
    wallet: str = DEFAULT_WALLET
    active: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """Credits for something that a user does."""

    reward_id: str
    name: str
    amount_micros: int
    kind: str
    # For DAY: at most so many from Monday to Sunday, UTC; 0: no cap.
    weekly_cap: int = 0
    # For ONCE: granted by itself when the account's lifetime spending reaches it; 0: only when claimed.
    lifetime_spent_micros: int = 0
    wallet: str = DEFAULT_WALLET


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LimitDefault:
    """A limit of every account, in the words of core.limits, its cap in the metric's unit. An account's own one of that id goes before."""

    limit_id: str
    subject: str
    value: str = ""
    metric: str
    window: str
    cap: int
    observe: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AccountDefaults:
    """What a new account begins with."""

    # Promotional credits, granted once.
    welcome_bonus_micros: int = 0
    # A balance at or below it is low; 0: no notice.
    low_balance_micros: int = 0
    # The plan of an account without a subscription; "": none.
    plan_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """All that a tenant sells. `version` names the content; "" is the catalog of a tenant that never applied one."""

    version: str = ""
    # Femto-dollars per credit; 0: the server's.
    credit_value_femtos: int = 0
    packages: tuple[Package, ...] = ()
    plans: tuple[Plan, ...] = ()
    features: tuple[Feature, ...] = ()
    rates: tuple[Rate, ...] = ()
    rewards: tuple[Reward, ...] = ()
    # None: the server's.
    margins: pricing.Margins | None = None
    limits: tuple[LimitDefault, ...] = ()
    account: AccountDefaults = dataclasses.field(default_factory=AccountDefaults)

    def package(self, package_id: str) -> Package | None:
        return next((item for item in self.packages if item.package_id == package_id), None)

    def plan(self, plan_id: str) -> Plan | None:
        return next((item for item in self.plans if item.plan_id == plan_id), None)

    def feature(self, feature_id: str) -> Feature | None:
        return next((item for item in self.features if item.feature_id == feature_id), None)

    def rate(self, rate_id: str) -> Rate | None:
        return next((item for item in self.rates if item.rate_id == rate_id), None)

    def reward(self, reward_id: str) -> Reward | None:
        return next((item for item in self.rewards if item.reward_id == reward_id), None)


EMPTY = Catalog()


def to_document(catalog: Catalog) -> Document:
    """The catalog as JSON values, without its version."""
    document = dataclasses.asdict(catalog)
    del document["version"]
    return {"format": FORMAT, **orjson.loads(orjson.dumps(document))}


def canonical(document: Mapping[str, Any]) -> bytes:
    """The document as bytes that are equal for equal documents."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def version_of(document: Mapping[str, Any]) -> str:
    """The version that names this content."""
    return hashlib.blake2b(canonical(document), digest_size=VERSION_CHARS // 2).hexdigest()


def from_document(document: Mapping[str, Any]) -> Catalog:
    """The catalog of a document, with its version. FailedPreconditionError if a later meterd wrote it."""
    if document.get("format") != FORMAT:
        raise errors.FailedPreconditionError(f"catalog: format {document.get('format')!r}, expected {FORMAT}")
    try:
        return Catalog(
            version=version_of(document),
            credit_value_femtos=document["credit_value_femtos"],
            packages=tuple(_package(item) for item in document["packages"]),
            plans=tuple(plan_of(item) for item in document["plans"]),
            features=_all(Feature, document["features"]),
            rates=_all(Rate, document["rates"]),
            rewards=_all(Reward, document["rewards"]),
            margins=pricing.Margins(**document["margins"]) if document["margins"] else None,
            limits=_all(LimitDefault, document["limits"]),
            account=AccountDefaults(**document["account"]),
        )
    except (KeyError, TypeError) as exc:
        raise errors.FailedPreconditionError(f"catalog: cannot be read: {exc}") from exc


def versioned(catalog: Catalog) -> Catalog:
    """The catalog with the version of its content."""
    return dataclasses.replace(catalog, version=version_of(to_document(catalog)))


ItemT = TypeVar("ItemT", Feature, Rate, Reward, LimitDefault)


def _all(kind: type[ItemT], items: list[Document]) -> tuple[ItemT, ...]:
    return tuple(kind(**item) for item in items)


def _package(item: Document) -> Package:
    values: Document = item | {"flags": tuple(item["flags"])}
    return Package(**values)


def plan_of(item: Document) -> Plan:
    """The plan of its document."""
    values: Document = item | {"allowances": tuple(Allowance(**allowance) for allowance in item["allowances"])}
    return Plan(**values)


def plan_document(plan: Plan) -> Document:
    """The plan as JSON values, which `plan_of` reads."""
    return orjson.loads(orjson.dumps(dataclasses.asdict(plan)))
