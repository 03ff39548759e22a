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

class ReserveRequest(_message.Message):
    __slots__ = ("hold_id", "account_id", "wallet", "subject", "model", "feature", "rate", "credits", "ttl_ms", "overage_policy", "expiry_policy", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    account_id: str
    wallet: str
    subject: _types_pb2.Subject
    model: _types_pb2.ModelCharge
    feature: _types_pb2.FeatureCharge
    rate: _types_pb2.RateCharge
    credits: _types_pb2.CreditsCharge
    ttl_ms: int
    overage_policy: _types_pb2.OveragePolicy
    expiry_policy: _types_pb2.ExpiryPolicy
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, hold_id: _Optional[str] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., subject: _Optional[_Union[_types_pb2.Subject, _Mapping]] = ..., model: _Optional[_Union[_types_pb2.ModelCharge, _Mapping]] = ..., feature: _Optional[_Union[_types_pb2.FeatureCharge, _Mapping]] = ..., rate: _Optional[_Union[_types_pb2.RateCharge, _Mapping]] = ..., credits: _Optional[_Union[_types_pb2.CreditsCharge, _Mapping]] = ..., ttl_ms: _Optional[int] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., expiry_policy: _Optional[_Union[_types_pb2.ExpiryPolicy, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("hold", "denial", "replayed", "balance")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    denial: _types_pb2.Denial
    replayed: bool
    balance: _types_pb2.Balance
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ..., replayed: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ProviderResponse(_message.Message):
    __slots__ = ("provider", "api_flavor", "json")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    API_FLAVOR_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    provider: str
    api_flavor: str
    json: bytes
    def __init__(self, provider: _Optional[str] = ..., api_flavor: _Optional[str] = ..., json: _Optional[bytes] = ...) -> None: ...

class ReportedUsage(_message.Message):
    __slots__ = ("usage", "usage_state")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    USAGE_STATE_FIELD_NUMBER: _ClassVar[int]
    usage: _types_pb2.Usage
    usage_state: _types_pb2.UsageState
    def __init__(self, usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., usage_state: _Optional[_Union[_types_pb2.UsageState, str]] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("hold_id", "usage", "provider_response", "amount_micros", "quantity", "model", "provider", "service_tier")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    usage: ReportedUsage
    provider_response: ProviderResponse
    amount_micros: int
    quantity: str
    model: str
    provider: str
    service_tier: str
    def __init__(self, hold_id: _Optional[str] = ..., usage: _Optional[_Union[ReportedUsage, _Mapping]] = ..., provider_response: _Optional[_Union[ProviderResponse, _Mapping]] = ..., amount_micros: _Optional[int] = ..., quantity: _Optional[str] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., service_tier: _Optional[str] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("settlement", "replayed", "balance")
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    settlement: _types_pb2.Settlement
    replayed: bool
    balance: _types_pb2.Balance
    def __init__(self, settlement: _Optional[_Union[_types_pb2.Settlement, _Mapping]] = ..., replayed: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("hold_id", "reason")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    reason: str
    def __init__(self, hold_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("settlement", "replayed", "balance")
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    settlement: _types_pb2.Settlement
    replayed: bool
    balance: _types_pb2.Balance
    def __init__(self, settlement: _Optional[_Union[_types_pb2.Settlement, _Mapping]] = ..., replayed: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("hold_id", "ttl_ms", "amount_micros")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    ttl_ms: int
    amount_micros: int
    def __init__(self, hold_id: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., amount_micros: _Optional[int] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("hold", "denial", "balance")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    denial: _types_pb2.Denial
    balance: _types_pb2.Balance
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("hold_id", "usage", "model", "provider")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    usage: _types_pb2.Usage
    model: str
    provider: str
    def __init__(self, hold_id: _Optional[str] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("advice", "affordable_output_tokens", "used_micros", "expires_at", "balance")
    class Advice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ADVICE_UNSPECIFIED: _ClassVar[ReportResponse.Advice]
        ADVICE_CONTINUE: _ClassVar[ReportResponse.Advice]
        ADVICE_SHRINK: _ClassVar[ReportResponse.Advice]
        ADVICE_STOP: _ClassVar[ReportResponse.Advice]
    ADVICE_UNSPECIFIED: ReportResponse.Advice
    ADVICE_CONTINUE: ReportResponse.Advice
    ADVICE_SHRINK: ReportResponse.Advice
    ADVICE_STOP: ReportResponse.Advice
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    AFFORDABLE_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    USED_MICROS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    advice: ReportResponse.Advice
    affordable_output_tokens: int
    used_micros: int
    expires_at: _timestamp_pb2.Timestamp
    balance: _types_pb2.Balance
    def __init__(self, advice: _Optional[_Union[ReportResponse.Advice, str]] = ..., affordable_output_tokens: _Optional[int] = ..., used_micros: _Optional[int] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class ChargeRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "wallet", "subject", "feature", "rate", "credits", "model_usage", "overage_policy", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    MODEL_USAGE_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    wallet: str
    subject: _types_pb2.Subject
    feature: _types_pb2.FeatureCharge
    rate: _types_pb2.RateCharge
    credits: _types_pb2.CreditsCharge
    model_usage: ModelUsage
    overage_policy: _types_pb2.OveragePolicy
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., subject: _Optional[_Union[_types_pb2.Subject, _Mapping]] = ..., feature: _Optional[_Union[_types_pb2.FeatureCharge, _Mapping]] = ..., rate: _Optional[_Union[_types_pb2.RateCharge, _Mapping]] = ..., credits: _Optional[_Union[_types_pb2.CreditsCharge, _Mapping]] = ..., model_usage: _Optional[_Union[ModelUsage, _Mapping]] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ModelUsage(_message.Message):
    __slots__ = ("provider", "model", "usage", "provider_response", "service_tier")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    provider: str
    model: str
    usage: ReportedUsage
    provider_response: ProviderResponse
    service_tier: str
    def __init__(self, provider: _Optional[str] = ..., model: _Optional[str] = ..., usage: _Optional[_Union[ReportedUsage, _Mapping]] = ..., provider_response: _Optional[_Union[ProviderResponse, _Mapping]] = ..., service_tier: _Optional[str] = ...) -> None: ...

class ChargeResponse(_message.Message):
    __slots__ = ("settlement", "denial", "replayed", "balance")
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    settlement: _types_pb2.Settlement
    denial: _types_pb2.Denial
    replayed: bool
    balance: _types_pb2.Balance
    def __init__(self, settlement: _Optional[_Union[_types_pb2.Settlement, _Mapping]] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ..., replayed: _Optional[bool] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class EstimateRequest(_message.Message):
    __slots__ = ("account_id", "wallet", "model", "feature", "rate", "credits")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    wallet: str
    model: _types_pb2.ModelCharge
    feature: _types_pb2.FeatureCharge
    rate: _types_pb2.RateCharge
    credits: _types_pb2.CreditsCharge
    def __init__(self, account_id: _Optional[str] = ..., wallet: _Optional[str] = ..., model: _Optional[_Union[_types_pb2.ModelCharge, _Mapping]] = ..., feature: _Optional[_Union[_types_pb2.FeatureCharge, _Mapping]] = ..., rate: _Optional[_Union[_types_pb2.RateCharge, _Mapping]] = ..., credits: _Optional[_Union[_types_pb2.CreditsCharge, _Mapping]] = ...) -> None: ...

class EstimateResponse(_message.Message):
    __slots__ = ("amount_micros", "cost_estimate_usd", "price_version", "denial", "breakdown", "balance", "input_tokens")
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    COST_ESTIMATE_USD_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    BREAKDOWN_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    amount_micros: int
    cost_estimate_usd: str
    price_version: str
    denial: _types_pb2.Denial
    breakdown: _containers.RepeatedCompositeFieldContainer[_types_pb2.CostLine]
    balance: _types_pb2.Balance
    input_tokens: int
    def __init__(self, amount_micros: _Optional[int] = ..., cost_estimate_usd: _Optional[str] = ..., price_version: _Optional[str] = ..., denial: _Optional[_Union[_types_pb2.Denial, _Mapping]] = ..., breakdown: _Optional[_Iterable[_Union[_types_pb2.CostLine, _Mapping]]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ..., input_tokens: _Optional[int] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[StreamCall]
    def __init__(self, calls: _Optional[_Iterable[_Union[StreamCall, _Mapping]]] = ...) -> None: ...

class StreamCall(_message.Message):
    __slots__ = ("call_id", "reserve", "commit", "release", "extend", "report", "charge", "estimate")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    reserve: ReserveRequest
    commit: CommitRequest
    release: ReleaseRequest
    extend: ExtendRequest
    report: ReportRequest
    charge: ChargeRequest
    estimate: EstimateRequest
    def __init__(self, call_id: _Optional[int] = ..., reserve: _Optional[_Union[ReserveRequest, _Mapping]] = ..., commit: _Optional[_Union[CommitRequest, _Mapping]] = ..., release: _Optional[_Union[ReleaseRequest, _Mapping]] = ..., extend: _Optional[_Union[ExtendRequest, _Mapping]] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ..., charge: _Optional[_Union[ChargeRequest, _Mapping]] = ..., estimate: _Optional[_Union[EstimateRequest, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[StreamReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[StreamReply, _Mapping]]] = ...) -> None: ...

class StreamReply(_message.Message):
    __slots__ = ("call_id", "reserve", "commit", "release", "extend", "report", "charge", "estimate", "error")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    reserve: ReserveResponse
    commit: CommitResponse
    release: ReleaseResponse
    extend: ExtendResponse
    report: ReportResponse
    charge: ChargeResponse
    estimate: EstimateResponse
    error: StreamError
    def __init__(self, call_id: _Optional[int] = ..., reserve: _Optional[_Union[ReserveResponse, _Mapping]] = ..., commit: _Optional[_Union[CommitResponse, _Mapping]] = ..., release: _Optional[_Union[ReleaseResponse, _Mapping]] = ..., extend: _Optional[_Union[ExtendResponse, _Mapping]] = ..., report: _Optional[_Union[ReportResponse, _Mapping]] = ..., charge: _Optional[_Union[ChargeResponse, _Mapping]] = ..., estimate: _Optional[_Union[EstimateResponse, _Mapping]] = ..., error: _Optional[_Union[StreamError, _Mapping]] = ...) -> None: ...

class StreamError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...
