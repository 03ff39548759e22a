"""What requests cost: from a charge or a usage in a message to micro-credits, by the price book. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meterd.core import errors, money, pricing, ratecards, usage, values
from meterd.meter import requests
from meterd.pricing import extract
from meterd_client.v1 import metering_pb2, types_pb2

CREDITS_ITEM = "credits"

# A bill line as it is stored: usage class, quantity, unit price, cost in USD ("" for what has none).
LineRow = tuple[str, str, str, str]


@values.value
class Item:
    """What a Reserve or an Estimate asks for."""

    amount_micros: int
    # What will do if the wallet has less; equal to amount_micros unless min_output_tokens is set.
    amount_min_micros: int
    terms: requests.Terms
    quote: pricing.Quote | None

    @property
    def wallet(self) -> str:
        """What a feature or rate is paid from unless the call says otherwise."""
        return self.quote.wallet if self.quote is not None else ""


@values.value
class Actual:
    """What a Commit, Report or Charge comes to. amount_micros None: what is held."""

    amount_micros: int | None
    detail: bytes = b""
    # What limits count of the detail.
    said: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    cost_usd: str = ""
    lines: Sequence[LineRow] = ()
    usage_state: int = 0
    price_version: str = ""
    terms: requests.Terms = dataclasses.field(default_factory=dict[str, Any])
    usage: usage.Usage | None = None
    # What a feature or rate is paid from unless the call says otherwise.
    wallet: str = ""


NOTHING = Actual(amount_micros=None)

Charged = types_pb2.ModelCharge | types_pb2.FeatureCharge | types_pb2.RateCharge | types_pb2.CreditsCharge


def usage_of(message: types_pb2.Usage, field: str) -> usage.Usage:
    """The counts of a message, checked."""
    return usage.checked_counts({descriptor.name: value for descriptor, value in message.ListFields()}, field)


def reserved(
    request: metering_pb2.ReserveRequest | metering_pb2.EstimateRequest,
    book: pricing.PriceBook,
    prompt_tokens: int,
    now_ms: int,
) -> Item:
    """The price of what is to be reserved. `prompt_tokens` counts a prompt that is given as text."""
    kind = request.WhichOneof("charge")
    if kind == "model":
        return _model_item(request.model, book, prompt_tokens, now_ms)
    if kind == "feature":
        quantity = requests.checked_quantity(request.feature.quantity, "feature.quantity")
        quote = pricing.quote_feature(book, request.feature.feature, quantity, now_ms)
        return _fixed_item(quote, {"qty": str(quantity)}, now_ms)
    if kind == "rate":
        quote = pricing.quote_rate(book, request.rate.rate, request.rate.quantity, now_ms)
        return _fixed_item(quote, {"qty": request.rate.quantity}, now_ms)
    if kind == "credits":
        amount = requests.checked_amount(request.credits.amount_micros, "credits.amount_micros")
        terms: requests.Terms = {"item": CREDITS_ITEM, "at": now_ms, "amt": amount, "pv": book.version}
        return Item(amount_micros=amount, amount_min_micros=amount, terms=terms, quote=None)
    raise errors.InvalidArgumentError("charge", "one of model, feature, rate or credits must be set")


def _fixed_item(quote: pricing.Quote, terms: requests.Terms, now_ms: int) -> Item:
    amount = quote.amount_micros
    terms |= {"item": quote.item, "at": now_ms, "pv": quote.price_version}
    return Item(amount_micros=amount, amount_min_micros=amount, terms=terms, quote=quote)


def _model_item(charge: types_pb2.ModelCharge, book: pricing.PriceBook, prompt_tokens: int, now_ms: int) -> Item:
    model, provider, tier = charge.model, charge.provider, charge.service_tier
    output, least, tokens = charge.max_output_tokens, charge.min_output_tokens, prompt_tokens or charge.input_tokens
    if not (0 <= least <= output <= requests.TOKENS_MAX and 0 <= tokens <= requests.TOKENS_MAX):
        raise _tokens_fault(output, least, tokens)
    terms: requests.Terms = {"at": now_ms, "model": model, "in": tokens}
    if charge.HasField("extra"):
        extra = usage_of(charge.extra, "model.extra")
        base = usage.with_counts(extra, input_tokens=extra.input_tokens + tokens)
        output += extra.output_tokens
        full = usage.with_counts(base, output_tokens=output)
        terms["extra"] = usage.set_counts(extra)
    else:
        if output + tokens == 0:
            raise errors.InvalidArgumentError("model", "input and max_output_tokens are both 0")
        base = full = usage.Usage(input_tokens=tokens, output_tokens=output)
    quote = pricing.quote_model(book, provider, model, full, tier, now_ms)
    basis, amount, cost_femtos = quote.basis, quote.amount_micros, quote.cost_femtos
    amount_min = amount
    if 0 < least < output:
        smaller = usage.with_counts(base, output_tokens=least)
        amount_min = pricing.quote_model(book, provider, model, smaller, tier, now_ms).amount_micros
        if amount_min < amount:
            terms["full"] = amount
    terms["item"] = basis.item
    terms["pv"] = basis.price_version
    terms["out"] = output
    if cost_femtos is not None:
        terms["cost"] = money.usd_string(cost_femtos)
    if provider:
        terms["provider"] = provider
    if tier:
        terms["tier"] = tier
    return Item(amount_micros=amount, amount_min_micros=min(amount, amount_min), terms=terms, quote=quote)


def _tokens_fault(output: int, least: int, tokens: int) -> errors.InvalidArgumentError:
    """What is wrong with the counts of a model charge."""
    requests.checked_tokens(output, "model.max_output_tokens")
    requests.checked_tokens(least, "model.min_output_tokens")
    if least > output:
        return errors.InvalidArgumentError("model.min_output_tokens", "must not be above max_output_tokens")
    requests.checked_tokens(tokens, "model.input_tokens")
    raise AssertionError("the counts are right")


def base_of(terms: requests.Terms) -> usage.Usage:
    """The usage without text output that a model hold was priced from."""
    base = usage.Usage(**terms.get("extra", {}))
    return usage.with_counts(base, input_tokens=base.input_tokens + terms["in"], output_tokens=0)


def wants_reported(request: metering_pb2.CommitRequest, kind: str | None) -> bool:
    """Whether the charge depends on what was reported: ABSENT usage. `kind` is what is set of `actual`."""
    return kind == "usage" and request.usage.usage_state == types_pb2.USAGE_STATE_ABSENT


def committed(
    terms: requests.Terms,
    request: metering_pb2.CommitRequest,
    kind: str | None,
    book: pricing.PriceBook,
    reported_micros: int,
) -> Actual:
    """What a hold with these terms comes to, from the price book that it was reserved by. `kind` is what is set of `actual`."""
    if kind == "usage" or kind == "provider_response":
        if "model" not in terms:
            raise errors.InvalidArgumentError(kind, f"the hold is for {terms['item']}, not for a model")
        provider, model = request.provider, request.model
        names = (provider if provider or model else terms.get("provider", ""), model or terms["model"])
        tier = request.service_tier or terms.get("tier", "")
        if kind == "usage":
            return _from_usage(request.usage, names, tier, book, terms["at"], reported_micros)
        return _from_response(request.provider_response, names, tier, book, terms["at"], fixed_model=bool(model))
    if kind == "amount_micros":
        return _plain(
            money.checked_micros(_not_negative(request.amount_micros, "amount_micros"), "amount_micros"), terms
        )
    if kind == "quantity":
        item: str = terms["item"]
        if not item.startswith("rate:"):
            raise errors.InvalidArgumentError("quantity", f"the hold is for {item}, not for a rate")
        quote = pricing.quote_rate(book, item.removeprefix("rate:"), request.quantity, terms["at"])
        return _quoted(quote, None, types_pb2.USAGE_STATE_REPORTED)
    if "model" in terms:
        raise errors.InvalidArgumentError("actual", "one of usage, provider_response or amount_micros must be set")
    return _plain(None, terms)


def reported(terms: requests.Terms, request: metering_pb2.ReportRequest, book: pricing.PriceBook) -> Actual:
    """What the usage so far of a hold with these terms comes to."""
    if "model" not in terms:
        raise errors.FailedPreconditionError(f"hold_id: the hold is for {terms['item']}, not for a model")
    names = (request.provider, request.model) if request.model else (terms.get("provider", ""), terms["model"])
    if not request.HasField("usage"):
        raise errors.InvalidArgumentError("usage", "must be given")
    counts = usage_of(request.usage, "usage")
    quote = pricing.quote_model(book, names[0], names[1], counts, terms.get("tier", ""), terms["at"])
    return _quoted(quote, counts, types_pb2.USAGE_STATE_PARTIAL)


def charged(request: metering_pb2.ChargeRequest, book: pricing.PriceBook, now_ms: int) -> Actual:
    """What a direct charge comes to, with its terms."""
    kind = request.WhichOneof("charge")
    terms: requests.Terms = {"at": now_ms, "pv": book.version}
    if kind == "credits":
        amount = requests.checked_amount(request.credits.amount_micros, "credits.amount_micros")
        return _plain(amount, terms | {"item": CREDITS_ITEM, "amt": amount})
    if kind == "feature":
        quantity = requests.checked_quantity(request.feature.quantity, "feature.quantity")
        quote = pricing.quote_feature(book, request.feature.feature, quantity, now_ms)
        actual = _quoted(quote, None, types_pb2.USAGE_STATE_REPORTED)
        return dataclasses.replace(actual, terms=terms | {"item": quote.item, "qty": str(quantity)})
    if kind == "rate":
        quote = pricing.quote_rate(book, request.rate.rate, request.rate.quantity, now_ms)
        actual = _quoted(quote, None, types_pb2.USAGE_STATE_REPORTED)
        return dataclasses.replace(actual, terms=terms | {"item": quote.item, "qty": request.rate.quantity})
    if kind == "model_usage":
        asked = request.model_usage
        names = (asked.provider, asked.model)
        if asked.WhichOneof("actual") == "usage":
            if asked.usage.usage_state == types_pb2.USAGE_STATE_ABSENT:
                raise errors.InvalidArgumentError(
                    "model_usage.usage.usage_state", "a charge without a hold needs usage"
                )
            actual = _from_usage(asked.usage, names, asked.service_tier, book, now_ms, 0)
        elif asked.WhichOneof("actual") == "provider_response":
            response = asked.provider_response
            actual = _from_response(response, names, asked.service_tier, book, now_ms, fixed_model=bool(asked.model))
        else:
            raise errors.InvalidArgumentError("model_usage.actual", "one of usage or provider_response must be set")
        item = f"model:{asked.provider}/{asked.model}" if asked.provider else f"model:{asked.model}"
        return dataclasses.replace(actual, terms=terms | {"item": item, "model": asked.model} | actual.terms)
    raise errors.InvalidArgumentError("charge", "one of feature, rate, credits or model_usage must be set")


def _not_negative(value: int, field: str) -> int:
    if value < 0:
        raise errors.InvalidArgumentError(field, "must not be negative")
    return value


def _plain(amount_micros: int | None, terms: requests.Terms) -> Actual:
    detail = requests.encode({"us": int(types_pb2.USAGE_STATE_REPORTED)})
    state = types_pb2.USAGE_STATE_REPORTED
    version = terms.get("pv", "")
    return Actual(amount_micros=amount_micros, detail=detail, usage_state=state, price_version=version, terms=terms)


def _from_usage(
    asked: metering_pb2.ReportedUsage,
    names: tuple[str, str],
    tier: str,
    book: pricing.PriceBook,
    at_ms: int,
    reported_micros: int,
) -> Actual:
    state: int = asked.usage_state or types_pb2.USAGE_STATE_REPORTED
    if state == types_pb2.USAGE_STATE_ABSENT:
        if asked.usage.ListFields():
            raise errors.InvalidArgumentError("usage.usage", "must be empty where usage_state is ABSENT")
        detail = requests.encode({"us": state})
        return Actual(
            amount_micros=reported_micros or None, detail=detail, usage_state=state, price_version=book.version
        )
    if not 0 < state <= types_pb2.USAGE_STATE_ABSENT:
        raise errors.InvalidArgumentError("usage.usage_state", "unknown value")
    if not asked.HasField("usage"):
        raise errors.InvalidArgumentError("usage.usage", "must be set; for unknown usage set usage_state to ABSENT")
    counts = usage_of(asked.usage, "usage.usage")
    quote = pricing.quote_model(book, names[0], names[1], counts, tier, at_ms)
    return _quoted(quote, counts, state, served=names)


def _from_response(
    asked: metering_pb2.ProviderResponse,
    names: tuple[str, str],
    tier: str,
    book: pricing.PriceBook,
    at_ms: int,
    *,
    fixed_model: bool,
) -> Actual:
    found = extract.extract(
        asked.json, provider=asked.provider or names[0], model=names[1], api_flavor=asked.api_flavor
    )
    served = (asked.provider or names[0], names[1])
    if not names[1] and not fixed_model:
        served = (served[0], found.model)
    quote = pricing.quote_model(book, served[0], served[1], found.usage, tier or found.service_tier, at_ms)
    return _quoted(quote, found.usage, types_pb2.USAGE_STATE_REPORTED, served=served)


def _quoted(
    quote: pricing.Quote, counts: usage.Usage | None, state: int, *, served: tuple[str, str] | None = None
) -> Actual:
    basis = quote.basis
    if quote.card is not None and counts is not None:
        # As line_row of pricing.explain, without a value for each line.
        lines = [
            (name, str(quantity), pricing.price_string(femtos), money.usd_string(quantity * femtos))
            for name, quantity, femtos in ratecards.parts(quote.card, counts)
        ]
    else:
        lines = [line_row(line) for line in pricing.explain(quote)]
    detail: dict[str, Any] = {
        "us": state,
        "lines": lines,
        "margin": basis.margin,
        "exact": money.ratio_string(quote.exact_numerator, basis.denominator),
        "cv": pricing.price_string(basis.credit_value_femtos),
        "item": basis.item,
    }
    cost = ""
    if quote.cost_femtos is not None:
        detail["cost"] = cost = money.usd_string(quote.cost_femtos)
    if counts is not None:
        detail["usage"] = usage.set_counts(counts)
    if served is not None:
        detail["model"] = served[1]
    return Actual(
        amount_micros=quote.amount_micros,
        detail=requests.encode(detail),
        said=detail,
        cost_usd=cost,
        lines=lines,
        usage_state=state,
        price_version=basis.price_version,
        usage=counts,
        wallet=quote.wallet,
    )


def line_row(line: pricing.Line) -> LineRow:
    cost = money.usd_string(line.cost_femtos) if line.cost_femtos is not None else ""
    return line.usage_class, line.quantity, line.unit_price, cost
