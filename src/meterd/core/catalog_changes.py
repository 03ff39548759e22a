"""What differs between two catalogs, one line a change, in the words of the file. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from meterd.core import catalog, limits, money, pricing

# The values of an item by the names that they have in the file; "" for what is not set.
Values = Mapping[str, str]
ItemT = TypeVar("ItemT")


def changes(before: catalog.Catalog, after: catalog.Catalog) -> list[str]:
    """Nothing for catalogs of equal content."""
    return [
        *_differences("", _settings(before), _settings(after)),
        *_section("package", before.packages, after.packages, lambda item: item.package_id, _package),
        *_section("plan", before.plans, after.plans, lambda item: item.plan_id, _plan),
        *_section("feature", before.features, after.features, lambda item: item.feature_id, _feature),
        *_section("rate", before.rates, after.rates, lambda item: item.rate_id, _rate),
        *_section("reward", before.rewards, after.rewards, lambda item: item.reward_id, _reward),
        *_section("limit", before.limits, after.limits, lambda item: item.limit_id, _limit),
    ]


def _section(
    kind: str,
    before: Sequence[ItemT],
    after: Sequence[ItemT],
    id_of: Callable[[ItemT], str],
    values_of: Callable[[ItemT], Values],
) -> Iterable[str]:
    old = {id_of(item): values_of(item) for item in before}
    new = {id_of(item): values_of(item) for item in after}
    for item_id, values in new.items():
        if item_id not in old:
            yield f"{kind} {item_id}: new ({', '.join(_said(values))})"
        else:
            yield from _differences(f"{kind} {item_id}: ", old[item_id], values)
    yield from (f"{kind} {item_id}: removed" for item_id in old if item_id not in new)
    if [item_id for item_id in old if item_id in new] != [item_id for item_id in new if item_id in old]:
        yield f"{kind}s: in another order"


def _said(values: Values) -> Iterable[str]:
    return (f"{name} {value}" for name, value in values.items() if value not in ("", "no"))


def _differences(prefix: str, old: Values, new: Values) -> Iterable[str]:
    for name in (*old, *(name for name in new if name not in old)):
        was, is_now = old.get(name, ""), new.get(name, "")
        if was != is_now:
            yield f"{prefix}{name} {was or 'none'} → {is_now or 'none'}"


def credits_text(amount_micros: int) -> str:
    """Micro-credits as credits, as the file has them."""
    return money.decimal_string(amount_micros, 6)


def _credits(amount_micros: int) -> str:
    return credits_text(amount_micros) if amount_micros else ""


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _count(value: int) -> str:
    return str(value) if value else ""


def _settings(value: catalog.Catalog) -> Values:
    credit_value = money.usd_string(value.credit_value_femtos) if value.credit_value_femtos else ""
    return {
        "credit_value_usd": credit_value,
        "account.welcome_bonus": _credits(value.account.welcome_bonus_micros),
        "account.low_balance": _credits(value.account.low_balance_micros),
        "account.plan": value.account.plan_id,
        **_margins(value.margins),
    }


def _margins(value: pricing.Margins | None) -> Values:
    if value is None:
        return {}
    by_key = {"providers": value.providers, "models": value.models, "features": value.features}
    named = {f"margins.{name}.{key}": margin for name, margins in by_key.items() for key, margin in margins.items()}
    return {"margins.default": value.default, **named}


def _money(price: str, currency: str) -> str:
    return f"{price} {currency}".rstrip()


def _package(item: catalog.Package) -> Values:
    return {
        "name": item.name,
        "credits": credits_text(item.amount_micros),
        "bonus": _credits(item.bonus_micros),
        "price": _money(item.price, item.currency),
        "discount_percent": item.discount_percent,
        "flags": " ".join(item.flags),
        "stripe_price": item.stripe_price,
        "wallet": item.wallet,
        "active": _yes(item.active),
    }


def _plan(item: catalog.Plan) -> Values:
    return {
        "name": item.name,
        "price": _money(item.price, item.currency),
        "interval": item.interval,
        "period": item.period,
        **{f"allowances.{one.wallet}": credits_text(one.amount_micros) for one in item.allowances},
        "unlimited": _yes(item.unlimited),
        "actions_per_day": _count(item.actions_per_day),
        "rollover": _yes(item.rollover),
        "trial_days": _count(item.trial_days),
        "welcome_bonus": _credits(item.welcome_bonus_micros),
        "stripe_price": item.stripe_price,
        "active": _yes(item.active),
    }


def _feature(item: catalog.Feature) -> Values:
    return {
        "name": item.name,
        "category": item.category,
        "credits": credits_text(item.amount_micros),
        "wallet": item.wallet,
        "active": _yes(item.active),
    }


def _rate(item: catalog.Rate) -> Values:
    return {
        "name": item.name,
        "credits": money.decimal_string(item.unit_price_scaled, 6 + pricing.RATE_DECIMALS),
        "unit": item.unit,
        "fractional": _yes(item.fractional),
        "wallet": item.wallet,
        "active": _yes(item.active),
    }


def _reward(item: catalog.Reward) -> Values:
    return {
        "name": item.name,
        "credits": credits_text(item.amount_micros),
        "kind": item.kind,
        "weekly_cap": _count(item.weekly_cap),
        "lifetime_spent": _credits(item.lifetime_spent_micros),
        "wallet": item.wallet,
    }


def _limit(item: catalog.LimitDefault) -> Values:
    is_money = item.metric in (limits.word(limits.Metric.CREDITS), limits.word(limits.Metric.COST))
    return {
        "subject": item.subject,
        "value": item.value,
        "metric": item.metric,
        "window": "" if limits.METRICS[item.metric] is limits.Metric.HOLDS else item.window,
        "amount": credits_text(item.cap) if is_money else str(item.cap),
        "mode": "observe" if item.observe else "enforce",
    }
