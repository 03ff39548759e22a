"""A whole replay: accounts, calls, what became durable, and the proof."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import TypeVar

from meterd.meter import verification
from meterd.postgres import catalog, pool
from meterd.redis import ledger as redis_ledger
from meterd.redis import runner
from meterd.replay import durable, plan, player, report, trace, wire

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
RETRY_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What to play and what to look at afterwards. Without `postgres_dsn` only the answers are summed up."""

    target: wire.Target
    mix: plan.Mix
    settings: player.Settings
    postgres_dsn: str = ""
    redis_url: str = ""
    # Whether the cost must be what genai-prices asks for; an operator's own prices make it differ.
    check_cost: bool = False
    verify: bool = True


def new_run_id() -> str:
    """A name for one replay that no other has."""
    return f"replay-{uuid.uuid4().hex[:12]}"


async def play(
    requests: Sequence[trace.Request], options: Options, *, on_step: Callable[[int], None] | None = None
) -> report.Report:
    """Plays the requests and reports. What is wrong is in `problems`; `on_step` hears how many more requests have ended.

    Errors: grpc.aio.AioRpcError if the accounts cannot be made; those of asyncpg and OSError if Postgres is away at the end.
    """
    steps = plan.make(requests, options.mix)
    caller = wire.Caller(options.target)
    try:
        playing = player.Player(caller, options.settings, on_step)
        await playing.prepare(sorted({step.account for step in steps}))
        outcome = await playing.play(steps)
    finally:
        await caller.close()
    expected_usd = _expected_usd(outcome, options)
    problems = _answered(outcome, expected_usd, options)
    summary = None
    verified = None
    if options.postgres_dsn:
        summary, more = await _patient(options, lambda: _durable(outcome, expected_usd, options))
        problems += more
        if options.verify and options.redis_url:
            findings = await _patient(options, lambda: _verify(options))
            verified = not findings
            problems += findings
    return report.Report(
        outcome=outcome,
        tally=caller.tally,
        expected_usd=expected_usd,
        summary=summary,
        problems=tuple(problems),
        verified=verified,
    )


def _expected_usd(outcome: player.Outcome, options: Options) -> Decimal | None:
    try:
        return durable.expected_cost_usd(outcome.committed, options.settings.model, options.settings.provider)
    except LookupError:
        # A model that only the operator's price book knows.
        return None


def _answered(outcome: player.Outcome, expected_usd: Decimal | None, options: Options) -> list[str]:
    problems = list[str]()
    if outcome.faults:
        problems.append(f"{sum(outcome.faults.values())} requests failed")
    if not options.check_cost:
        return problems
    if expected_usd is None:
        problems.append(
            f"genai-prices does not know the model {options.settings.model!r}: nothing to check the cost against"
        )
    elif outcome.cost_usd != expected_usd and not outcome.costs_untold:
        problems.append(f"the answers cost {outcome.cost_usd} USD, genai-prices asks for {expected_usd} USD")
    return problems


async def _durable(
    outcome: player.Outcome, expected_usd: Decimal | None, options: Options
) -> tuple[durable.Summary | None, list[str]]:
    connection = await pool.connect(options.postgres_dsn, application_name="meterd replay")
    try:
        tenant_id = await durable.tenant_of(connection, options.target.key)
        summary = await durable.read(connection, tenant_id, options.settings.run_id, outcome.held, outcome.wall_s)
    except (LookupError, durable.NotFlushedError) as exc:
        return None, [str(exc)]
    finally:
        await connection.close()
    problems = list[str]()
    for name, answered, stored in (
        ("cost in USD", summary.cost_usd if outcome.costs_untold else outcome.cost_usd, summary.cost_usd),
        ("charge in micro-credits", outcome.charged_micros, summary.charged_micros),
        ("uncollected micro-credits", outcome.uncollected_micros, summary.uncollected_micros),
    ):
        # A request that failed on the wire may well have had its effect.
        if answered != stored and not outcome.faults:
            problems.append(f"{name}: {answered} in the answers, {stored} in Postgres")
    if options.check_cost and expected_usd is not None and summary.cost_usd != expected_usd:
        problems.append(f"cost in USD: {summary.cost_usd} in Postgres, {expected_usd} by genai-prices")
    return summary, problems


async def _patient(options: Options, work: Callable[[], Awaitable[T]]) -> T:
    """The result of reading from Postgres, which may be restarting as the server may; tried as long as a call is."""
    deadline_s = time.monotonic() + options.target.patience_s
    while True:
        try:
            return await work()
        except pool.AWAY:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(RETRY_S)


async def _verify(options: Options) -> list[str]:
    """What `meterd verify` finds, as sentences; empty is the proof."""
    connection = await pool.connect(options.postgres_dsn, application_name="meterd verify")
    run = runner.Runner(options.redis_url)
    await run.start()
    try:
        connections = await pool.create(options.postgres_dsn, size_max=1, application_name="meterd verify")
        try:
            partitions = (await catalog.installation(connections)).partitions
        finally:
            await connections.close()
        if not await run.wait_connected(CONNECT_TIMEOUT_S):
            return ["verify: Redis cannot be reached"]
        store = redis_ledger.RedisLedger(run, partitions=partitions)
        verdict = await verification.Verification(connection=connection, run=run, store=store).verify()
    finally:
        await run.close()
        await connection.close()
    return [
        f"verify: {finding.subject}: {finding.check}: expected {finding.expected}, found {finding.actual}"
        for finding in verdict.findings
    ]
