"""As bad_input, for plans, movements, top-ups, limits, the catalog and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from meterd_client.v1 import accounts_pb2, catalog_pb2, types_pb2
from tests.integration import bad_input, serving

BAD, MISSING, RANGE = bad_input.BAD, bad_input.MISSING, bad_input.RANGE
EXISTS, STATE = bad_input.EXISTS, bad_input.STATE
Rows = list[tuple[str, grpc.StatusCode, str, bad_input.Changes]]

DOCUMENT = """
packages:
  small: {name: Small, credits: 10, price: 1, currency: eur}
  gone: {name: Gone, credits: 10, price: 1, currency: eur, active: false}
plans:
  pro: {name: Pro, price: 19, currency: eur, allowances: {default: 1}}
  old: {name: Old, price: 9, currency: eur, allowances: {default: 1}, active: false}
rewards:
  welcome: {name: Welcome, kind: once, credits: 1}
  referral: {name: Referral, kind: referral, credits: 1}
"""
DAYS: dict[str, Any] = {"from_day": "2026-01-01", "to_day": "2026-12-31"}


def friend(world: bad_input.World) -> str:
    """Another account of the same tenant."""
    return f"{world.account_id}-friend"


def limit(**fields: Any) -> accounts_pb2.Limit:
    values: dict[str, Any] = {
        "limit_id": "team-month",
        "subject": types_pb2.LIMIT_SUBJECT_TEAM,
        "metric": types_pb2.LIMIT_METRIC_CREDITS,
        "window": types_pb2.LIMIT_WINDOW_MONTH,
        "amount": 5_000_000,
    }
    return accounts_pb2.Limit(**values | fields)


def top_up(**fields: Any) -> accounts_pb2.TopUp:
    values: dict[str, Any] = {"package_id": "small", "threshold_micros": 5_000_000, "per_month_max": 2}
    return accounts_pb2.TopUp(**values | fields)


GOOD: dict[str, Callable[[bad_input.World], dict[str, Any]]] = {
    "UpdateAccount": lambda w: {"account_id": w.account_id, "overdraft_limit_micros": 7},
    "Subscribe": lambda w: {"idempotency_key": serving.new_id(), "account_id": w.account_id, "plan_id": "pro"},
    "GetSubscription": lambda w: {"account_id": w.account_id},
    "UpdateSubscription": lambda w: {"account_id": w.account_id, "past_due": True},
    "CancelSubscription": lambda w: {"account_id": w.account_id},
    "Transfer": lambda w: {
        "idempotency_key": serving.new_id(),
        "from_account_id": w.account_id,
        "to_account_id": friend(w),
        "amount_micros": 1,
    },
    "ClawBack": lambda w: {"idempotency_key": serving.new_id(), "account_id": w.account_id, "amount_micros": 1},
    "ClaimReward": lambda w: {"account_id": w.account_id, "reward_id": "welcome"},
    "SetTopUp": lambda w: {"account_id": w.account_id, "top_up": top_up()},
    "DeleteTopUp": lambda w: {"account_id": w.account_id},
    "SetLimit": lambda w: {"account_id": w.account_id, "limit": limit()},
    "ListLimits": lambda w: {"account_id": w.account_id},
    "DeleteLimit": lambda w: {"account_id": w.account_id, "limit_id": "team-month"},
    "GetCatalog": lambda _: {},
    "ApplyCatalog": lambda _: {"document": DOCUMENT + "features: {letter: {credits: 1}}", "applied_by": "ops"},
}
REQUESTS: dict[str, Any] = {
    name: getattr(module, f"{name}Request")
    for name in GOOD
    for module in (accounts_pb2, catalog_pb2)
    if hasattr(module, f"{name}Request")
}
# An empty message asks for all there is.
EMPTY = frozenset(("GetCatalog",))


async def add_offers(world: bad_input.World, other: serving.Client) -> None:
    """Gives both tenants a catalog, and the world's account a friend, a plan, and what uses up some keys."""
    for client in (world.client, other):
        await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=DOCUMENT))
    await world.client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=friend(world)))
    for name in ("Subscribe", "ClawBack"):
        await world.client.call(
            name, bad_input.request_of(name, world, {"idempotency_key": _used(world), **_first(name)})
        )


def _used(world: bad_input.World) -> str:
    return f"used-{world.account_id}"


def _first(name: str) -> dict[str, Any]:
    """What the first use of the key had, other than the good request."""
    return {"amount_micros": 2} if name == "ClawBack" else {"skip_trial": True}


def _account_cases(method: str, field: str = "account_id") -> list[bad_input.Case]:
    """Like bad_input's, for a field of any name."""
    unknown = ("nobody", "a{b}:c", "{m:00}:e", "🦊", "*", "ACCT", "theirs", "a'; DROP TABLE accounts; --")
    rows: Rows = [(f"{field} {name!r}", MISSING, f"{field}: no such account", {field: name}) for name in unknown]
    return bad_input.text_cases(method, field, 128, required=True) + bad_input.cases(method, *rows)


def _wallet_cases(method: str, field: str) -> list[bad_input.Case]:
    spoilt = ("{x}:y", "UPPER", "w" * 65, "w" * 1_024, "a\0b", "🦊", " ")
    return bad_input.cases(method, *((f"{field} {name[:8]!r}", BAD, f"{field}: ", {field: name}) for name in spoilt))


def _amount_cases(method: str) -> list[bad_input.Case]:
    amounts = [(0, BAD), (-1, BAD), (-bad_input.HUGE - 1, BAD), (bad_input.BIG, RANGE), (bad_input.HUGE, RANGE)]
    return bad_input.cases(
        method, *((f"amount {n}", code, "amount_micros: ", {"amount_micros": n}) for n, code in amounts)
    )


def _plan_cases() -> list[bad_input.Case]:
    reused: bad_input.Changes = lambda w: {"idempotency_key": _used(w)}  # noqa: E731
    return [
        *_account_cases("UpdateAccount"),
        *bad_input.cases(
            "UpdateAccount",
            ("limit negative", BAD, "overdraft_limit_micros: ", {"overdraft_limit_micros": -1}),
            ("limit 2^53", RANGE, "overdraft_limit_micros: ", {"overdraft_limit_micros": bad_input.BIG}),
            *((f"policy {n}", BAD, "overage_policy: ", {"overage_policy": n}) for n in (0, 4, -1)),
        ),
        *_account_cases("Subscribe"),
        *bad_input.text_cases("Subscribe", "idempotency_key", 128, required=True),
        *bad_input.text_cases("Subscribe", "plan_id", 128, required=True),
        *bad_input.text_cases("Subscribe", "source_id", 128, required=False),
        *bad_input.cases(
            "Subscribe",
            ("plan that there is not", MISSING, "plan_id: ", {"plan_id": "PRO"}),
            ("plan that is not offered", MISSING, "plan_id: the plan is not active", {"plan_id": "old"}),
            *((f"proration {n}", BAD, "proration: ", {"proration": n}) for n in (3, -1)),
            ("key with other content", EXISTS, "idempotency_key: used before", reused),
        ),
        *(
            case
            for name in ("GetSubscription", "UpdateSubscription", "CancelSubscription")
            for case in (
                *_account_cases(name),
                *bad_input.cases(name, ("no plan", MISSING, "account_id: ", lambda w: {"account_id": friend(w)})),
            )
        ),
        *bad_input.cases(
            "CreateAccount",
            ("plan that there is not", MISSING, "plan_id: ", {"plan_id": "none"}),
            ("plan that is not offered", MISSING, "plan_id: ", {"plan_id": "old"}),
            ("plan_id NUL", BAD, "plan_id: ", {"plan_id": "a\0"}),
        ),
    ]


def _movement_cases() -> list[bad_input.Case]:
    itself: bad_input.Changes = lambda w: {"to_account_id": w.account_id}  # noqa: E731
    reused: bad_input.Changes = lambda w: {"idempotency_key": w.charge_key}  # noqa: E731
    clawed: bad_input.Changes = lambda w: {"idempotency_key": _used(w)}  # noqa: E731
    referral: Callable[..., bad_input.Changes] = lambda name: {"reward_id": "referral", "referred_account_id": name}  # noqa: E731
    return [
        *bad_input.id_cases("Transfer", "idempotency_key", required=True),
        *_account_cases("Transfer", "from_account_id"),
        *_account_cases("Transfer", "to_account_id"),
        *_wallet_cases("Transfer", "from_wallet"),
        *_wallet_cases("Transfer", "to_wallet"),
        *_amount_cases("Transfer"),
        *bad_input.text_cases("Transfer", "reason", 256, required=False)[1:],
        *bad_input.cases(
            "Transfer",
            ("to itself", BAD, "to_account_id: must be another account", itself),
            ("unknown wallet", MISSING, "from_wallet: no such wallet", {"from_wallet": "other"}),
            ("key of a charge", EXISTS, "idempotency_key: used before", reused),
        ),
        *bad_input.text_cases("ClawBack", "idempotency_key", 128, required=True),
        *_account_cases("ClawBack"),
        *_wallet_cases("ClawBack", "wallet"),
        *_amount_cases("ClawBack"),
        *bad_input.text_cases("ClawBack", "reason", 256, required=False)[1:],
        *bad_input.cases(
            "ClawBack", ("key with another amount", EXISTS, "idempotency_key: used before with another amount", clawed)
        ),
        *_account_cases("ClaimReward"),
        *bad_input.text_cases("ClaimReward", "reward_id", 128, required=True),
        *bad_input.cases(
            "ClaimReward",
            ("reward that there is not", MISSING, "reward_id: ", {"reward_id": "none"}),
            ("referred for another kind", BAD, "referred_account_id: ", lambda w: {"referred_account_id": friend(w)}),
            ("referred empty", BAD, "referred_account_id: ", referral("")),
            ("referred NUL", BAD, "referred_account_id: ", referral("a\0")),
            ("referred too long", BAD, "referred_account_id: ", referral("a" * 129)),
            ("referred nobody", MISSING, "referred_account_id: no such account", referral("nobody")),
            ("referred of another tenant", MISSING, "referred_account_id: no such account", referral("theirs")),
            ("referred oneself", BAD, "referred_account_id: ", lambda w: _itself(w)),
        ),
    ]


def _itself(world: bad_input.World) -> dict[str, Any]:
    return {"reward_id": "referral", "referred_account_id": world.account_id}


def _top_up_cases() -> list[bad_input.Case]:
    spoilt: list[tuple[grpc.StatusCode, str, dict[str, Any]]] = [
        *((BAD, "package_id", {"package_id": text}) for text in ("", "p" * 129, "a\0b", "a\n", "🦊" * 33)),
        *((MISSING, "package_id", {"package_id": text}) for text in ("none", "SMALL", "gone")),
        *((RANGE, "threshold_micros", {"threshold_micros": n}) for n in (-1, bad_input.BIG, bad_input.HUGE)),
        (BAD, "threshold_micros", {"threshold_micros": 10_000_000}),
        *((BAD, "per_month_max", {"per_month_max": n}) for n in (0, -1, 1_001, 2**31 - 1)),
    ]
    rows: Rows = [
        (f"{field} {n}", code, f"top_up.{field}: ", {"top_up": top_up(**fields)})
        for n, (code, field, fields) in enumerate(spoilt)
    ]
    return [
        *_account_cases("SetTopUp"),
        *bad_input.cases("SetTopUp", ("no top-up", BAD, "top_up.package_id: ", {"top_up": None}), *rows),
        *_account_cases("DeleteTopUp"),
    ]


def _limit_cases() -> list[bad_input.Case]:
    texts = ("", "l" * 129, "l" * 1_024, "a\0b", "a\n", "🦊" * 33)
    spoilt: list[tuple[grpc.StatusCode, str, dict[str, Any]]] = [
        *((BAD, "limit_id", {"limit_id": text}) for text in texts),
        *((BAD, "value", {"value": text}) for text in texts if text),
        *((BAD, "subject", {"subject": n}) for n in (0, 7, -1)),
        *((BAD, "metric", {"metric": n}) for n in (0, 6, -1)),
        *((BAD, "window", {"window": n}) for n in (0, 12, -1)),
        *((BAD, "amount", {"amount": n}) for n in (-1, -bad_input.HUGE - 1)),
        *((RANGE, "amount", {"amount": n}) for n in (bad_input.BIG, bad_input.HUGE)),
        (BAD, "value", {"subject": types_pb2.LIMIT_SUBJECT_ACCOUNT, "value": "alice"}),
        (BAD, "window", {"metric": types_pb2.LIMIT_METRIC_OPEN_HOLDS}),
    ]
    rows: Rows = [
        (f"{field} {n}", code, f"limit.{field}: ", {"limit": limit(**fields)})
        for n, (code, field, fields) in enumerate(spoilt)
    ]
    return [
        *_account_cases("SetLimit"),
        *bad_input.cases("SetLimit", ("no limit", BAD, "limit.", {"limit": None}), *rows),
        *_account_cases("DeleteLimit"),
        *bad_input.text_cases("DeleteLimit", "limit_id", 128, required=True),
        *_account_cases("ListLimits"),
    ]


def _catalog_cases() -> list[bad_input.Case]:
    documents = [
        ("", "document: "),
        ("[]", "document: "),
        ("plans: {pro: {price: 1", "document: line 1"),
        ("\n\npackages: {a: {credits: -5, price: 1, currency: eur}}", "document: line 3: packages.a.credits: "),
        ("features: {a: {credits: 0.0000001}}", "document: line 1: features.a.credits: "),
        ("features:\n  a: {credits: 1}\n  a: {credits: 2}", "document: line 3: "),
        ("prices: {}", "document: line 1: "),
        ("features: {a: {credits: 1, colour: red}}", "document: line 1: features.a.colour: "),
        ("account: {plan: none}", "document: line 1: account.plan: "),
        ("{}\0", "document: "),
        ("# " + "a" * 1_048_576, "document: "),
    ]
    return [
        *bad_input.cases(
            "ApplyCatalog",
            *((f"document {text[:30]!r}", BAD, prefix, {"document": text}) for text, prefix in documents),
            *(
                (f"document {text[:30]!r}, dry", BAD, prefix, {"document": text, "dry_run": True})
                for text, prefix in documents[:3]
            ),
            ("another version", STATE, "expected_version: ", {"expected_version": "000000000000"}),
            ("another version, dry", STATE, "expected_version: ", {"expected_version": "", "dry_run": True}),
        ),
        *bad_input.text_cases("ApplyCatalog", "applied_by", 128, required=False),
    ]


def _report_cases() -> list[bad_input.Case]:
    days = ("", "soon", "2026-13-01", "2026-02-30", "2026-1-1", "20260101", "2026-01-01T00:00", "🦊", "2026-01-01\n")
    found: list[bad_input.Case] = []
    for name in ("Usage", "Revenue", "TopAccounts"):
        rows: Rows = [(f"{field} {day!r}", BAD, f"{field}: ", {field: day}) for field in DAYS for day in days]
        rows += [
            ("backwards", BAD, "to_day: ", {"to_day": "2025-12-31"}),
            ("too far apart", BAD, "to_day: ", {"to_day": "2027-01-03"}),
        ]
        found += bad_input.cases(name, *rows)
    for name, field, count_max in (("Usage", "limit", 10_000), ("TopAccounts", "limit", 1_000), ("Burn", "days", 90)):
        found += bad_input.cases(
            name, *((f"{field} {n}", BAD, f"{field}: ", {field: n}) for n in (-1, count_max + 1, 2**31 - 1))
        )
    return [
        *found,
        *_account_cases("Burn"),
        # Without one it is the whole tenant's.
        *(case for case in _account_cases("Usage") if case.changes != {"account_id": ""}),
        *bad_input.cases(
            "Usage",
            *(
                (f"group_by {names}", BAD, "group_by: ", {"group_by": names})
                for names in (["price"], ["day", "day"], [""], ["DAY"], ["day; DROP TABLE ledger"])
            ),
        ),
    ]


CASES = [*_plan_cases(), *_movement_cases(), *_top_up_cases(), *_limit_cases(), *_catalog_cases(), *_report_cases()]
bad_input.GOOD.update(GOOD)
bad_input.REQUESTS.update(REQUESTS)
