"""`meterd recover`: rebuilds what Redis has lost from Postgres."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import rich.console
import rich.progress

from meterd.cli import console, stores
from meterd.meter import recovery


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """`accounts` is None if they were left to be loaded on first use."""

    before: Sequence[recovery.Diagnosis]
    recovered: Sequence[recovery.Recovered]
    accounts: int | None


@click.command("recover", short_help="Rebuild from Postgres what Redis has lost.")
@click.option("--force", is_flag=True, help="Also give up what Redis has but Postgres does not know.")
@click.option("--check", is_flag=True, help="Only say how each partition stands.")
@click.option("--warm", is_flag=True, help="Load all accounts now, instead of on first use.")
@console.postgres_option
@console.redis_option
@console.json_option
@console.guarded
def recover(force: bool, check: bool, warm: bool, postgres: str, redis_url: str, as_json: bool) -> None:
    """Begin a new epoch for each partition whose Redis is empty. Partitions that agree with Postgres are left alone.

    A partition whose Redis has data that do not agree with Postgres is refused, and then nothing is changed, unless --force: what follows
    on Postgres' ledger is written there first, the rest of the outbox is set aside in Redis. Open holds of recovered partitions are gone;
    their credits are available again. It may be killed and repeated at any point.

    Exit status: 0, or 1 if it was refused or --check found something to recover, 3 if a store is away.
    """
    if check and (force or warm):
        raise click.UsageError("--check changes nothing: leave out --force and --warm")
    shown = rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description} {task.completed:,.0f}"),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    )
    with shown:
        tasks: dict[str, Any] = {}

        def on_progress(step: str) -> None:
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=None)
            shown.advance(tasks[step], 1)

        outcome = asyncio.run(
            _recover(postgres, redis_url, force=force, check=check, warm=warm, on_progress=on_progress)
        )
    if as_json:
        console.print_json(_document(outcome))
    else:
        _show(outcome, check=check)
    if check and _ill(outcome.before):
        sys.exit(console.EXIT_FAILED)


async def _recover(
    postgres: str, redis_url: str, *, force: bool, check: bool, warm: bool, on_progress: Callable[[str], None]
) -> _Outcome:
    async with stores.opened(postgres, redis_url, "meterd recover") as found:
        before = await recovery.diagnose(found.connection, found.run)
        if check:
            return _Outcome(before=before, recovered=(), accounts=None)
        work = recovery.Recovery(
            connection=found.connection,
            run=found.run,
            on_progress=lambda step, _partition: on_progress(f"partitions {step}"),
        )
        recovered = await work.recover(force=force)
        accounts = None
        if warm:
            accounts = await work.warm(found.connections, found.store, lambda: on_progress("accounts loaded"))
        return _Outcome(before=before, recovered=recovered, accounts=accounts)


def _ill(diagnoses: Sequence[recovery.Diagnosis]) -> list[recovery.Diagnosis]:
    return [one for one in diagnoses if one.state in (recovery.State.EMPTY, recovery.State.DISAGREES)]


def _document(outcome: _Outcome) -> dict[str, Any]:
    return {
        "before": [
            {
                "partition": one.partition,
                "state": one.state.value,
                "reason": one.reason,
                "keys": one.key_count,
                "entries_behind": one.entries_behind,
                "holds_open": one.holds_open,
                "held_flushed_micros": one.held_flushed_micros,
            }
            for one in outcome.before
        ],
        "recovered": [dataclasses.asdict(one) for one in outcome.recovered],
        "accounts_loaded": outcome.accounts,
    }


def _show(outcome: _Outcome, *, check: bool) -> None:
    ill = _ill(outcome.before)
    if ill:
        console.print_table(
            ("partition", "state", "why", "keys", "outbox entries behind", "open holds", "credits held, flushed"),
            [
                (
                    one.partition,
                    one.state,
                    one.reason,
                    one.key_count,
                    one.entries_behind,
                    one.holds_open,
                    console.credits_text(one.held_flushed_micros),
                )
                for one in ill
            ],
            right=("partition", "keys", "outbox entries behind", "open holds", "credits held, flushed"),
        )
    well = f"{len(outcome.before) - len(ill)} of {len(outcome.before)} partitions need nothing"
    if check:
        click.echo(f"{well}; {len(ill)} are to be recovered." if ill else f"{well}.")
        return
    if outcome.recovered:
        drained = sum(one.drained for one in outcome.recovered)
        aside = sum(one.set_aside for one in outcome.recovered)
        lost = sum(one.holds_lost for one in outcome.recovered)
        click.echo(
            f"Recovered {len(outcome.recovered)} partitions: {drained:,} outbox entries written to Postgres, {aside:,} set aside, "
            f"{lost:,} open holds given up. Servers serve them again within a second."
        )
        for one in outcome.recovered:
            if one.aside_key:
                click.echo(f"Partition {one.partition}: {one.set_aside:,} entries stand in the stream {one.aside_key}.")
    else:
        click.echo(f"Nothing was changed: {well}.")
    if outcome.accounts is not None:
        click.echo(f"Loaded {outcome.accounts:,} accounts.")
