import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OveragePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERAGE_POLICY_UNSPECIFIED: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_CAP: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_DRAW: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_OVERDRAFT: _ClassVar[OveragePolicy]

class ExpiryPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPIRY_POLICY_UNSPECIFIED: _ClassVar[ExpiryPolicy]
    EXPIRY_POLICY_RELEASE: _ClassVar[ExpiryPolicy]
    EXPIRY_POLICY_CHARGE_REPORTED: _ClassVar[ExpiryPolicy]
    EXPIRY_POLICY_CHARGE_ESTIMATE: _ClassVar[ExpiryPolicy]

class UsageState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_STATE_UNSPECIFIED: _ClassVar[UsageState]
    USAGE_STATE_REPORTED: _ClassVar[UsageState]
    USAGE_STATE_PARTIAL: _ClassVar[UsageState]
    USAGE_STATE_ESTIMATED: _ClassVar[UsageState]
    USAGE_STATE_ABSENT: _ClassVar[UsageState]

class GrantCategory(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_CATEGORY_UNSPECIFIED: _ClassVar[GrantCategory]
    GRANT_CATEGORY_PAID: _ClassVar[GrantCategory]
    GRANT_CATEGORY_PROMOTIONAL: _ClassVar[GrantCategory]
    GRANT_CATEGORY_ALLOWANCE: _ClassVar[GrantCategory]
    GRANT_CATEGORY_REWARD: _ClassVar[GrantCategory]
    GRANT_CATEGORY_GIFT: _ClassVar[GrantCategory]
    GRANT_CATEGORY_REFUND: _ClassVar[GrantCategory]
    GRANT_CATEGORY_ADJUSTMENT: _ClassVar[GrantCategory]

class LimitSubject(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_SUBJECT_UNSPECIFIED: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_ACCOUNT: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_USER: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_TEAM: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_KEY: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_FEATURE: _ClassVar[LimitSubject]
    LIMIT_SUBJECT_MODEL: _ClassVar[LimitSubject]

class LimitMetric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_METRIC_UNSPECIFIED: _ClassVar[LimitMetric]
    LIMIT_METRIC_CREDITS: _ClassVar[LimitMetric]
    LIMIT_METRIC_COST: _ClassVar[LimitMetric]
    LIMIT_METRIC_ACTIONS: _ClassVar[LimitMetric]
    LIMIT_METRIC_TOKENS: _ClassVar[LimitMetric]
    LIMIT_METRIC_OPEN_HOLDS: _ClassVar[LimitMetric]

class LimitWindow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_WINDOW_UNSPECIFIED: _ClassVar[LimitWindow]
    LIMIT_WINDOW_MINUTE: _ClassVar[LimitWindow]
    LIMIT_WINDOW_HOUR: _ClassVar[LimitWindow]
    LIMIT_WINDOW_DAY: _ClassVar[LimitWindow]
    LIMIT_WINDOW_MONTH: _ClassVar[LimitWindow]
    LIMIT_WINDOW_ROLLING_MINUTE: _ClassVar[LimitWindow]
    LIMIT_WINDOW_ROLLING_HOUR: _ClassVar[LimitWindow]
    LIMIT_WINDOW_ROLLING_DAY: _ClassVar[LimitWindow]
    LIMIT_WINDOW_ROLLING_MONTH: _ClassVar[LimitWindow]
    LIMIT_WINDOW_PERIOD: _ClassVar[LimitWindow]
    LIMIT_WINDOW_LIFETIME: _ClassVar[LimitWindow]
    LIMIT_WINDOW_OPERATION: _ClassVar[LimitWindow]

class HoldState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLD_STATE_UNSPECIFIED: _ClassVar[HoldState]
    HOLD_STATE_OPEN: _ClassVar[HoldState]
    HOLD_STATE_COMMITTED: _ClassVar[HoldState]
    HOLD_STATE_COMMITTED_LATE: _ClassVar[HoldState]
    HOLD_STATE_RELEASED: _ClassVar[HoldState]
    HOLD_STATE_EXPIRED: _ClassVar[HoldState]
OVERAGE_POLICY_UNSPECIFIED: OveragePolicy
OVERAGE_POLICY_CAP: OveragePolicy
OVERAGE_POLICY_DRAW: OveragePolicy
OVERAGE_POLICY_OVERDRAFT: OveragePolicy
EXPIRY_POLICY_UNSPECIFIED: ExpiryPolicy
EXPIRY_POLICY_RELEASE: ExpiryPolicy
EXPIRY_POLICY_CHARGE_REPORTED: ExpiryPolicy
EXPIRY_POLICY_CHARGE_ESTIMATE: ExpiryPolicy
USAGE_STATE_UNSPECIFIED: UsageState
USAGE_STATE_REPORTED: UsageState
USAGE_STATE_PARTIAL: UsageState
USAGE_STATE_ESTIMATED: UsageState
USAGE_STATE_ABSENT: UsageState
GRANT_CATEGORY_UNSPECIFIED: GrantCategory
GRANT_CATEGORY_PAID: GrantCategory
GRANT_CATEGORY_PROMOTIONAL: GrantCategory
GRANT_CATEGORY_ALLOWANCE: GrantCategory
GRANT_CATEGORY_REWARD: GrantCategory
GRANT_CATEGORY_GIFT: GrantCategory
GRANT_CATEGORY_REFUND: GrantCategory
GRANT_CATEGORY_ADJUSTMENT: GrantCategory
LIMIT_SUBJECT_UNSPECIFIED: LimitSubject
LIMIT_SUBJECT_ACCOUNT: LimitSubject
LIMIT_SUBJECT_USER: LimitSubject
LIMIT_SUBJECT_TEAM: LimitSubject
LIMIT_SUBJECT_KEY: LimitSubject
LIMIT_SUBJECT_FEATURE: LimitSubject
LIMIT_SUBJECT_MODEL: LimitSubject
LIMIT_METRIC_UNSPECIFIED: LimitMetric
LIMIT_METRIC_CREDITS: LimitMetric
LIMIT_METRIC_COST: LimitMetric
LIMIT_METRIC_ACTIONS: LimitMetric
LIMIT_METRIC_TOKENS: LimitMetric
LIMIT_METRIC_OPEN_HOLDS: LimitMetric
LIMIT_WINDOW_UNSPECIFIED: LimitWindow
LIMIT_WINDOW_MINUTE: LimitWindow
LIMIT_WINDOW_HOUR: LimitWindow
LIMIT_WINDOW_DAY: LimitWindow
LIMIT_WINDOW_MONTH: LimitWindow
LIMIT_WINDOW_ROLLING_MINUTE: LimitWindow
LIMIT_WINDOW_ROLLING_HOUR: LimitWindow
LIMIT_WINDOW_ROLLING_DAY: LimitWindow
LIMIT_WINDOW_ROLLING_MONTH: LimitWindow
LIMIT_WINDOW_PERIOD: LimitWindow
LIMIT_WINDOW_LIFETIME: LimitWindow
LIMIT_WINDOW_OPERATION: LimitWindow
HOLD_STATE_UNSPECIFIED: HoldState
HOLD_STATE_OPEN: HoldState
HOLD_STATE_COMMITTED: HoldState
HOLD_STATE_COMMITTED_LATE: HoldState
HOLD_STATE_RELEASED: HoldState
HOLD_STATE_EXPIRED: HoldState

class Subject(_message.Message):
    __slots__ = ("user", "team", "key", "operation_id", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    user: str
    team: str
    key: str
    operation_id: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, user: _Optional[str] = ..., team: _Optional[str] = ..., key: _Optional[str] = ..., operation_id: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ModelCharge(_message.Message):
    __slots__ = ("provider", "model", "input_tokens", "prompt", "max_output_tokens", "min_output_tokens", "service_tier", "extra")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    input_tokens: int
    prompt: str
    max_output_tokens: int
    min_output_tokens: int
    service_tier: str
    extra: Usage
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., prompt: _Optional[str] = ..., max_output_tokens: _Optional[int] = ..., min_output_tokens: _Optional[int] = ..., service_tier: _Optional[str] = ..., extra: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class FeatureCharge(_message.Message):
    __slots__ = ("feature", "quantity")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    feature: str
    quantity: int
    def __init__(self, feature: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class RateCharge(_message.Message):
    __slots__ = ("rate", "quantity")
    RATE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    rate: str
    quantity: str
    def __init__(self, rate: _Optional[str] = ..., quantity: _Optional[str] = ...) -> None: ...

class CreditsCharge(_message.Message):
    __slots__ = ("amount_micros",)
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    amount_micros: int
    def __init__(self, amount_micros: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens", "input_audio_tokens", "cache_audio_read_tokens", "output_audio_tokens", "input_image_tokens", "output_image_tokens", "input_video_tokens", "web_searches", "requests", "cache_image_read_tokens", "output_video_tokens", "citation_tokens", "storage_searches")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_1H_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUT_AUDIO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_AUDIO_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_AUDIO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUT_IMAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_IMAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUT_VIDEO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEB_SEARCHES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CACHE_IMAGE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_VIDEO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CITATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_SEARCHES_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    cache_audio_read_tokens: int
    output_audio_tokens: int
    input_image_tokens: int
    output_image_tokens: int
    input_video_tokens: int
    web_searches: int
    requests: int
    cache_image_read_tokens: int
    output_video_tokens: int
    citation_tokens: int
    storage_searches: int
    def __init__(self, input_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., cache_write_1h_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., input_audio_tokens: _Optional[int] = ..., cache_audio_read_tokens: _Optional[int] = ..., output_audio_tokens: _Optional[int] = ..., input_image_tokens: _Optional[int] = ..., output_image_tokens: _Optional[int] = ..., input_video_tokens: _Optional[int] = ..., web_searches: _Optional[int] = ..., requests: _Optional[int] = ..., cache_image_read_tokens: _Optional[int] = ..., output_video_tokens: _Optional[int] = ..., citation_tokens: _Optional[int] = ..., storage_searches: _Optional[int] = ...) -> None: ...

class CostLine(_message.Message):
    __slots__ = ("usage_class", "quantity", "unit_price", "cost_usd")
    USAGE_CLASS_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_PRICE_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    usage_class: str
    quantity: str
    unit_price: str
    cost_usd: str
    def __init__(self, usage_class: _Optional[str] = ..., quantity: _Optional[str] = ..., unit_price: _Optional[str] = ..., cost_usd: _Optional[str] = ...) -> None: ...

class GrantDraw(_message.Message):
    __slots__ = ("grant_id", "amount_micros")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    amount_micros: int
    def __init__(self, grant_id: _Optional[str] = ..., amount_micros: _Optional[int] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("wallet", "available_micros", "held_micros", "seq", "epoch")
    WALLET_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    HELD_MICROS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    wallet: str
    available_micros: int
    held_micros: int
    seq: int
    epoch: int
    def __init__(self, wallet: _Optional[str] = ..., available_micros: _Optional[int] = ..., held_micros: _Optional[int] = ..., seq: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("hold_id", "amount_micros", "cost_estimate_usd", "max_output_tokens", "price_version", "expires_at", "grants", "state", "account_id", "wallet", "created_at", "unlimited")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    COST_ESTIMATE_USD_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    amount_micros: int
    cost_estimate_usd: str
    max_output_tokens: int
    price_version: str
    expires_at: _timestamp_pb2.Timestamp
    grants: _containers.RepeatedCompositeFieldContainer[GrantDraw]
    state: HoldState
    account_id: str
    wallet: str
    created_at: _timestamp_pb2.Timestamp
    unlimited: bool
    def __init__(self, hold_id: _Optional[str] = ..., amount_micros: _Optional[int] = ..., cost_estimate_usd: _Optional[str] = ..., max_output_tokens: _Optional[int] = ..., price_version: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., grants: _Optional[_Iterable[_Union[GrantDraw, _Mapping]]] = ..., state: _Optional[_Union[HoldState, str]] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unlimited: _Optional[bool] = ...) -> None: ...

class Denial(_message.Message):
    __slots__ = ("reasons", "available_micros", "required_micros", "affordable_output_tokens", "retry_at")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Denial.Code]
        CODE_INSUFFICIENT_CREDITS: _ClassVar[Denial.Code]
        CODE_ACCOUNT_FROZEN: _ClassVar[Denial.Code]
        CODE_TOO_MANY_HOLDS: _ClassVar[Denial.Code]
        CODE_WALLET_BLOCKED: _ClassVar[Denial.Code]
        CODE_ACTIONS_PER_DAY: _ClassVar[Denial.Code]
        CODE_LIMIT_EXCEEDED: _ClassVar[Denial.Code]
    CODE_UNSPECIFIED: Denial.Code
    CODE_INSUFFICIENT_CREDITS: Denial.Code
    CODE_ACCOUNT_FROZEN: Denial.Code
    CODE_TOO_MANY_HOLDS: Denial.Code
    CODE_WALLET_BLOCKED: Denial.Code
    CODE_ACTIONS_PER_DAY: Denial.Code
    CODE_LIMIT_EXCEEDED: Denial.Code
    class Reason(_message.Message):
        __slots__ = ("code", "scope", "limit_micros", "used_micros", "resets_at", "limit_id", "metric", "window")
        CODE_FIELD_NUMBER: _ClassVar[int]
        SCOPE_FIELD_NUMBER: _ClassVar[int]
        LIMIT_MICROS_FIELD_NUMBER: _ClassVar[int]
        USED_MICROS_FIELD_NUMBER: _ClassVar[int]
        RESETS_AT_FIELD_NUMBER: _ClassVar[int]
        LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
        METRIC_FIELD_NUMBER: _ClassVar[int]
        WINDOW_FIELD_NUMBER: _ClassVar[int]
        code: Denial.Code
        scope: str
        limit_micros: int
        used_micros: int
        resets_at: _timestamp_pb2.Timestamp
        limit_id: str
        metric: LimitMetric
        window: LimitWindow
        def __init__(self, code: _Optional[_Union[Denial.Code, str]] = ..., scope: _Optional[str] = ..., limit_micros: _Optional[int] = ..., used_micros: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit_id: _Optional[str] = ..., metric: _Optional[_Union[LimitMetric, str]] = ..., window: _Optional[_Union[LimitWindow, str]] = ...) -> None: ...
    REASONS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MICROS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_MICROS_FIELD_NUMBER: _ClassVar[int]
    AFFORDABLE_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    reasons: _containers.RepeatedCompositeFieldContainer[Denial.Reason]
    available_micros: int
    required_micros: int
    affordable_output_tokens: int
    retry_at: _timestamp_pb2.Timestamp
    def __init__(self, reasons: _Optional[_Iterable[_Union[Denial.Reason, _Mapping]]] = ..., available_micros: _Optional[int] = ..., required_micros: _Optional[int] = ..., affordable_output_tokens: _Optional[int] = ..., retry_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Settlement(_message.Message):
    __slots__ = ("settlement_id", "state", "charged_micros", "returned_micros", "uncollected_micros", "cost_usd", "breakdown", "usage_state", "grants", "price_version", "hold_id", "settled_at", "forfeited_micros")
    SETTLEMENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHARGED_MICROS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_MICROS_FIELD_NUMBER: _ClassVar[int]
    UNCOLLECTED_MICROS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    BREAKDOWN_FIELD_NUMBER: _ClassVar[int]
    USAGE_STATE_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    FORFEITED_MICROS_FIELD_NUMBER: _ClassVar[int]
    settlement_id: str
    state: HoldState
    charged_micros: int
    returned_micros: int
    uncollected_micros: int
    cost_usd: str
    breakdown: _containers.RepeatedCompositeFieldContainer[CostLine]
    usage_state: UsageState
    grants: _containers.RepeatedCompositeFieldContainer[GrantDraw]
    price_version: str
    hold_id: str
    settled_at: _timestamp_pb2.Timestamp
    forfeited_micros: int
    def __init__(self, settlement_id: _Optional[str] = ..., state: _Optional[_Union[HoldState, str]] = ..., charged_micros: _Optional[int] = ..., returned_micros: _Optional[int] = ..., uncollected_micros: _Optional[int] = ..., cost_usd: _Optional[str] = ..., breakdown: _Optional[_Iterable[_Union[CostLine, _Mapping]]] = ..., usage_state: _Optional[_Union[UsageState, str]] = ..., grants: _Optional[_Iterable[_Union[GrantDraw, _Mapping]]] = ..., price_version: _Optional[str] = ..., hold_id: _Optional[str] = ..., settled_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., forfeited_micros: _Optional[int] = ...) -> None: ...
