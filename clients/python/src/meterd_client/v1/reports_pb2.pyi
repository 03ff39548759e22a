import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageRequest(_message.Message):
    __slots__ = ("from_day", "to_day", "account_id", "group_by", "limit")
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    from_day: str
    to_day: str
    account_id: str
    group_by: _containers.RepeatedScalarFieldContainer[str]
    limit: int
    def __init__(self, from_day: _Optional[str] = ..., to_day: _Optional[str] = ..., account_id: _Optional[str] = ..., group_by: _Optional[_Iterable[str]] = ..., limit: _Optional[int] = ...) -> None: ...

class UsageRow(_message.Message):
    __slots__ = ("group", "actions", "charged_micros", "uncollected_micros", "input_tokens", "output_tokens", "cost_usd", "margin_usd")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_MICROS_FIELD_NUMBER: _ClassVar[int]
    UNCOLLECTED_MICROS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    MARGIN_USD_FIELD_NUMBER: _ClassVar[int]
    group: _containers.RepeatedScalarFieldContainer[str]
    actions: int
    charged_micros: int
    uncollected_micros: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    margin_usd: str
    def __init__(self, group: _Optional[_Iterable[str]] = ..., actions: _Optional[int] = ..., charged_micros: _Optional[int] = ..., uncollected_micros: _Optional[int] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_usd: _Optional[str] = ..., margin_usd: _Optional[str] = ...) -> None: ...

class UsageResponse(_message.Message):
    __slots__ = ("rows", "total", "has_more")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[UsageRow]
    total: UsageRow
    has_more: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[UsageRow, _Mapping]]] = ..., total: _Optional[_Union[UsageRow, _Mapping]] = ..., has_more: _Optional[bool] = ...) -> None: ...

class RevenueRequest(_message.Message):
    __slots__ = ("from_day", "to_day")
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    from_day: str
    to_day: str
    def __init__(self, from_day: _Optional[str] = ..., to_day: _Optional[str] = ...) -> None: ...

class RevenueRow(_message.Message):
    __slots__ = ("currency", "package_revenue", "subscription_revenue", "purchases", "average_purchase")
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_REVENUE_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_REVENUE_FIELD_NUMBER: _ClassVar[int]
    PURCHASES_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PURCHASE_FIELD_NUMBER: _ClassVar[int]
    currency: str
    package_revenue: str
    subscription_revenue: str
    purchases: int
    average_purchase: str
    def __init__(self, currency: _Optional[str] = ..., package_revenue: _Optional[str] = ..., subscription_revenue: _Optional[str] = ..., purchases: _Optional[int] = ..., average_purchase: _Optional[str] = ...) -> None: ...

class RevenueResponse(_message.Message):
    __slots__ = ("rows", "accounts", "paying_accounts", "conversion_percent")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    PAYING_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    CONVERSION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[RevenueRow]
    accounts: int
    paying_accounts: int
    conversion_percent: str
    def __init__(self, rows: _Optional[_Iterable[_Union[RevenueRow, _Mapping]]] = ..., accounts: _Optional[int] = ..., paying_accounts: _Optional[int] = ..., conversion_percent: _Optional[str] = ...) -> None: ...

class BurnRequest(_message.Message):
    __slots__ = ("account_id", "days")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    days: int
    def __init__(self, account_id: _Optional[str] = ..., days: _Optional[int] = ...) -> None: ...

class BurnResponse(_message.Message):
    __slots__ = ("available_micros", "charged_per_day_micros", "days_left", "runs_out_at")
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_PER_DAY_MICROS_FIELD_NUMBER: _ClassVar[int]
    DAYS_LEFT_FIELD_NUMBER: _ClassVar[int]
    RUNS_OUT_AT_FIELD_NUMBER: _ClassVar[int]
    available_micros: int
    charged_per_day_micros: int
    days_left: str
    runs_out_at: _timestamp_pb2.Timestamp
    def __init__(self, available_micros: _Optional[int] = ..., charged_per_day_micros: _Optional[int] = ..., days_left: _Optional[str] = ..., runs_out_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TopAccountsRequest(_message.Message):
    __slots__ = ("from_day", "to_day", "limit")
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    TO_DAY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    from_day: str
    to_day: str
    limit: int
    def __init__(self, from_day: _Optional[str] = ..., to_day: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class TopAccountsResponse(_message.Message):
    __slots__ = ("rows",)
    class Row(_message.Message):
        __slots__ = ("account_id", "actions", "charged_micros", "cost_usd")
        ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
        ACTIONS_FIELD_NUMBER: _ClassVar[int]
        CHARGED_MICROS_FIELD_NUMBER: _ClassVar[int]
        COST_USD_FIELD_NUMBER: _ClassVar[int]
        account_id: str
        actions: int
        charged_micros: int
        cost_usd: str
        def __init__(self, account_id: _Optional[str] = ..., actions: _Optional[int] = ..., charged_micros: _Optional[int] = ..., cost_usd: _Optional[str] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[TopAccountsResponse.Row]
    def __init__(self, rows: _Optional[_Iterable[_Union[TopAccountsResponse.Row, _Mapping]]] = ...) -> None: ...
