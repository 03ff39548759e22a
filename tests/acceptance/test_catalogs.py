"""The catalogs of four products, applied with `meterd catalog apply`: every number of them as clients see it, and as it is charged."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import grpc
import pytest

from meterd_client.v1 import catalog_pb2, metering_pb2, types_pb2
from tests.acceptance import installation

FILES = pathlib.Path(__file__).parent / "catalogs"
CREDIT = 1_000_000


@pytest.fixture(scope="module")
def products(shared: installation.Installation) -> dict[str, str]:
    """The admin keys of tenants that have applied the catalogs, by product."""
    keys: dict[str, str] = {}
    for product in "abcd":
        keys[product] = shared.make_key(f"product-{product}", "admin")
        told = _catalog(shared, keys[product], "apply", str(FILES / f"{product}.yaml"), "--yes")
        assert told.splitlines()[-1].endswith("is in force.")
    return keys


def _catalog(made: installation.Installation, key: str, *arguments: str) -> str:
    return made.meterd("catalog", *arguments, "--server", made.server.address, "--key", key)


def sold(made: installation.Installation, key: str) -> catalog_pb2.GetCatalogResponse:
    with made.client(key) as client:
        return client.call("GetCatalog", catalog_pb2.GetCatalogRequest())


def feature_credits(client: installation.Client, feature: str, quantity: int = 1) -> float:
    charge = types_pb2.FeatureCharge(feature=feature, quantity=quantity)
    return client.call("Estimate", metering_pb2.EstimateRequest(feature=charge)).amount_micros / CREDIT


def rate_credits(client: installation.Client, rate: str, quantity: str) -> float:
    charge = types_pb2.RateCharge(rate=rate, quantity=quantity)
    return client.call("Estimate", metering_pb2.EstimateRequest(rate=charge)).amount_micros / CREDIT


def packages(found: catalog_pb2.GetCatalogResponse) -> list[tuple[Any, ...]]:
    return [
        (item.name, item.amount_micros / CREDIT, item.bonus_micros / CREDIT, item.price, item.currency)
        for item in found.packages
    ]


def allowances(plan: catalog_pb2.Plan) -> dict[str, float]:
    return {one.wallet: one.amount_micros / CREDIT for one in plan.allowances}


def test_a_repeat_of_each_file_changes_nothing(shared: installation.Installation, products: dict[str, str]) -> None:
    for product, key in products.items():
        version = sold(shared, key).version
        told = _catalog(shared, key, "apply", str(FILES / f"{product}.yaml"), "--yes")
        assert told == f"Nothing to change: catalog {version} is in force.\n"


def test_the_job_search_app(shared: installation.Installation, products: dict[str, str]) -> None:
    found = sold(shared, products["a"])
    assert packages(found) == [
        ("Starter", 100, 0, "5.00", "usd"),
        ("Basic", 250, 0, "10.00", "usd"),
        ("Pro", 600, 0, "20.00", "usd"),
        ("Power", 1500, 0, "40.00", "usd"),
        ("Enterprise", 5000, 0, "100.00", "usd"),
    ]
    assert [item.discount_percent for item in found.packages] == ["", "20", "34", "46", "60"]
    assert [list(item.flags) for item in found.packages] == [[], [], ["popular", "best value"], [], []]
    assert [(plan.price, plan.interval, plan.unlimited, plan.actions_per_day) for plan in found.plans] == [
        ("5.00", "month", True, 100),
        ("48.00", "year", True, 100),
    ]
    prices = {
        "job_match_simple": 2,
        "job_match_detailed": 5,
        "resume_parsing": 8,
        "resume_analysis": 10,
        "resume_optimization": 15,
        "cover_letter": 12,
        "interview_prep": 8,
        "interview_feedback": 5,
        "career_insights": 20,
        "salary_analysis": 6,
        "company_research": 4,
        "skill_gap_analysis": 10,
        "saved_search": 5,
        "job_alert_weekly": 2,
    }
    assert {item.feature_id: item.amount_micros / CREDIT for item in found.features} == prices
    assert all(item.name and item.category and item.active for item in found.features)
    with shared.client(products["a"]) as client:
        assert {feature: feature_credits(client, feature) for feature in prices} == prices
        assert feature_credits(client, "cover_letter", 3) == 36
    assert found.account.welcome_bonus_micros == 10 * CREDIT
    assert found.account.low_balance_micros == 20 * CREDIT
    rewards = [
        (item.reward_id, item.kind, item.amount_micros / CREDIT, item.weekly_cap, item.lifetime_spent_micros / CREDIT)
        for item in found.rewards
    ]
    assert rewards == [
        ("daily_login", "day", 1, 5, 0),
        ("referral", "referral", 20, 0, 0),
        ("spent_100", "once", 10, 0, 100),
        ("spent_500", "once", 50, 0, 500),
        ("spent_1000", "once", 100, 0, 1000),
    ]


def test_the_fitness_app(shared: installation.Installation, products: dict[str, str]) -> None:
    found = sold(shared, products["b"])
    assert found.credit_value_usd == "0.001"
    assert packages(found) == [
        ("Starter", 2000, 0, "19.00", "eur"),
        ("Basic", 3200, 0, "29.00", "eur"),
        ("Plus", 5700, 0, "49.00", "eur"),
        ("Premium", 12500, 0, "99.00", "eur"),
    ]
    assert [item.discount_percent for item in found.packages] == ["", "10", "15", "25"]
    assert [(plan.name, plan.price, allowances(plan)) for plan in found.plans] == [
        ("Free", "0.00", {"default": 100}),
        ("Essential", "9.00", {"default": 1000}),
        ("Pro", "19.00", {"default": 3000}),
        ("Elite", "29.00", {"default": 5000}),
        ("Champion", "39.00", {"default": 8000}),
        ("Master", "49.00", {"default": 12000}),
        ("Legend", "59.00", {"default": 18000}),
        ("Titan", "99.00", {"default": 35000}),
    ]
    assert found.account.plan_id == "free"
    with shared.client(products["b"]) as client:
        cost = functools.partial(rate_credits, client)
        # 0.04 and 0.08 USD an image, 0.006 USD a minute, at 0.001 USD a credit.
        assert (cost("image_standard", "1"), cost("image_hd", "1"), cost("transcription", "1")) == (40, 80, 6)
        assert cost("transcription", "2.5") == 15
        model = types_pb2.ModelCharge(
            provider="openai", model="gpt-4o-mini", input_tokens=10_000, max_output_tokens=1_000
        )
        answer = client.call("Estimate", metering_pb2.EstimateRequest(model=model))
        # 0.15 USD a million in and 0.60 out, at cost.
        assert (answer.cost_estimate_usd, answer.amount_micros / CREDIT) == ("0.0021", 2.1)


def test_the_vm_platform(shared: installation.Installation, products: dict[str, str]) -> None:
    found = sold(shared, products["c"])
    assert packages(found) == [
        ("Starter", 2000, 0, "19.00", "usd"),
        ("Growth", 6000, 500, "49.00", "usd"),
        ("Pro", 15000, 1500, "99.00", "usd"),
    ]
    assert found.account.low_balance_micros == 500 * CREDIT
    prices = {"vm_minute": 1, "screenshot": 0.5, "api_call": 0.1, "ai_message": 0.2, "file_upload": 1}
    assert {item.rate_id: int(item.unit_micros) / CREDIT for item in found.rates} == prices
    with shared.client(products["c"]) as client:
        assert {rate: rate_credits(client, rate, "1") for rate in prices} == prices
        # About 100 credits an hour: 60 minutes, 30 screenshots, 150 calls and 50 messages.
        hour = [("vm_minute", "60"), ("screenshot", "30"), ("api_call", "150"), ("ai_message", "50")]
        assert sum(rate_credits(client, rate, quantity) for rate, quantity in hour) == 100
        assert rate_credits(client, "file_upload", "2.5") == 2.5
        charge = types_pb2.RateCharge(rate="api_call", quantity="0.5")
        code, message = client.refused("Estimate", metering_pb2.EstimateRequest(rate=charge))
        assert (code, message) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "rate.quantity: api_call is charged in whole units",
        )


def test_the_audio_service(shared: installation.Installation, products: dict[str, str]) -> None:
    found = sold(shared, products["d"])
    prices = {"lead_generation": 5, "goal_generation": 3, "strategy_analysis": 2, "forecast": 4, "general": 1}
    assert {item.feature_id: item.amount_micros / CREDIT for item in found.features} == prices
    assert {item.feature_id: item.wallet for item in found.features} == {name: name for name in prices}
    with shared.client(products["d"]) as client:
        assert {feature: feature_credits(client, feature) for feature in prices} == prices
    monthly = ("lead_generation", "goal_generation", "strategy_analysis", "forecast")
    assert [(plan.name, allowances(plan)) for plan in found.plans] == [
        ("Starter", dict.fromkeys(monthly, 0)),
        ("Pro", dict(zip(monthly, (50, 20, 100, 30)))),
        ("Enterprise", dict(zip(monthly, (500, 200, 1000, 200)))),
    ]
    assert {plan.period for plan in found.plans} == {catalog_pb2.PERIOD_30_DAYS}


def test_the_later_numbers_of_a_product_are_a_change_of_its_file(
    shared: installation.Installation, products: dict[str, str], tmp_path: pathlib.Path
) -> None:
    text = (FILES / "a.yaml").read_text()
    changed = text.replace("kind: day, credits: 1,", "kind: day, credits: 2,")
    changed = changed.replace("kind: referral, credits: 20", "kind: referral, credits: 50")
    changed = changed.replace("credits: 5000, price: 100", "credits: 5000, bonus: 500, price: 100")
    path = tmp_path / "later.yaml"
    path.write_text(changed)
    key = shared.make_key("product-a-later", "admin")
    _catalog(shared, key, "apply", str(FILES / "a.yaml"), "--yes")
    planned = json.loads(_catalog(shared, key, "apply", str(path), "--dry-run", "--json"))
    assert planned["changes"] == [
        "package enterprise: bonus none → 500",
        "reward daily_login: credits 1 → 2",
        "reward referral: credits 20 → 50",
    ]
    assert sold(shared, key).version == planned["previous_version"]
    told = _catalog(shared, key, "apply", str(path), "--yes")
    assert told.splitlines()[-1] == f"Catalog {planned['version']} is in force."
    assert sold(shared, key).version == planned["version"]
    shown = json.loads(_catalog(shared, key, "show", "--json"))
    assert shown["packages"][4]["bonus_micros"] == str(500 * CREDIT)
