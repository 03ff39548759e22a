"""What users of the best peers ask for, each sentence of the list as one check against real processes."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import grpc
import pytest

from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2
from tests.acceptance import installation, processes, products

CREDIT = products.CREDIT
CATALOG = """
currency: usd
features:
  action: {name: Action, credits: %d}
"""


@pytest.fixture(scope="module")
def app(shared: installation.Installation) -> Iterator[products.Product]:
    with products.opened(shared, "peers") as found:
        found.apply(CATALOG % 2)
        yield found


def _funded(app: products.Product, account_id: str, credits: float = 1_000) -> None:
    app.open(account_id)
    app.grant(account_id, credits)


def _model(name: str, provider: str, tokens_in: int, tokens_out: int) -> types_pb2.ModelCharge:
    return types_pb2.ModelCharge(provider=provider, model=name, input_tokens=tokens_in, max_output_tokens=tokens_out)


def _held(app: products.Product, account_id: str, **fields: Any) -> types_pb2.Hold:
    """2,000 tokens in and 1,000 out of gpt-4o: 15 credits."""
    return app.reserve(account_id, model=_model("gpt-4o", "openai", 2_000, 1_000), **fields).hold


def _wallet(app: products.Product, account_id: str) -> tuple[float, float]:
    """Available and held credits."""
    (one,) = app.wallets(account_id).values()
    return one.available_micros / CREDIT, one.held_micros / CREDIT


def test_a_hold_that_nobody_ends_never_leaks(app: products.Product) -> None:
    _funded(app, "leak")
    for _ in range(3):
        assert _held(app, "leak", ttl_ms=1_000).amount_micros == 15 * CREDIT
    assert _wallet(app, "leak") == (955, 45)
    processes.wait_until(lambda: _wallet(app, "leak") == (1_000, 0), "the holds' return", timeout_s=15)
    app.settled("leak")
    assert len(app.events("leak", "hold.expired")) == 3


def test_an_aborted_stream_is_neither_free_nor_overcharged(app: products.Product) -> None:
    _funded(app, "abort")
    charged = types_pb2.EXPIRY_POLICY_CHARGE_REPORTED
    cut = _held(app, "abort", ttl_ms=1_000, expiry_policy=charged)
    told = _held(app, "abort")
    so_far = types_pb2.Usage(input_tokens=2_000, output_tokens=100)
    app.client.call("Report", metering_pb2.ReportRequest(hold_id=cut.hold_id, usage=so_far))
    # One client says what came until the abort; the other one is gone, and its last report is charged: 6 credits each.
    partial = metering_pb2.ReportedUsage(usage=so_far, usage_state=types_pb2.USAGE_STATE_PARTIAL)
    ended = app.commit(told.hold_id, usage=partial).settlement
    assert (ended.charged_micros, ended.returned_micros) == (6 * CREDIT, 9 * CREDIT)
    assert ended.usage_state == types_pb2.USAGE_STATE_PARTIAL
    processes.wait_until(lambda: _wallet(app, "abort") == (988, 0), "the other one's charge", timeout_s=15)


def test_usage_that_is_not_known_is_never_taken_for_zero(app: products.Product) -> None:
    _funded(app, "absent")
    hold = _held(app, "absent")
    absent = metering_pb2.ReportedUsage(usage_state=types_pb2.USAGE_STATE_ABSENT)
    assert app.commit(hold.hold_id, usage=absent).settlement.charged_micros == 15 * CREDIT


@pytest.mark.parametrize(
    ("provider", "model", "usage", "cost_usd"),
    [
        # 2.50 a million in, 1.25 cached, 10 out: 500, 1,500 and 200.
        ("openai", "gpt-4o", {"input_tokens": 2_000, "cache_read_tokens": 1_500, "output_tokens": 200}, "0.005125"),
        # Reasoning is output, and not charged on top of it: 1.10 in and 4.40 out.
        ("openai", "o4-mini", {"input_tokens": 1_000, "output_tokens": 3_000, "reasoning_tokens": 2_500}, "0.0143"),
        # Writes of five minutes at 3.75 and of an hour at 6, reads at 0.30, the rest at 3; 15 out.
        (
            "anthropic",
            "claude-sonnet-4-5",
            {
                "input_tokens": 10_000,
                "cache_read_tokens": 4_000,
                "cache_write_tokens": 5_000,
                "cache_write_1h_tokens": 2_000,
                "output_tokens": 100,
            },
            "0.02895",
        ),
        # At 200,000 the low tier (1.25 and 10); one more, and the whole call is of the high one (2.50 and 15).
        ("google", "gemini-2.5-pro", {"input_tokens": 200_000, "output_tokens": 1_000}, "0.26"),
        ("google", "gemini-2.5-pro", {"input_tokens": 200_001, "output_tokens": 1_000}, "0.5150025"),
    ],
)
def test_cached_reasoning_and_long_context_tokens_are_priced_right(
    app: products.Product, provider: str, model: str, usage: dict[str, int], cost_usd: str
) -> None:
    _funded(app, "classes")
    reported = metering_pb2.ReportedUsage(usage=types_pb2.Usage(**usage))
    call = metering_pb2.ModelUsage(provider=provider, model=model, usage=reported)
    settled = app.charge("classes", model_usage=call).settlement
    assert settled.cost_usd == cost_usd
    assert Decimal(settled.charged_micros) == -(-Decimal(cost_usd) * 1_000 * CREDIT // 1)
    assert sum((Decimal(one.cost_usd) for one in settled.breakdown), Decimal(0)) == Decimal(cost_usd)


def test_an_unknown_model_is_never_free(app: products.Product) -> None:
    _funded(app, "unknown")
    model = _model("gpt-99-imaginary", "openai", 10, 10)
    request = metering_pb2.ReserveRequest(hold_id=installation.new_id(), account_id="unknown", model=model)
    code, message = app.client.refused("Reserve", request)
    assert (code, "gpt-99-imaginary" in message) == (grpc.StatusCode.NOT_FOUND, True)
    reported = metering_pb2.ReportedUsage(usage=types_pb2.Usage(input_tokens=10, output_tokens=10))
    call = metering_pb2.ModelUsage(provider="openai", model="gpt-99-imaginary", usage=reported)
    charge = metering_pb2.ChargeRequest(idempotency_key=installation.new_id(), account_id="unknown", model_usage=call)
    assert app.client.refused("Charge", charge)[0] == grpc.StatusCode.NOT_FOUND
    assert app.credits("unknown") == 1_000


def test_an_old_bill_is_never_repriced(app: products.Product) -> None:
    _funded(app, "old")
    action = types_pb2.FeatureCharge(feature="action")
    billed = app.charge("old", feature="action").settlement
    held = app.reserve("old", feature=action).hold
    explained = _explained(app, "old", billed.settlement_id)
    try:
        assert app.apply(CATALOG % 7).changes == ["feature action: credits 2 → 7"]
        assert app.estimate(feature=action).amount_micros == 7 * CREDIT
        # What was reserved before is charged at its price, and what was billed stays.
        ended = app.commit(held.hold_id).settlement
        assert (ended.charged_micros, ended.price_version) == (2 * CREDIT, billed.price_version)
        assert _explained(app, "old", billed.settlement_id) == explained
        dear = app.charge("old", feature="action").settlement
        assert (dear.charged_micros, dear.price_version == billed.price_version) == (7 * CREDIT, False)
    finally:
        app.apply(CATALOG % 2)


def _explained(app: products.Product, account_id: str, settlement_id: str) -> accounts_pb2.ExplainSettlementResponse:
    app.settled(account_id)
    request = accounts_pb2.ExplainSettlementRequest(account_id=account_id, id=settlement_id)
    return app.client.call("ExplainSettlement", request)


def test_a_purchase_that_is_told_twice_or_at_once_credits_once(app: products.Product) -> None:
    """What duplicate events of a payment provider come to."""
    app.open("order")
    with concurrent.futures.ThreadPoolExecutor(max_workers=20) as pool:
        answers = list(pool.map(lambda _: app.grant("order", 100, idempotency_key="order:pi_1"), range(20)))
    assert sum(not one.replayed for one in answers) == 1
    assert len({one.grant.grant_id for one in answers}) == 1
    assert app.credits("order") == 100
    other = accounts_pb2.GrantRequest(
        idempotency_key="order:pi_1", account_id="order", amount_micros=CREDIT, category=types_pb2.GRANT_CATEGORY_PAID
    )
    assert app.client.refused("Grant", other)[0] == grpc.StatusCode.ALREADY_EXISTS


def test_what_is_affordable_is_told_instead_of_a_bare_refusal(app: products.Product) -> None:
    _funded(app, "afford", 10)
    denial = app.reserve("afford", model=_model("gpt-4o", "openai", 2_000, 1_000)).denial
    # 10 credits less 5 for the prompt are 500 tokens.
    assert (denial.available_micros, denial.required_micros) == (10 * CREDIT, 15 * CREDIT)
    assert denial.affordable_output_tokens == 500
    flexible = _model("gpt-4o", "openai", 2_000, 1_000)
    flexible.min_output_tokens = 100
    hold = app.reserve("afford", model=flexible).hold
    assert (hold.max_output_tokens, hold.amount_micros) == (500, 10 * CREDIT)


def _limit(
    app: products.Product, account_id: str, limit_id: str, subject: types_pb2.LimitSubject, credits: int
) -> None:
    limit = accounts_pb2.Limit(
        limit_id=limit_id,
        subject=subject,
        metric=types_pb2.LIMIT_METRIC_CREDITS,
        window=types_pb2.LIMIT_WINDOW_LIFETIME,
        amount=credits * CREDIT,
    )
    app.client.call("SetLimit", accounts_pb2.SetLimitRequest(account_id=account_id, limit=limit))


@pytest.mark.parametrize(("funds", "expected"), [(100, 50), (44, 44)])
def test_organisation_team_user_and_key_caps_and_the_wallet_are_one_step(
    app: products.Product, funds: int, expected: int
) -> None:
    """Fifty users race under a key's 50 credits, a team's 40, a user's 3 and the wallet; none of them is passed."""
    name = f"caps-{funds}"
    _funded(app, name, funds)
    _limit(app, name, "org", types_pb2.LIMIT_SUBJECT_ACCOUNT, 70)
    _limit(app, name, "team", types_pb2.LIMIT_SUBJECT_TEAM, 40)
    _limit(app, name, "key", types_pb2.LIMIT_SUBJECT_KEY, 50)
    _limit(app, name, "user", types_pb2.LIMIT_SUBJECT_USER, 3)

    def race(at: int) -> metering_pb2.ChargeResponse:
        user = at % 50
        subject = types_pb2.Subject(user=f"user-{user}", team="small" if user % 5 == 0 else "big", key="key")
        return app.charge(name, feature="action", subject=subject)

    with concurrent.futures.ThreadPoolExecutor(max_workers=50) as pool:
        answers = list(pool.map(race, range(100)))
    charged = [one.settlement.charged_micros for one in answers if one.HasField("settlement")]
    assert charged == [2 * CREDIT] * (expected // 2)
    assert app.credits(name) == funds - expected
    found = app.client.call("ListLimits", accounts_pb2.ListLimitsRequest(account_id=name)).limits
    uses = {one.limit.limit_id: [use.used / CREDIT for use in one.uses] for one in found}
    # A denied call left no trace in any of them.
    assert {limit_id: sum(used) for limit_id, used in uses.items()} == dict.fromkeys(uses, expected)
    assert len(uses) == 4 and max(uses["team"]) <= 40 and max(uses["user"]) == 2
    big = app.charge(name, credits=60, subject=types_pb2.Subject(user="new", team="new", key="key")).denial
    assert {one.limit_id or one.scope for one in big.reasons} == {"org", "team", "key", "user", "wallet:default"}


def test_a_grant_expires_when_it_is_due_and_not_at_a_renewal(app: products.Product) -> None:
    app.open("expiry")
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    app.grant("expiry", 50, expires_at=expires)
    app.grant("expiry", 5)
    assert app.credits("expiry") == 55
    while datetime.datetime.now(datetime.UTC) < expires:
        time.sleep(0.05)
    assert app.charge("expiry", credits=6).denial.available_micros == 5 * CREDIT
    processes.wait_until(lambda: _lost(app, "expiry") == 50, "the record of it", timeout_s=15)


def _lost(app: products.Product, account_id: str) -> float:
    return app.balance(account_id).lifetime.lost_micros / CREDIT


def test_any_charge_is_explained(app: products.Product) -> None:
    _funded(app, "why")
    hold = _held(app, "why")
    body = {
        "model": "gpt-4o",
        "usage": {
            "prompt_tokens": 2_000,
            "completion_tokens": 300,
            "prompt_tokens_details": {"cached_tokens": 1_000},
        },
    }
    response = metering_pb2.ProviderResponse(json=json.dumps(body).encode())
    settled = app.commit(hold.hold_id, provider_response=response).settlement
    found = _explained(app, "why", hold.hold_id)
    assert (found.usage.input_tokens, found.usage.cache_read_tokens, found.usage.output_tokens) == (2_000, 1_000, 300)
    assert (found.margin, found.credit_value_usd) == ("1", "0.001")
    assert (Decimal(found.exact_micros), found.rounded_micros) == (6_750_000, 6_750_000)
    assert found.held_micros == 15 * CREDIT
    recorded = found.transaction.settlement
    assert (recorded.cost_usd, recorded.charged_micros) == ("0.00675", 6_750_000)
    assert recorded.price_version == settled.price_version == hold.price_version
    assert {one.usage_class: one.cost_usd for one in recorded.breakdown} == {
        "input": "0.0025",
        "cache_read": "0.00125",
        "output": "0.003",
    }
    assert sum(one.amount_micros for one in recorded.grants) == 6_750_000
    assert len(found.steps) >= 3


def test_redis_and_postgres_are_proven_to_agree(app: products.Product) -> None:
    app.made.verify()


def test_a_redis_that_lost_everything_is_built_anew_from_postgres(
    install: Callable[..., installation.Installation],
) -> None:
    made = install()
    with products.opened(made, "phoenix") as app:
        app.apply(CATALOG % 2)
        _funded(app, "org", 100)
        _limit(app, "org", "cap", types_pb2.LIMIT_SUBJECT_ACCOUNT, 20)
        key = installation.new_id()
        charged = app.charge("org", feature="action", idempotency_key=key)
        assert charged.balance.available_micros == 98 * CREDIT
        ended = app.reserve("org", credits=types_pb2.CreditsCharge(amount_micros=16 * CREDIT)).hold
        committed = app.commit(ended.hold_id)
        assert committed.settlement.charged_micros == 16 * CREDIT
        app.settled("org")
        made.valkey.kill()
        made.valkey.empty()
        made.valkey.start()
        made.meterd("recover")
        processes.wait_until(made.is_serving, "health SERVING")
        assert app.credits("org") == 82
        # Who did not hear the answers asks again: the new Redis knows of neither, and charges nothing.
        for first, again in (
            (charged, app.charge("org", feature="action", idempotency_key=key)),
            (committed, app.commit(ended.hold_id)),
        ):
            assert (first.replayed, again.replayed) == (False, True)
            assert again.settlement.settlement_id == first.settlement.settlement_id
            assert again.settlement.charged_micros == first.settlement.charged_micros
        dearer = types_pb2.CreditsCharge(amount_micros=3 * CREDIT)
        other = metering_pb2.ChargeRequest(idempotency_key=key, account_id="org", credits=dearer)
        assert app.client.refused("Charge", other)[0] == grpc.StatusCode.ALREADY_EXISTS
        other = metering_pb2.CommitRequest(hold_id=ended.hold_id, amount_micros=3 * CREDIT)
        assert app.client.refused("Commit", other)[0] == grpc.StatusCode.ALREADY_EXISTS
        assert app.credits("org") == 82
        # The limit knows what was used before.
        assert app.charge("org", feature="action").balance.available_micros == 80 * CREDIT
        (reason,) = app.charge("org", feature="action").denial.reasons
        assert (reason.limit_id, reason.used_micros) == ("cap", 20 * CREDIT)
        app.settled("org")
        made.verify()
