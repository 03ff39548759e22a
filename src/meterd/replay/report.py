"""The result of a replay as a table for people and as JSON for machines."""

from __future__ import annotations

import array
import dataclasses
from decimal import Decimal
from typing import Any

import rich.console
import rich.table

from meterd.core import money
from meterd.replay import durable, player, wire


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that a replay found out. None where it was not looked at."""

    outcome: player.Outcome
    tally: wire.Tally
    expected_usd: Decimal | None
    summary: durable.Summary | None
    # What must hold and does not; empty is good.
    problems: tuple[str, ...]
    # True or False after `verify`, None without it.
    verified: bool | None = None


def quantile(sorted_values: array.array[float] | list[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above; 0 of none."""
    if not sorted_values:
        return 0.0
    return sorted_values[max(0, -int(-share * len(sorted_values) // 1) - 1)]


def latencies_ms(tally: wire.Tally) -> dict[str, dict[str, float]]:
    """By call: count, and p50, p95, p99 and the maximum in milliseconds."""
    found = dict[str, dict[str, float]]()
    for verb in sorted(tally.latencies_s):
        values = sorted(tally.latencies_s[verb])
        found[verb] = {"count": len(values)}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            found[verb][name] = round(quantile(values, share) * 1000, 3)
    return found


def calls_per_s(report: Report) -> float:
    """Answered Metering calls per second of the play."""
    metering = ("Reserve", "Commit", "Release")
    calls = sum(len(values) for verb, values in report.tally.latencies_s.items() if verb in metering)
    return calls / report.outcome.wall_s if report.outcome.wall_s else 0.0


def credits_text(micros: int) -> str:
    """Micro-credits as credits, exact."""
    sign, digits = ("-" if micros < 0 else ""), abs(micros)
    whole, part = divmod(digits, money.MICROS_PER_CREDIT)
    return f"{sign}{whole:,}.{part:06d}"


def usd_text(value: Decimal) -> str:
    """Exact, without exponent and trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_json(report: Report) -> dict[str, Any]:
    """Amounts as integers of micro-credits, USD as decimal strings, times in ms or s as their names say."""
    outcome, summary = report.outcome, report.summary
    return {
        "requests": outcome.steps,
        "wall_s": round(outcome.wall_s, 3),
        "calls_per_s": round(calls_per_s(report), 1),
        "behind_max_s": round(outcome.behind_max_s, 3),
        "latency_ms": latencies_ms(report.tally),
        "ends": dict(outcome.fates),
        "denials": dict(outcome.denials),
        "retries": dict(report.tally.retries),
        "replayed": outcome.replayed,
        "faults": dict(outcome.faults),
        "fault_messages": outcome.fault_messages,
        "charged_micros": outcome.charged_micros,
        "uncollected_micros": outcome.uncollected_micros,
        "cost_usd": usd_text(outcome.cost_usd),
        "costs_untold": outcome.costs_untold,
        "cost_usd_expected": None if report.expected_usd is None else usd_text(report.expected_usd),
        "postgres": None
        if summary is None
        else {
            "records": summary.records,
            "kinds": summary.kinds,
            "cost_usd": usd_text(summary.cost_usd),
            "charged_micros": summary.charged_micros,
            "uncollected_micros": summary.uncollected_micros,
            "flush_lag_ms": {
                "p50": round(summary.lag_p50_s * 1000, 1),
                "p95": round(summary.lag_p95_s * 1000, 1),
                "p99": round(summary.lag_p99_s * 1000, 1),
                "max": round(summary.lag_max_s * 1000, 1),
            },
        },
        "verified": report.verified,
        "problems": list(report.problems),
    }


def show(console: rich.console.Console, report: Report) -> None:
    """Prints the tables."""
    calls = rich.table.Table("call", title="Latency of answered calls", title_justify="left")
    for name in ("answered", "p50 ms", "p95 ms", "p99 ms", "max ms"):
        calls.add_column(name, justify="right")
    for verb, values in latencies_ms(report.tally).items():
        row = (f"{values[name]:.2f}" for name in ("p50", "p95", "p99", "max"))
        calls.add_row(verb, f"{values['count']:,}", *row)
    console.print(calls)
    facts = rich.table.Table("fact", "value", title="Replay", title_justify="left")
    for name, value in _facts(report):
        facts.add_row(name, value)
    console.print(facts)
    for message in report.outcome.fault_messages:
        console.print(message, style="red", markup=False)
    for problem in report.problems:
        console.print(problem, style="bold red", markup=False)


def _facts(report: Report) -> list[tuple[str, str]]:
    outcome, summary = report.outcome, report.summary
    facts = [
        ("requests", f"{outcome.steps:,} in {outcome.wall_s:.2f} s"),
        ("throughput", f"{calls_per_s(report):,.0f} calls/s"),
        ("ends", _counts(outcome.fates)),
        ("denials", _counts(outcome.denials)),
        ("retries", _counts(report.tally.retries)),
        ("faults", _counts(outcome.faults)),
        (
            "cost",
            f"{usd_text(outcome.cost_usd)} USD"
            + (f" and {outcome.costs_untold} not told again" if outcome.costs_untold else ""),
        ),
        ("credits charged", credits_text(outcome.charged_micros)),
        ("credits uncollected", credits_text(outcome.uncollected_micros)),
    ]
    if outcome.behind_max_s:
        facts.insert(1, ("behind the trace", f"{outcome.behind_max_s:.2f} s at most"))
    if report.expected_usd is not None:
        facts.append(("cost by genai-prices", f"{usd_text(report.expected_usd)} USD"))
    if summary is not None:
        facts.append(("cost in Postgres", f"{usd_text(summary.cost_usd)} USD in {summary.records:,} records"))
        lags = (summary.lag_p50_s, summary.lag_p95_s, summary.lag_p99_s)
        facts.append(("flush lag p50 / p95 / p99", " / ".join(f"{lag * 1000:.0f} ms" for lag in lags)))
    if report.verified is not None:
        facts.append(("verify", "passed" if report.verified else "FAILED"))
    return facts


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
