import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from meterd_client.v1 import catalog_pb2 as _catalog_pb2
from meterd_client.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Proration(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRORATION_UNSPECIFIED: _ClassVar[Proration]
    PRORATION_NONE: _ClassVar[Proration]
    PRORATION_CREDITS: _ClassVar[Proration]
PRORATION_UNSPECIFIED: Proration
PRORATION_NONE: Proration
PRORATION_CREDITS: Proration

class Account(_message.Message):
    __slots__ = ("account_id", "overage_policy", "overdraft_limit_micros", "strict_expiry", "frozen", "created_at", "lifetime", "top_up")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRICT_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    TOP_UP_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    overage_policy: _types_pb2.OveragePolicy
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    created_at: _timestamp_pb2.Timestamp
    lifetime: Lifetime
    top_up: TopUp
    def __init__(self, account_id: _Optional[str] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., overdraft_limit_micros: _Optional[int] = ..., strict_expiry: _Optional[bool] = ..., frozen: _Optional[bool] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifetime: _Optional[_Union[Lifetime, _Mapping]] = ..., top_up: _Optional[_Union[TopUp, _Mapping]] = ...) -> None: ...

class Lifetime(_message.Message):
    __slots__ = ("purchased_micros", "earned_micros", "allowance_micros", "spent_micros", "transferred_micros", "lost_micros")
    PURCHASED_MICROS_FIELD_NUMBER: _ClassVar[int]
    EARNED_MICROS_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_MICROS_FIELD_NUMBER: _ClassVar[int]
    SPENT_MICROS_FIELD_NUMBER: _ClassVar[int]
    TRANSFERRED_MICROS_FIELD_NUMBER: _ClassVar[int]
    LOST_MICROS_FIELD_NUMBER: _ClassVar[int]
    purchased_micros: int
    earned_micros: int
    allowance_micros: int
    spent_micros: int
    transferred_micros: int
    lost_micros: int
    def __init__(self, purchased_micros: _Optional[int] = ..., earned_micros: _Optional[int] = ..., allowance_micros: _Optional[int] = ..., spent_micros: _Optional[int] = ..., transferred_micros: _Optional[int] = ..., lost_micros: _Optional[int] = ...) -> None: ...

class CreateAccountRequest(_message.Message):
    __slots__ = ("account_id", "overage_policy", "overdraft_limit_micros", "strict_expiry", "plan_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRICT_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    overage_policy: _types_pb2.OveragePolicy
    overdraft_limit_micros: int
    strict_expiry: bool
    plan_id: str
    def __init__(self, account_id: _Optional[str] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., overdraft_limit_micros: _Optional[int] = ..., strict_expiry: _Optional[bool] = ..., plan_id: _Optional[str] = ...) -> None: ...

class CreateAccountResponse(_message.Message):
    __slots__ = ("account", "replayed", "welcome", "subscription")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    account: Account
    replayed: bool
    welcome: GrantRecord
    subscription: Subscription
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., replayed: _Optional[bool] = ..., welcome: _Optional[_Union[GrantRecord, _Mapping]] = ..., subscription: _Optional[_Union[Subscription, _Mapping]] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class GrantRecord(_message.Message):
    __slots__ = ("grant_id", "account_id", "wallet", "category", "priority", "amount_micros", "available_micros", "held_micros", "effective_at", "expires_at", "source_id", "created_at")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    account_id: str
    wallet: str
    category: _types_pb2.GrantCategory
    priority: int
    amount_micros: int
    available_micros: int
    held_micros: int
    effective_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    source_id: str
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, grant_id: _Optional[str] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., category: _Optional[_Union[_types_pb2.GrantCategory, str]] = ..., priority: _Optional[int] = ..., amount_micros: _Optional[int] = ..., available_micros: _Optional[int] = ..., held_micros: _Optional[int] = ..., effective_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_id: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GrantRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "wallet", "amount_micros", "category", "priority", "effective_at", "expires_at", "source_id")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    wallet: str
    amount_micros: int
    category: _types_pb2.GrantCategory
    priority: int
    effective_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    source_id: str
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., amount_micros: _Optional[int] = ..., category: _Optional[_Union[_types_pb2.GrantCategory, str]] = ..., priority: _Optional[int] = ..., effective_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_id: _Optional[str] = ...) -> None: ...

class GrantResponse(_message.Message):
    __slots__ = ("grant", "replayed", "projected", "balance")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    grant: GrantRecord
    replayed: bool
    projected: bool
    balance: _types_pb2.Balance
    def __init__(self, grant: _Optional[_Union[GrantRecord, _Mapping]] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class RevokeGrantRequest(_message.Message):
    __slots__ = ("idempotency_key", "grant_id", "reason")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    grant_id: str
    reason: str
    def __init__(self, idempotency_key: _Optional[str] = ..., grant_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeGrantResponse(_message.Message):
    __slots__ = ("revoked_micros", "replayed", "projected", "balance")
    REVOKED_MICROS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    revoked_micros: int
    replayed: bool
    projected: bool
    balance: _types_pb2.Balance
    def __init__(self, revoked_micros: _Optional[int] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class GetBalanceRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class GetBalanceResponse(_message.Message):
    __slots__ = ("account_id", "wallets", "unlimited", "freshness_ms", "refreshes_at", "lifetime", "plan_id", "actions_today", "actions_per_day")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLETS_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_MS_FIELD_NUMBER: _ClassVar[int]
    REFRESHES_AT_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_TODAY_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    wallets: _containers.RepeatedCompositeFieldContainer[WalletBalance]
    unlimited: bool
    freshness_ms: int
    refreshes_at: _timestamp_pb2.Timestamp
    lifetime: Lifetime
    plan_id: str
    actions_today: int
    actions_per_day: int
    def __init__(self, account_id: _Optional[str] = ..., wallets: _Optional[_Iterable[_Union[WalletBalance, _Mapping]]] = ..., unlimited: _Optional[bool] = ..., freshness_ms: _Optional[int] = ..., refreshes_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lifetime: _Optional[_Union[Lifetime, _Mapping]] = ..., plan_id: _Optional[str] = ..., actions_today: _Optional[int] = ..., actions_per_day: _Optional[int] = ...) -> None: ...

class WalletBalance(_message.Message):
    __slots__ = ("wallet", "available_micros", "held_micros", "debt_micros", "grants", "refreshes_at", "allowance_micros", "blocked")
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    DEBT_MICROS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    REFRESHES_AT_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCE_MICROS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    wallet: str
    available_micros: int
    held_micros: int
    debt_micros: int
    grants: _containers.RepeatedCompositeFieldContainer[GrantRecord]
    refreshes_at: _timestamp_pb2.Timestamp
    allowance_micros: int
    blocked: bool
    def __init__(self, wallet: _Optional[str] = ..., available_micros: _Optional[int] = ..., held_micros: _Optional[int] = ..., debt_micros: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[GrantRecord, _Mapping]]] = ..., refreshes_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., allowance_micros: _Optional[int] = ..., blocked: _Optional[bool] = ...) -> None: ...

class ListHoldsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListHoldsResponse(_message.Message):
    __slots__ = ("holds", "next_page_token")
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    holds: _containers.RepeatedCompositeFieldContainer[_types_pb2.Hold]
    next_page_token: str
    def __init__(self, holds: _Optional[_Iterable[_Union[_types_pb2.Hold, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListTransactionsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("transaction_id", "kind", "seq", "epoch", "wallet", "amount_micros", "available_after_micros", "held_after_micros", "at", "settlement", "subject", "metadata", "item", "grant_id")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Transaction.Kind]
        KIND_COMMIT: _ClassVar[Transaction.Kind]
        KIND_COMMIT_LATE: _ClassVar[Transaction.Kind]
        KIND_RELEASE: _ClassVar[Transaction.Kind]
        KIND_EXPIRE: _ClassVar[Transaction.Kind]
        KIND_CHARGE: _ClassVar[Transaction.Kind]
        KIND_GRANT: _ClassVar[Transaction.Kind]
        KIND_REVOKE: _ClassVar[Transaction.Kind]
        KIND_GRANT_EXPIRE: _ClassVar[Transaction.Kind]
        KIND_SETTINGS: _ClassVar[Transaction.Kind]
        KIND_TRANSFER: _ClassVar[Transaction.Kind]
        KIND_CLAW_BACK: _ClassVar[Transaction.Kind]
    KIND_UNSPECIFIED: Transaction.Kind
    KIND_COMMIT: Transaction.Kind
    KIND_COMMIT_LATE: Transaction.Kind
    KIND_RELEASE: Transaction.Kind
    KIND_EXPIRE: Transaction.Kind
    KIND_CHARGE: Transaction.Kind
    KIND_GRANT: Transaction.Kind
    KIND_REVOKE: Transaction.Kind
    KIND_GRANT_EXPIRE: Transaction.Kind
    KIND_SETTINGS: Transaction.Kind
    KIND_TRANSFER: Transaction.Kind
    KIND_CLAW_BACK: Transaction.Kind
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_AFTER_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_AFTER_MICROS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    kind: Transaction.Kind
    seq: int
    epoch: int
    wallet: str
    amount_micros: int
    available_after_micros: int
    held_after_micros: int
    at: _timestamp_pb2.Timestamp
    settlement: _types_pb2.Settlement
    subject: _types_pb2.Subject
    metadata: _containers.ScalarMap[str, str]
    item: str
    grant_id: str
    def __init__(self, transaction_id: _Optional[str] = ..., kind: _Optional[_Union[Transaction.Kind, str]] = ..., seq: _Optional[int] = ..., epoch: _Optional[int] = ..., wallet: _Optional[str] = ..., amount_micros: _Optional[int] = ..., available_after_micros: _Optional[int] = ..., held_after_micros: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., settlement: _Optional[_Union[_types_pb2.Settlement, _Mapping]] = ..., subject: _Optional[_Union[_types_pb2.Subject, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., item: _Optional[str] = ..., grant_id: _Optional[str] = ...) -> None: ...

class ListTransactionsResponse(_message.Message):
    __slots__ = ("transactions", "next_page_token")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[Transaction]
    next_page_token: str
    def __init__(self, transactions: _Optional[_Iterable[_Union[Transaction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExplainSettlementRequest(_message.Message):
    __slots__ = ("account_id", "id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    id: str
    def __init__(self, account_id: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class ExplainSettlementResponse(_message.Message):
    __slots__ = ("transaction", "usage", "margin", "credit_value_usd", "exact_micros", "rounded_micros", "held_micros", "steps")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    CREDIT_VALUE_USD_FIELD_NUMBER: _ClassVar[int]
    EXACT_MICROS_FIELD_NUMBER: _ClassVar[int]
    ROUNDED_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    transaction: Transaction
    usage: _types_pb2.Usage
    margin: str
    credit_value_usd: str
    exact_micros: str
    rounded_micros: int
    held_micros: int
    steps: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, transaction: _Optional[_Union[Transaction, _Mapping]] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., margin: _Optional[str] = ..., credit_value_usd: _Optional[str] = ..., exact_micros: _Optional[str] = ..., rounded_micros: _Optional[int] = ..., held_micros: _Optional[int] = ..., steps: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateAccountRequest(_message.Message):
    __slots__ = ("account_id", "overage_policy", "overdraft_limit_micros", "strict_expiry", "frozen")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRICT_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    overage_policy: _types_pb2.OveragePolicy
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    def __init__(self, account_id: _Optional[str] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., overdraft_limit_micros: _Optional[int] = ..., strict_expiry: _Optional[bool] = ..., frozen: _Optional[bool] = ...) -> None: ...

class UpdateAccountResponse(_message.Message):
    __slots__ = ("account", "projected")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    account: Account
    projected: bool
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., projected: _Optional[bool] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("subscription_id", "account_id", "plan", "status", "started_at", "period_no", "period_start", "period_end", "terms_until", "trial_ends_at", "cancel_at_period_end", "canceled_at", "source_id")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[Subscription.Status]
        STATUS_TRIAL: _ClassVar[Subscription.Status]
        STATUS_ACTIVE: _ClassVar[Subscription.Status]
        STATUS_PAST_DUE: _ClassVar[Subscription.Status]
        STATUS_CANCELED: _ClassVar[Subscription.Status]
    STATUS_UNSPECIFIED: Subscription.Status
    STATUS_TRIAL: Subscription.Status
    STATUS_ACTIVE: Subscription.Status
    STATUS_PAST_DUE: Subscription.Status
    STATUS_CANCELED: Subscription.Status
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NO_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_FIELD_NUMBER: _ClassVar[int]
    PERIOD_END_FIELD_NUMBER: _ClassVar[int]
    TERMS_UNTIL_FIELD_NUMBER: _ClassVar[int]
    TRIAL_ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_AT_PERIOD_END_FIELD_NUMBER: _ClassVar[int]
    CANCELED_AT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    account_id: str
    plan: _catalog_pb2.Plan
    status: Subscription.Status
    started_at: _timestamp_pb2.Timestamp
    period_no: int
    period_start: _timestamp_pb2.Timestamp
    period_end: _timestamp_pb2.Timestamp
    terms_until: _timestamp_pb2.Timestamp
    trial_ends_at: _timestamp_pb2.Timestamp
    cancel_at_period_end: bool
    canceled_at: _timestamp_pb2.Timestamp
    source_id: str
    def __init__(self, subscription_id: _Optional[str] = ..., account_id: _Optional[str] = ..., plan: _Optional[_Union[_catalog_pb2.Plan, _Mapping]] = ..., status: _Optional[_Union[Subscription.Status, str]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., period_no: _Optional[int] = ..., period_start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., period_end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., terms_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trial_ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cancel_at_period_end: _Optional[bool] = ..., canceled_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_id: _Optional[str] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "plan_id", "skip_trial", "source_id", "proration")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    SKIP_TRIAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PRORATION_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    plan_id: str
    skip_trial: bool
    source_id: str
    proration: Proration
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., skip_trial: _Optional[bool] = ..., source_id: _Optional[str] = ..., proration: _Optional[_Union[Proration, str]] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("subscription", "replayed", "projected", "welcome")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    subscription: Subscription
    replayed: bool
    projected: bool
    welcome: GrantRecord
    def __init__(self, subscription: _Optional[_Union[Subscription, _Mapping]] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ..., welcome: _Optional[_Union[GrantRecord, _Mapping]] = ...) -> None: ...

class UpdateSubscriptionRequest(_message.Message):
    __slots__ = ("account_id", "past_due")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAST_DUE_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    past_due: bool
    def __init__(self, account_id: _Optional[str] = ..., past_due: _Optional[bool] = ...) -> None: ...

class UpdateSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "projected")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    subscription: Subscription
    projected: bool
    def __init__(self, subscription: _Optional[_Union[Subscription, _Mapping]] = ..., projected: _Optional[bool] = ...) -> None: ...

class CancelSubscriptionRequest(_message.Message):
    __slots__ = ("account_id", "at_once")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    at_once: bool
    def __init__(self, account_id: _Optional[str] = ..., at_once: _Optional[bool] = ...) -> None: ...

class CancelSubscriptionResponse(_message.Message):
    __slots__ = ("subscription", "projected")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    subscription: Subscription
    projected: bool
    def __init__(self, subscription: _Optional[_Union[Subscription, _Mapping]] = ..., projected: _Optional[bool] = ...) -> None: ...

class GetSubscriptionRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class GetSubscriptionResponse(_message.Message):
    __slots__ = ("subscription",)
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    subscription: Subscription
    def __init__(self, subscription: _Optional[_Union[Subscription, _Mapping]] = ...) -> None: ...

class TransferRequest(_message.Message):
    __slots__ = ("idempotency_key", "from_account_id", "from_wallet", "to_account_id", "to_wallet", "amount_micros", "reason")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    FROM_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_WALLET_FIELD_NUMBER: _ClassVar[int]
    TO_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    TO_WALLET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    from_account_id: str
    from_wallet: str
    to_account_id: str
    to_wallet: str
    amount_micros: int
    reason: str
    def __init__(self, idempotency_key: _Optional[str] = ..., from_account_id: _Optional[str] = ..., from_wallet: _Optional[str] = ..., to_account_id: _Optional[str] = ..., to_wallet: _Optional[str] = ..., amount_micros: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TransferRecord(_message.Message):
    __slots__ = ("transfer_id", "amount_micros", "gift")
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    GIFT_FIELD_NUMBER: _ClassVar[int]
    transfer_id: str
    amount_micros: int
    gift: GrantRecord
    def __init__(self, transfer_id: _Optional[str] = ..., amount_micros: _Optional[int] = ..., gift: _Optional[_Union[GrantRecord, _Mapping]] = ...) -> None: ...

class TransferResponse(_message.Message):
    __slots__ = ("transfer", "denial", "replayed", "balance")
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    transfer: TransferRecord
    denial: _types_pb2.Denial
    replayed: bool
    balance: _types_pb2.Balance
    def __init__(self, transfer: _Optional[_Union[TransferRecord, _Mapping]] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ..., replayed: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ClawBackRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "wallet", "amount_micros", "reason")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    wallet: str
    amount_micros: int
    reason: str
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., amount_micros: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ClawBackResponse(_message.Message):
    __slots__ = ("claw_back_id", "replayed", "projected", "balance")
    CLAW_BACK_ID_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    claw_back_id: str
    replayed: bool
    projected: bool
    balance: _types_pb2.Balance
    def __init__(self, claw_back_id: _Optional[str] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ClaimRewardRequest(_message.Message):
    __slots__ = ("account_id", "reward_id", "referred_account_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_ID_FIELD_NUMBER: _ClassVar[int]
    REFERRED_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    reward_id: str
    referred_account_id: str
    def __init__(self, account_id: _Optional[str] = ..., reward_id: _Optional[str] = ..., referred_account_id: _Optional[str] = ...) -> None: ...

class ClaimRewardResponse(_message.Message):
    __slots__ = ("grants", "replayed", "projected", "refusal", "retry_at", "spent_micros", "required_micros")
    class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REFUSAL_UNSPECIFIED: _ClassVar[ClaimRewardResponse.Refusal]
        REFUSAL_WEEKLY_CAP: _ClassVar[ClaimRewardResponse.Refusal]
        REFUSAL_NOT_REACHED: _ClassVar[ClaimRewardResponse.Refusal]
        REFUSAL_ALREADY_REFERRED: _ClassVar[ClaimRewardResponse.Refusal]
    REFUSAL_UNSPECIFIED: ClaimRewardResponse.Refusal
    REFUSAL_WEEKLY_CAP: ClaimRewardResponse.Refusal
    REFUSAL_NOT_REACHED: ClaimRewardResponse.Refusal
    REFUSAL_ALREADY_REFERRED: ClaimRewardResponse.Refusal
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    SPENT_MICROS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_MICROS_FIELD_NUMBER: _ClassVar[int]
    grants: _containers.RepeatedCompositeFieldContainer[GrantRecord]
    replayed: bool
    projected: bool
    refusal: ClaimRewardResponse.Refusal
    retry_at: _timestamp_pb2.Timestamp
    spent_micros: int
    required_micros: int
    def __init__(self, grants: _Optional[_Iterable[_Union[GrantRecord, _Mapping]]] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ..., refusal: _Optional[_Union[ClaimRewardResponse.Refusal, str]] = ..., retry_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., spent_micros: _Optional[int] = ..., required_micros: _Optional[int] = ...) -> None: ...

class TopUp(_message.Message):
    __slots__ = ("package_id", "wallet", "threshold_micros", "per_month_max", "requested_this_month")
    PACKAGE_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_MICROS_FIELD_NUMBER: _ClassVar[int]
    PER_MONTH_MAX_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_THIS_MONTH_FIELD_NUMBER: _ClassVar[int]
    package_id: str
    wallet: str
    threshold_micros: int
    per_month_max: int
    requested_this_month: int
    def __init__(self, package_id: _Optional[str] = ..., wallet: _Optional[str] = ..., threshold_micros: _Optional[int] = ..., per_month_max: _Optional[int] = ..., requested_this_month: _Optional[int] = ...) -> None: ...

class SetTopUpRequest(_message.Message):
    __slots__ = ("account_id", "top_up")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_UP_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    top_up: TopUp
    def __init__(self, account_id: _Optional[str] = ..., top_up: _Optional[_Union[TopUp, _Mapping]] = ...) -> None: ...

class SetTopUpResponse(_message.Message):
    __slots__ = ("top_up", "replayed")
    TOP_UP_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    top_up: TopUp
    replayed: bool
    def __init__(self, top_up: _Optional[_Union[TopUp, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class DeleteTopUpRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class DeleteTopUpResponse(_message.Message):
    __slots__ = ("replayed",)
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replayed: bool
    def __init__(self, replayed: _Optional[bool] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("limit_id", "subject", "value", "metric", "window", "amount", "observe", "counts_from", "from_catalog")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FROM_FIELD_NUMBER: _ClassVar[int]
    FROM_CATALOG_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    subject: _types_pb2.LimitSubject
    value: str
    metric: _types_pb2.LimitMetric
    window: _types_pb2.LimitWindow
    amount: int
    observe: bool
    counts_from: _timestamp_pb2.Timestamp
    from_catalog: bool
    def __init__(self, limit_id: _Optional[str] = ..., subject: _Optional[_Union[_types_pb2.LimitSubject, str]] = ..., value: _Optional[str] = ..., metric: _Optional[_Union[_types_pb2.LimitMetric, str]] = ..., window: _Optional[_Union[_types_pb2.LimitWindow, str]] = ..., amount: _Optional[int] = ..., observe: _Optional[bool] = ..., counts_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., from_catalog: _Optional[bool] = ...) -> None: ...

class LimitUse(_message.Message):
    __slots__ = ("value", "operation_id", "used", "would_deny_count", "resets_at")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    WOULD_DENY_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    value: str
    operation_id: str
    used: int
    would_deny_count: int
    resets_at: _timestamp_pb2.Timestamp
    def __init__(self, value: _Optional[str] = ..., operation_id: _Optional[str] = ..., used: _Optional[int] = ..., would_deny_count: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LimitStatus(_message.Message):
    __slots__ = ("limit", "uses", "use_count")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    USE_COUNT_FIELD_NUMBER: _ClassVar[int]
    limit: Limit
    uses: _containers.RepeatedCompositeFieldContainer[LimitUse]
    use_count: int
    def __init__(self, limit: _Optional[_Union[Limit, _Mapping]] = ..., uses: _Optional[_Iterable[_Union[LimitUse, _Mapping]]] = ..., use_count: _Optional[int] = ...) -> None: ...

class SetLimitRequest(_message.Message):
    __slots__ = ("account_id", "limit")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    limit: Limit
    def __init__(self, account_id: _Optional[str] = ..., limit: _Optional[_Union[Limit, _Mapping]] = ...) -> None: ...

class SetLimitResponse(_message.Message):
    __slots__ = ("limit", "replayed", "projected")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    limit: Limit
    replayed: bool
    projected: bool
    def __init__(self, limit: _Optional[_Union[Limit, _Mapping]] = ..., replayed: _Optional[bool] = ..., projected: _Optional[bool] = ...) -> None: ...

class DeleteLimitRequest(_message.Message):
    __slots__ = ("account_id", "limit_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    limit_id: str
    def __init__(self, account_id: _Optional[str] = ..., limit_id: _Optional[str] = ...) -> None: ...

class DeleteLimitResponse(_message.Message):
    __slots__ = ("replayed", "projected")
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PROJECTED_FIELD_NUMBER: _ClassVar[int]
    replayed: bool
    projected: bool
    def __init__(self, replayed: _Optional[bool] = ..., projected: _Optional[bool] = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class ListLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    def __init__(self, limits: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ...) -> None: ...
