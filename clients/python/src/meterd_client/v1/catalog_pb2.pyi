import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from meterd_client.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Period(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PERIOD_UNSPECIFIED: _ClassVar[Period]
    PERIOD_CALENDAR_MONTH: _ClassVar[Period]
    PERIOD_30_DAYS: _ClassVar[Period]
    PERIOD_BILLING_MONTH: _ClassVar[Period]
PERIOD_UNSPECIFIED: Period
PERIOD_CALENDAR_MONTH: Period
PERIOD_30_DAYS: Period
PERIOD_BILLING_MONTH: Period

class Package(_message.Message):
    __slots__ = ("package_id", "name", "amount_micros", "bonus_micros", "price", "currency", "discount_percent", "flags", "stripe_price", "wallet", "active")
    PACKAGE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    BONUS_MICROS_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_PERCENT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    STRIPE_PRICE_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    package_id: str
    name: str
    amount_micros: int
    bonus_micros: int
    price: str
    currency: str
    discount_percent: str
    flags: _containers.RepeatedScalarFieldContainer[str]
    stripe_price: str
    wallet: str
    active: bool
    def __init__(self, package_id: _Optional[str] = ..., name: _Optional[str] = ..., amount_micros: _Optional[int] = ..., bonus_micros: _Optional[int] = ..., price: _Optional[str] = ..., currency: _Optional[str] = ..., discount_percent: _Optional[str] = ..., flags: _Optional[_Iterable[str]] = ..., stripe_price: _Optional[str] = ..., wallet: _Optional[str] = ..., active: _Optional[bool] = ...) -> None: ...

class Allowance(_message.Message):
    __slots__ = ("wallet", "amount_micros")
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    wallet: str
    amount_micros: int
    def __init__(self, wallet: _Optional[str] = ..., amount_micros: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("plan_id", "name", "price", "currency", "interval", "period", "allowances", "unlimited", "actions_per_day", "rollover", "trial_days", "welcome_bonus_micros", "stripe_price", "active")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    ROLLOVER_FIELD_NUMBER: _ClassVar[int]
    TRIAL_DAYS_FIELD_NUMBER: _ClassVar[int]
    WELCOME_BONUS_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRIPE_PRICE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    name: str
    price: str
    currency: str
    interval: str
    period: Period
    allowances: _containers.RepeatedCompositeFieldContainer[Allowance]
    unlimited: bool
    actions_per_day: int
    rollover: bool
    trial_days: int
    welcome_bonus_micros: int
    stripe_price: str
    active: bool
    def __init__(self, plan_id: _Optional[str] = ..., name: _Optional[str] = ..., price: _Optional[str] = ..., currency: _Optional[str] = ..., interval: _Optional[str] = ..., period: _Optional[_Union[Period, str]] = ..., allowances: _Optional[_Iterable[_Union[Allowance, _Mapping]]] = ..., unlimited: _Optional[bool] = ..., actions_per_day: _Optional[int] = ..., rollover: _Optional[bool] = ..., trial_days: _Optional[int] = ..., welcome_bonus_micros: _Optional[int] = ..., stripe_price: _Optional[str] = ..., active: _Optional[bool] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("feature_id", "name", "category", "amount_micros", "wallet", "active", "unit_micros")
    FEATURE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    UNIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    feature_id: str
    name: str
    category: str
    amount_micros: int
    wallet: str
    active: bool
    unit_micros: str
    def __init__(self, feature_id: _Optional[str] = ..., name: _Optional[str] = ..., category: _Optional[str] = ..., amount_micros: _Optional[int] = ..., wallet: _Optional[str] = ..., active: _Optional[bool] = ..., unit_micros: _Optional[str] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("rate_id", "name", "unit_micros", "wallet", "active", "unit", "fractional")
    RATE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    FRACTIONAL_FIELD_NUMBER: _ClassVar[int]
    rate_id: str
    name: str
    unit_micros: str
    wallet: str
    active: bool
    unit: str
    fractional: bool
    def __init__(self, rate_id: _Optional[str] = ..., name: _Optional[str] = ..., unit_micros: _Optional[str] = ..., wallet: _Optional[str] = ..., active: _Optional[bool] = ..., unit: _Optional[str] = ..., fractional: _Optional[bool] = ...) -> None: ...

class Reward(_message.Message):
    __slots__ = ("reward_id", "name", "amount_micros", "kind", "weekly_cap", "lifetime_spent_micros", "wallet")
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WEEKLY_CAP_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_SPENT_MICROS_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    reward_id: str
    name: str
    amount_micros: int
    kind: str
    weekly_cap: int
    lifetime_spent_micros: int
    wallet: str
    def __init__(self, reward_id: _Optional[str] = ..., name: _Optional[str] = ..., amount_micros: _Optional[int] = ..., kind: _Optional[str] = ..., weekly_cap: _Optional[int] = ..., lifetime_spent_micros: _Optional[int] = ..., wallet: _Optional[str] = ...) -> None: ...

class AccountDefaults(_message.Message):
    __slots__ = ("welcome_bonus_micros", "low_balance_micros", "plan_id")
    WELCOME_BONUS_MICROS_FIELD_NUMBER: _ClassVar[int]
    LOW_BALANCE_MICROS_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    welcome_bonus_micros: int
    low_balance_micros: int
    plan_id: str
    def __init__(self, welcome_bonus_micros: _Optional[int] = ..., low_balance_micros: _Optional[int] = ..., plan_id: _Optional[str] = ...) -> None: ...

class LimitDefault(_message.Message):
    __slots__ = ("limit_id", "subject", "value", "metric", "window", "amount", "observe")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    subject: _types_pb2.LimitSubject
    value: str
    metric: _types_pb2.LimitMetric
    window: _types_pb2.LimitWindow
    amount: int
    observe: bool
    def __init__(self, limit_id: _Optional[str] = ..., subject: _Optional[_Union[_types_pb2.LimitSubject, str]] = ..., value: _Optional[str] = ..., metric: _Optional[_Union[_types_pb2.LimitMetric, str]] = ..., window: _Optional[_Union[_types_pb2.LimitWindow, str]] = ..., amount: _Optional[int] = ..., observe: _Optional[bool] = ...) -> None: ...

class GetCatalogRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCatalogResponse(_message.Message):
    __slots__ = ("version", "packages", "plans", "features", "rates", "rewards", "credit_value_usd", "applied_at", "account", "price_version", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_VALUE_USD_FIELD_NUMBER: _ClassVar[int]
    APPLIED_AT_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    packages: _containers.RepeatedCompositeFieldContainer[Package]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    rates: _containers.RepeatedCompositeFieldContainer[Rate]
    rewards: _containers.RepeatedCompositeFieldContainer[Reward]
    credit_value_usd: str
    applied_at: _timestamp_pb2.Timestamp
    account: AccountDefaults
    price_version: str
    limits: _containers.RepeatedCompositeFieldContainer[LimitDefault]
    def __init__(self, version: _Optional[str] = ..., packages: _Optional[_Iterable[_Union[Package, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., rates: _Optional[_Iterable[_Union[Rate, _Mapping]]] = ..., rewards: _Optional[_Iterable[_Union[Reward, _Mapping]]] = ..., credit_value_usd: _Optional[str] = ..., applied_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., account: _Optional[_Union[AccountDefaults, _Mapping]] = ..., price_version: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[LimitDefault, _Mapping]]] = ...) -> None: ...

class ApplyCatalogRequest(_message.Message):
    __slots__ = ("document", "dry_run", "expected_version", "applied_by")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_BY_FIELD_NUMBER: _ClassVar[int]
    document: str
    dry_run: bool
    expected_version: str
    applied_by: str
    def __init__(self, document: _Optional[str] = ..., dry_run: _Optional[bool] = ..., expected_version: _Optional[str] = ..., applied_by: _Optional[str] = ...) -> None: ...

class ApplyCatalogResponse(_message.Message):
    __slots__ = ("version", "changes", "applied", "previous_version")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    changes: _containers.RepeatedScalarFieldContainer[str]
    applied: bool
    previous_version: str
    def __init__(self, version: _Optional[str] = ..., changes: _Optional[_Iterable[str]] = ..., applied: _Optional[bool] = ..., previous_version: _Optional[str] = ...) -> None: ...
