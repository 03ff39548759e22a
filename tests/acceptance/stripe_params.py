"""What Stripe's API takes, by the types that its own library publishes: a parameter that is not there is refused, as Stripe does."""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from stripe.params import (
    _customer_create_params,
    _customer_update_params,
    _event_list_params,
    _invoice_line_item_list_params,
    _invoice_list_params,
    _invoice_payment_list_params,
    _payment_intent_cancel_params,
    _payment_intent_create_params,
    _payment_intent_list_params,
    _price_create_params,
    _price_list_params,
    _price_update_params,
    _product_create_params,
    _product_list_params,
    _product_update_params,
    _subscription_cancel_params,
    _subscription_list_params,
    _subscription_update_params,
)
from stripe.params.billing_portal import _session_create_params as portal_params
from stripe.params.checkout import _session_create_params, _session_expire_params, _session_list_params

# Of the library's calls, and not of the API.
_OPTIONS = frozenset(
    (
        "api_key",
        "stripe_version",
        "stripe_account",
        "stripe_context",
        "max_network_retries",
        "idempotency_key",
        "content_type",
        "headers",
    )
)
METADATA_KEYS_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 50, 40, 500
_NAMES: dict[str, Any] = {"StripeContext": object, "Mapping": Mapping}
_PART = re.compile(r"\[([^\]]*)\]")


class Retrieval(typing_extensions.TypedDict):
    """What reading one object takes, and a POST without parameters."""

    expand: typing_extensions.NotRequired[list[str]]


# By method and path; {} is an id.
SHAPES: dict[str, Any] = {
    "POST customers": _customer_create_params.CustomerCreateParams,
    "POST customers/{}": _customer_update_params.CustomerUpdateParams,
    "POST checkout/sessions": _session_create_params.SessionCreateParams,
    "GET checkout/sessions": _session_list_params.SessionListParams,
    "POST checkout/sessions/{}/expire": _session_expire_params.SessionExpireParams,
    "POST payment_intents": _payment_intent_create_params.PaymentIntentCreateParams,
    "POST payment_intents/{}/cancel": _payment_intent_cancel_params.PaymentIntentCancelParams,
    "POST billing_portal/sessions": portal_params.SessionCreateParams,
    "GET subscriptions": _subscription_list_params.SubscriptionListParams,
    "POST subscriptions/{}": _subscription_update_params.SubscriptionUpdateParams,
    "DELETE subscriptions/{}": _subscription_cancel_params.SubscriptionCancelParams,
    "POST products": _product_create_params.ProductCreateParams,
    "GET products": _product_list_params.ProductListParams,
    "POST products/{}": _product_update_params.ProductUpdateParams,
    "POST prices": _price_create_params.PriceCreateParams,
    "GET prices": _price_list_params.PriceListParams,
    "POST prices/{}": _price_update_params.PriceUpdateParams,
    "GET events": _event_list_params.EventListParams,
    "GET payment_intents": _payment_intent_list_params.PaymentIntentListParams,
    "GET invoices/{}/lines": _invoice_line_item_list_params.InvoiceLineItemListParams,
    "GET invoice_payments": _invoice_payment_list_params.InvoicePaymentListParams,
    "GET invoices": _invoice_list_params.InvoiceListParams,
}


class BadParameterError(Exception):
    """`param` as Stripe names it: line_items[0][price]."""

    def __init__(self, param: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """a[b][0][c]=1 as {"a": {"b": {"0": {"c": "1"}}}}."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        head = name.partition("[")[0]
        parts = [head, *_PART.findall(name)]
        at = found
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        at[parts[-1]] = value
    return found


def checked(shape: Any, given: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The parameters with numbers, booleans and lists as such; BadParameterError for what Stripe would not take."""
    hints = {
        name: hint
        for name, hint in typing_extensions.get_type_hints(shape, localns=_NAMES, include_extras=True).items()
        if place or name not in _OPTIONS
    }
    read: dict[str, Any] = {}
    for name, value in given.items():
        at = f"{place}[{name}]" if place else name
        if name not in hints:
            raise BadParameterError(at, f"Received unknown parameter: {at}", "parameter_unknown")
        read[name] = _value(_bare(hints[name]), value, at)
    for name, hint in hints.items():
        if name not in read and get_origin(hint) is not typing_extensions.NotRequired:
            at = f"{place}[{name}]" if place else name
            raise BadParameterError(at, f"Missing required param: {at}.", "parameter_missing")
    return read


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is typing_extensions.NotRequired else hint


def _value(hint: Any, value: Any, at: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), value, at)
    if origin is Literal:
        if value not in get_args(hint):
            raise BadParameterError(at, f"Invalid {at}: must be one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin in (list, collections.abc.Sequence) and isinstance(value, dict):
        items = typing.cast("dict[str, Any]", value)
        return [_value(get_args(hint)[0], items[key], f"{at}[{key}]") for key in sorted(items, key=int)]
    if origin in (dict, collections.abc.Mapping) and isinstance(value, dict):
        return _metadata(typing.cast("dict[str, Any]", value), at)
    if typing_extensions.is_typeddict(hint) and isinstance(value, dict):
        return checked(hint, typing.cast("dict[str, Any]", value), at)
    if isinstance(value, str) and hint in _SCALARS:
        pattern, made = _SCALARS[hint]
        if pattern.fullmatch(value):
            return made(value)
    raise BadParameterError(at, f"Invalid value for {at}")


_SCALARS: dict[Any, tuple[re.Pattern[str], Any]] = {
    str: (re.compile(r"[\s\S]+"), str),
    int: (re.compile(r"-?[0-9]+"), int),
    bool: (re.compile(r"true|false"), lambda text: text == "true"),
}


def _one_of(hints: tuple[Any, ...], value: Any, at: str) -> Any:
    told: list[BadParameterError] = []
    for hint in hints:
        try:
            return _value(hint, value, at)
        except BadParameterError as exc:
            told.append(exc)
    # Of several forms, the one that was meant is the one whose complaint lies deepest.
    raise max(told, key=lambda exc: len(exc.param))


def _metadata(value: dict[str, Any], at: str) -> dict[str, str]:
    if len(value) > METADATA_KEYS_MAX:
        raise BadParameterError(at, f"{at} can have up to {METADATA_KEYS_MAX} keys")
    for key, text in value.items():
        if not isinstance(text, str) or len(key) > METADATA_KEY_CHARS_MAX or len(text) > METADATA_VALUE_CHARS_MAX:
            raise BadParameterError(f"{at}[{key}]", f"Metadata {key} is too long, or no text")
    return {key: text for key, text in value.items() if text}
