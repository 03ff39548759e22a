"""Traces through real gRPC: what was committed is what stands in Postgres, to the last digit."""

from __future__ import annotations

import json
import pathlib
from decimal import Decimal

import genai_prices

from meterd.replay import play, trace
from tests.acceptance import installation, processes


async def test_a_trace_with_aborted_and_late_requests_is_in_postgres_exactly(shared: installation.Installation) -> None:
    options = shared.options(abort_share=0.2, late_share=0.1)
    found = await play.play(shared.generated(400), options)
    assert found.problems == ()
    assert found.verified
    assert found.summary is not None
    fates = found.outcome.fates
    assert found.summary.kinds["COMMIT"] == fates["committed"] + fates["partial"]
    assert found.summary.kinds["RELEASE"] == fates["released"]
    assert found.summary.kinds["COMMIT_LATE"] == fates["committed late"] > 0
    # Those that nobody committed, and those whose time was up when the sweeper came before their commit.
    assert fates["expired"] <= found.summary.kinds["EXPIRE"] <= fates["expired"] + fates["committed late"]
    assert found.outcome.cost_usd == found.expected_usd == found.summary.cost_usd > 0


async def test_the_azure_trace_at_full_speed_costs_the_exact_decimal_sum(
    shared: installation.Installation, azure_trace: pathlib.Path
) -> None:
    requests = trace.read(azure_trace)
    found = await play.play(requests, shared.options(accounts=100))
    assert found.problems == ()
    assert found.outcome.fates == {"committed": 8_819}
    exact = sum(
        (
            genai_prices.calc_price(
                genai_prices.Usage(input_tokens=request.context_tokens, output_tokens=request.generated_tokens),
                "gpt-4o-mini",
                provider_id="openai",
            ).total_price
            for request in requests
        ),
        Decimal(0),
    )
    assert found.summary is not None
    assert found.summary.cost_usd == exact
    # One credit is 0.001 USD; each settlement is rounded up to a whole micro-credit.
    assert exact * 10**9 <= found.summary.charged_micros < exact * 10**9 + 8_819
    assert found.verified


def test_the_command_replays_a_generated_trace_and_prints_its_report(shared: installation.Installation) -> None:
    done = processes.meterd(
        [
            "replay",
            "--generate",
            "60",
            "--server",
            shared.server.address,
            "--key",
            shared.admin_key,
            "--check",
            "--json",
        ],
        redis_url=shared.valkey.url,
        dsn=shared.postgres.dsn,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["requests"] == 60
    assert told["verified"] is True
    assert told["postgres"]["cost_usd"] == told["cost_usd"] == told["cost_usd_expected"]
