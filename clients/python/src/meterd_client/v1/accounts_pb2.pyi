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

class Account(_message.Message):
    __slots__ = ("account_id", "overage_policy", "overdraft_limit_micros", "strict_expiry", "frozen", "created_at")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRICT_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    overage_policy: _types_pb2.OveragePolicy
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, account_id: _Optional[str] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., overdraft_limit_micros: _Optional[int] = ..., strict_expiry: _Optional[bool] = ..., frozen: _Optional[bool] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateAccountRequest(_message.Message):
    __slots__ = ("account_id", "overage_policy", "overdraft_limit_micros", "strict_expiry")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
    STRICT_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    overage_policy: _types_pb2.OveragePolicy
    overdraft_limit_micros: int
    strict_expiry: bool
    def __init__(self, account_id: _Optional[str] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., overdraft_limit_micros: _Optional[int] = ..., strict_expiry: _Optional[bool] = ...) -> None: ...

class CreateAccountResponse(_message.Message):
    __slots__ = ("account", "replayed")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    account: Account
    replayed: bool
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

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

class GetBalanceResponse(_message.Message):
    __slots__ = ("account_id", "wallets", "unlimited", "freshness_ms")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLETS_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_MS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    wallets: _containers.RepeatedCompositeFieldContainer[WalletBalance]
    unlimited: bool
    freshness_ms: int
    def __init__(self, account_id: _Optional[str] = ..., wallets: _Optional[_Iterable[_Union[WalletBalance, _Mapping]]] = ..., unlimited: _Optional[bool] = ..., freshness_ms: _Optional[int] = ...) -> None: ...

class WalletBalance(_message.Message):
    __slots__ = ("wallet", "available_micros", "held_micros", "debt_micros", "grants")
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    DEBT_MICROS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    wallet: str
    available_micros: int
    held_micros: int
    debt_micros: int
    grants: _containers.RepeatedCompositeFieldContainer[GrantRecord]
    def __init__(self, wallet: _Optional[str] = ..., available_micros: _Optional[int] = ..., held_micros: _Optional[int] = ..., debt_micros: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[GrantRecord, _Mapping]]] = ...) -> None: ...

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
