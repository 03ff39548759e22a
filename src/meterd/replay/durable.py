"""What became of a replay in Postgres, and what it must have cost."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import genai_prices

from meterd.core import ledger
from meterd.replay import plan

# The last records leave Redis within the flusher's interval; a restarted Postgres takes some seconds more.
FLUSH_WAIT_MAX_S = 60.0
_POLL_INTERVAL_S = 0.1
# Client and Postgres may disagree about the time by this much.
_CLOCK_SLACK_S = 300.0

# txn_at first: it names the months to look into.
_ENDED = """
SELECT count(DISTINCT txn) FROM ledger WHERE txn_at >= $1 AND tenant_id = $2 AND subject_key = $3 AND kind IN ('C', 'L', 'R', 'E')
"""
# flushed_at is when the flusher's transaction began, so that the lag leaves out the time in which it was written.
_SUMMARY = """
SELECT count(*) AS records,
       count(*) FILTER (WHERE kind = 'C') AS committed,
       count(*) FILTER (WHERE kind = 'L') AS committed_late,
       count(*) FILTER (WHERE kind = 'R') AS released,
       count(*) FILTER (WHERE kind = 'E') AS expired,
       coalesce(sum(cost_usd), 0) AS cost_usd,
       coalesce(sum(charged_micros), 0)::bigint AS charged_micros,
       coalesce(sum(uncollected_micros), 0)::bigint AS uncollected_micros,
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM flushed_at - recorded_at)) AS lag_s
FROM ledger WHERE txn_at >= $1 AND tenant_id = $2 AND subject_key = $3 AND kind IN ('C', 'L', 'R', 'E')
"""
_TENANT = "SELECT tenant_id FROM api_keys WHERE digest = sha256(convert_to($1, 'UTF8'))"


class NotFlushedError(Exception):
    """Not every hold of the replay has its end in Postgres in time."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The replay's records in Postgres. Lags are seconds from record to the flusher's transaction."""

    records: int
    kinds: dict[str, int]
    cost_usd: Decimal
    charged_micros: int
    uncollected_micros: int
    lag_p50_s: float
    lag_p95_s: float
    lag_p99_s: float
    lag_max_s: float


async def read(connection: Any, tenant_id: str, run_id: str, held: int, wall_s: float) -> Summary:
    """Waits until `held` holds of the replay have ended in Postgres, then sums them up. Raises NotFlushedError."""
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=wall_s + _CLOCK_SLACK_S)
    deadline_s = time.monotonic() + FLUSH_WAIT_MAX_S
    while (ended := await connection.fetchval(_ENDED, since, tenant_id, run_id)) < held:
        if time.monotonic() > deadline_s:
            raise NotFlushedError(f"after {FLUSH_WAIT_MAX_S:.0f} s, {ended} of {held} holds have ended in Postgres")
        await asyncio.sleep(_POLL_INTERVAL_S)
    row = await connection.fetchrow(_SUMMARY, since, tenant_id, run_id)
    kinds = {ledger.Kind(letter).name: row[name] for letter, name in _KINDS.items()}
    lag_s = [float(value) for value in row["lag_s"] or (0, 0, 0, 0)]
    return Summary(
        records=row["records"],
        kinds=kinds,
        cost_usd=row["cost_usd"],
        charged_micros=row["charged_micros"],
        uncollected_micros=row["uncollected_micros"],
        lag_p50_s=lag_s[0],
        lag_p95_s=lag_s[1],
        lag_p99_s=lag_s[2],
        lag_max_s=lag_s[3],
    )


_KINDS = {"C": "committed", "L": "committed_late", "R": "released", "E": "expired"}


async def tenant_of(connection: Any, key: str) -> str:
    """The tenant that the API key belongs to. Raises LookupError."""
    found = await connection.fetchval(_TENANT, key)
    if found is None:
        raise LookupError("the API key is not in this Postgres: is it the server's?")
    return found


def expected_cost_usd(steps: Iterable[plan.Step], model: str, provider: str) -> Decimal:
    """The exact sum of what genai-prices asks for the committed usage, a path that shares no code with the server's rate cards."""
    total = Decimal(0)
    for (tokens_in, tokens_out), count in collections.Counter(
        (step.input_tokens, step.output_tokens) for step in steps
    ).items():
        usage = genai_prices.Usage(input_tokens=tokens_in, output_tokens=tokens_out)
        total += genai_prices.calc_price(usage, model, provider_id=provider or None).total_price * count
    return total
