"""Requests from keyword arguments, the same for the asynchronous and the synchronous client."""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

from meterd_client import bodies, ids
from meterd_client.v1 import metering_pb2, types_pb2

# A hold's life without news of its process; it is extended while its block runs. Shorter, and an outage of meterd would end holds;
# longer, and a process that dies would keep credits from its account.
TTL_DEFAULT_MS = 120_000

Overage = Literal["", "cap", "draw", "overdraft"]
Expiry = Literal["release", "charge_reported", "charge_estimate"]
Prompt = str | Sequence[Mapping[str, Any]]
Quantity = int | str | decimal.Decimal

_OVERAGES: dict[Overage, types_pb2.OveragePolicy] = {
    "": types_pb2.OVERAGE_POLICY_UNSPECIFIED,
    "cap": types_pb2.OVERAGE_POLICY_CAP,
    "draw": types_pb2.OVERAGE_POLICY_DRAW,
    "overdraft": types_pb2.OVERAGE_POLICY_OVERDRAFT,
}
_EXPIRIES: dict[Expiry, types_pb2.ExpiryPolicy] = {
    "release": types_pb2.EXPIRY_POLICY_RELEASE,
    "charge_reported": types_pb2.EXPIRY_POLICY_CHARGE_REPORTED,
    "charge_estimate": types_pb2.EXPIRY_POLICY_CHARGE_ESTIMATE,
}


class ItemOptions(TypedDict, total=False):
    """What is charged: exactly one of model, feature, rate and credits_micros.

    model            the model's name as sent to the provider, with
      prompt         the prompt's text, or its messages as dicts, counted by meterd; at most 1 MiB, never stored; or
      input_tokens   the prompt's tokens, cached ones included
      max_output_tokens  the most output tokens that the provider is asked for
      min_output_tokens  if the wallet does not cover the most, a hold that covers at least this many will do
      provider       such as "openai"; by default found from the model's name
      service_tier   such as "batch" or "flex"
      extra          further usage that is priced by class
    feature          a feature of the price book, `quantity` times (default 1)
    rate             a rate of the price book, for a decimal `quantity` of its unit
    credits_micros   plain micro-credits
    wallet           the wallet that pays; by default the price book's, or "default"
    """

    model: str
    provider: str
    prompt: Prompt
    input_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    service_tier: str
    extra: types_pb2.Usage
    feature: str
    rate: str
    quantity: Quantity
    credits_micros: int
    wallet: str


class SubjectOptions(TypedDict, total=False):
    """Who acts inside the account, each at most 128 bytes, and up to 4 KiB of metadata that is stored with the settlement."""

    user: str
    team: str
    key: str
    operation_id: str
    labels: Mapping[str, str]
    metadata: Mapping[str, str]
    overage_policy: Overage


class HoldOptions(ItemOptions, SubjectOptions, total=False):
    """ItemOptions and SubjectOptions, and

    hold_id          a UUIDv7; by default a new one. Who retries a whole block gives the same
    ttl_ms           the hold's life without news of its process, 1 s to 24 h; extended while the block runs. Default: 2 minutes
    expiry_policy    what becomes of a hold whose process died: "charge_reported" (default: the last reported usage, or nothing),
                     "charge_estimate" (the whole hold) or "release"
    """

    hold_id: str
    ttl_ms: int
    expiry_policy: Expiry


class ChargeOptions(ItemOptions, SubjectOptions, total=False):
    """ItemOptions and SubjectOptions, and

    idempotency_key  a UUIDv7; by default a new one. Who retries gives the same
    usage            for a model: what it used, as Usage or as the provider's response
    """

    idempotency_key: str
    usage: object


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt; of messages, their roles and their contents' text."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.get('role', '')}\n{_content_text(message)}" for message in prompt)


def _content_text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or message.get("parts") or ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return ""
    texts = (part if isinstance(part, str) else bodies.field(part, "text") for part in cast(Iterable[object], content))
    return "\n".join(text for text in texts if isinstance(text, str))


def _model(options: ItemOptions) -> types_pb2.ModelCharge:
    charge = types_pb2.ModelCharge(
        provider=options.get("provider", ""),
        model=options.get("model", ""),
        max_output_tokens=options.get("max_output_tokens", 0),
        min_output_tokens=options.get("min_output_tokens", 0),
        service_tier=options.get("service_tier", ""),
        extra=options.get("extra"),
    )
    if "prompt" in options:
        if "input_tokens" in options:
            raise TypeError("give prompt or input_tokens, not both")
        charge.prompt = prompt_text(options["prompt"])
    else:
        charge.input_tokens = options.get("input_tokens", 0)
    return charge


def item(options: ItemOptions) -> dict[str, Any]:
    """The one field of the oneof `charge` that the options ask for. TypeError if they ask for none, or for more."""
    asked = [name for name in ("model", "feature", "rate", "credits_micros") if name in options]
    if len(asked) != 1:
        raise TypeError(f"exactly one of model, feature, rate and credits_micros must be given, not {len(asked)}")
    if "quantity" in options and asked[0] not in ("feature", "rate"):
        raise TypeError(f"quantity is for a feature or a rate, not for {asked[0]}")
    quantity = options.get("quantity", 0)
    match asked[0]:
        case "model":
            return {"model": _model(options)}
        case "feature":
            if not isinstance(quantity, int):
                raise TypeError("a feature's quantity must be an int")
            return {"feature": types_pb2.FeatureCharge(feature=options.get("feature", ""), quantity=quantity)}
        case "rate":
            return {"rate": types_pb2.RateCharge(rate=options.get("rate", ""), quantity=decimal_text(quantity))}
        case _:
            return {"credits": types_pb2.CreditsCharge(amount_micros=options.get("credits_micros", 0))}


def decimal_text(quantity: object) -> str:
    """A quantity as meterd takes it: plain decimals without an exponent. TypeError for a float, which would not be exact."""
    if isinstance(quantity, decimal.Decimal):
        return f"{quantity:f}"
    if isinstance(quantity, (int, str)):
        return str(quantity)
    raise TypeError("a quantity must be an int, a str or a Decimal")


def _shared(account: str, options: SubjectOptions) -> dict[str, Any]:
    return {
        "account_id": account,
        "subject": types_pb2.Subject(
            user=options.get("user", ""),
            team=options.get("team", ""),
            key=options.get("key", ""),
            operation_id=options.get("operation_id", ""),
            labels=options.get("labels"),
        ),
        "metadata": options.get("metadata"),
        "overage_policy": _OVERAGES[options.get("overage_policy", "")],
    }


def _check(options: Mapping[str, Any], known: type) -> None:
    if unknown := options.keys() - known.__annotations__.keys():
        raise TypeError(f"unknown argument {', '.join(sorted(unknown))}")


def reserve(account: str, options: HoldOptions) -> metering_pb2.ReserveRequest:
    """TypeError for arguments that do not fit; values are the server's to judge."""
    _check(options, HoldOptions)
    return metering_pb2.ReserveRequest(
        hold_id=options.get("hold_id") or ids.uuid7(),
        wallet=options.get("wallet", ""),
        ttl_ms=options.get("ttl_ms") or TTL_DEFAULT_MS,
        expiry_policy=_EXPIRIES[options.get("expiry_policy", "charge_reported")],
        **_shared(account, options),
        **item(options),
    )


def estimate(account: str, options: ItemOptions) -> metering_pb2.EstimateRequest:
    _check(options, ItemOptions)
    return metering_pb2.EstimateRequest(account_id=account, wallet=options.get("wallet", ""), **item(options))


def charge(account: str, options: ChargeOptions) -> metering_pb2.ChargeRequest:
    _check(options, ChargeOptions)
    if "model" not in options:
        charged = item(options)
    elif "usage" not in options:
        raise TypeError("a model is charged by its usage: give usage=, or reserve it with hold()")
    else:
        charged: dict[str, Any] = {
            "model_usage": metering_pb2.ModelUsage(
                provider=options.get("provider", ""),
                model=options["model"],
                service_tier=options.get("service_tier", ""),
                **actual(options["usage"]),
            )
        }
    return metering_pb2.ChargeRequest(
        idempotency_key=options.get("idempotency_key") or ids.uuid7(),
        wallet=options.get("wallet", ""),
        **_shared(account, options),
        **charged,
    )


def actual(used: object, state: types_pb2.UsageState | None = None) -> dict[str, Any]:
    """The field of `actual` for a Usage or a provider's response. An unknown usage is ABSENT, never zero."""
    if isinstance(used, types_pb2.Usage):
        return {"usage": metering_pb2.ReportedUsage(usage=used, usage_state=state or types_pb2.USAGE_STATE_REPORTED)}
    body = bodies.body_of(used)
    if not body:
        return {"usage": absent()}
    return {"provider_response": metering_pb2.ProviderResponse(json=bodies.encoded(body))}


def absent() -> metering_pb2.ReportedUsage:
    return metering_pb2.ReportedUsage(usage_state=types_pb2.USAGE_STATE_ABSENT)
