import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PurchaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURCHASE_STATE_UNSPECIFIED: _ClassVar[PurchaseState]
    PURCHASE_STATE_PENDING: _ClassVar[PurchaseState]
    PURCHASE_STATE_COMPLETED: _ClassVar[PurchaseState]
    PURCHASE_STATE_FAILED: _ClassVar[PurchaseState]
    PURCHASE_STATE_CANCELLED: _ClassVar[PurchaseState]
    PURCHASE_STATE_REFUNDED: _ClassVar[PurchaseState]
PURCHASE_STATE_UNSPECIFIED: PurchaseState
PURCHASE_STATE_PENDING: PurchaseState
PURCHASE_STATE_COMPLETED: PurchaseState
PURCHASE_STATE_FAILED: PurchaseState
PURCHASE_STATE_CANCELLED: PurchaseState
PURCHASE_STATE_REFUNDED: PurchaseState

class Purchase(_message.Message):
    __slots__ = ("purchase_id", "account_id", "package_id", "plan_id", "name", "price", "currency", "amount_micros", "bonus_micros", "wallet", "state", "refunded", "failure", "created_at", "changed_at", "stripe_session", "stripe_payment_intent", "stripe_subscription", "stripe_customer", "livemode")
    PURCHASE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    BONUS_MICROS_FIELD_NUMBER: _ClassVar[int]
    WALLET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUNDED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    STRIPE_SESSION_FIELD_NUMBER: _ClassVar[int]
    STRIPE_PAYMENT_INTENT_FIELD_NUMBER: _ClassVar[int]
    STRIPE_SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STRIPE_CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    LIVEMODE_FIELD_NUMBER: _ClassVar[int]
    purchase_id: str
    account_id: str
    package_id: str
    plan_id: str
    name: str
    price: str
    currency: str
    amount_micros: int
    bonus_micros: int
    wallet: str
    state: PurchaseState
    refunded: str
    failure: str
    created_at: _timestamp_pb2.Timestamp
    changed_at: _timestamp_pb2.Timestamp
    stripe_session: str
    stripe_payment_intent: str
    stripe_subscription: str
    stripe_customer: str
    livemode: bool
    def __init__(self, purchase_id: _Optional[str] = ..., account_id: _Optional[str] = ..., package_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., name: _Optional[str] = ..., price: _Optional[str] = ..., currency: _Optional[str] = ..., amount_micros: _Optional[int] = ..., bonus_micros: _Optional[int] = ..., wallet: _Optional[str] = ..., state: _Optional[_Union[PurchaseState, str]] = ..., refunded: _Optional[str] = ..., failure: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stripe_session: _Optional[str] = ..., stripe_payment_intent: _Optional[str] = ..., stripe_subscription: _Optional[str] = ..., stripe_customer: _Optional[str] = ..., livemode: _Optional[bool] = ...) -> None: ...

class CreateCheckoutSessionRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "package_id", "plan_id", "success_url", "cancel_url", "email")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_URL_FIELD_NUMBER: _ClassVar[int]
    CANCEL_URL_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    package_id: str
    plan_id: str
    success_url: str
    cancel_url: str
    email: str
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., package_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., success_url: _Optional[str] = ..., cancel_url: _Optional[str] = ..., email: _Optional[str] = ...) -> None: ...

class CreateCheckoutSessionResponse(_message.Message):
    __slots__ = ("purchase", "url", "expires_at", "replayed")
    PURCHASE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    purchase: Purchase
    url: str
    expires_at: _timestamp_pb2.Timestamp
    replayed: bool
    def __init__(self, purchase: _Optional[_Union[Purchase, _Mapping]] = ..., url: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class CreatePaymentIntentRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "package_id", "email", "save_payment_method")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_ID_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    SAVE_PAYMENT_METHOD_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    package_id: str
    email: str
    save_payment_method: bool
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., package_id: _Optional[str] = ..., email: _Optional[str] = ..., save_payment_method: _Optional[bool] = ...) -> None: ...

class CreatePaymentIntentResponse(_message.Message):
    __slots__ = ("purchase", "client_secret", "stripe_status", "replayed")
    PURCHASE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    STRIPE_STATUS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    purchase: Purchase
    client_secret: str
    stripe_status: str
    replayed: bool
    def __init__(self, purchase: _Optional[_Union[Purchase, _Mapping]] = ..., client_secret: _Optional[str] = ..., stripe_status: _Optional[str] = ..., replayed: _Optional[bool] = ...) -> None: ...

class CreatePortalSessionRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "return_url")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    RETURN_URL_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    return_url: str
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., return_url: _Optional[str] = ...) -> None: ...

class CreatePortalSessionResponse(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class ListPurchasesRequest(_message.Message):
    __slots__ = ("account_id", "states", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    states: _containers.RepeatedScalarFieldContainer[PurchaseState]
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[PurchaseState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPurchasesResponse(_message.Message):
    __slots__ = ("purchases", "next_page_token")
    PURCHASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    purchases: _containers.RepeatedCompositeFieldContainer[Purchase]
    next_page_token: str
    def __init__(self, purchases: _Optional[_Iterable[_Union[Purchase, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPurchaseRequest(_message.Message):
    __slots__ = ("purchase_id",)
    PURCHASE_ID_FIELD_NUMBER: _ClassVar[int]
    purchase_id: str
    def __init__(self, purchase_id: _Optional[str] = ...) -> None: ...

class GetPurchaseResponse(_message.Message):
    __slots__ = ("purchase",)
    PURCHASE_FIELD_NUMBER: _ClassVar[int]
    purchase: Purchase
    def __init__(self, purchase: _Optional[_Union[Purchase, _Mapping]] = ...) -> None: ...

class CancelPurchaseRequest(_message.Message):
    __slots__ = ("purchase_id",)
    PURCHASE_ID_FIELD_NUMBER: _ClassVar[int]
    purchase_id: str
    def __init__(self, purchase_id: _Optional[str] = ...) -> None: ...

class CancelPurchaseResponse(_message.Message):
    __slots__ = ("purchase",)
    PURCHASE_FIELD_NUMBER: _ClassVar[int]
    purchase: Purchase
    def __init__(self, purchase: _Optional[_Union[Purchase, _Mapping]] = ...) -> None: ...

class CancelBillingRequest(_message.Message):
    __slots__ = ("idempotency_key", "account_id", "at_once")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    account_id: str
    at_once: bool
    def __init__(self, idempotency_key: _Optional[str] = ..., account_id: _Optional[str] = ..., at_once: _Optional[bool] = ...) -> None: ...

class BillingSubscription(_message.Message):
    __slots__ = ("subscription_id", "status", "plan_id", "ends_at")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    status: str
    plan_id: str
    ends_at: _timestamp_pb2.Timestamp
    def __init__(self, subscription_id: _Optional[str] = ..., status: _Optional[str] = ..., plan_id: _Optional[str] = ..., ends_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CancelBillingResponse(_message.Message):
    __slots__ = ("subscriptions",)
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    subscriptions: _containers.RepeatedCompositeFieldContainer[BillingSubscription]
    def __init__(self, subscriptions: _Optional[_Iterable[_Union[BillingSubscription, _Mapping]]] = ...) -> None: ...
