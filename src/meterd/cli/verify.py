"""`meterd verify`: proves the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable

import click
import rich.console
import rich.progress

from meterd.cli import console, stores
from meterd.meter import verification

# On a terminal; JSON has them all.
ROWS_SHOWN_MAX = 50


@click.command("verify", short_help="Prove that nothing was lost, doubled or made up.")
@console.postgres_option
@console.redis_option
@console.json_option
@console.guarded
def verify(postgres: str, redis_url: str, as_json: bool) -> None:
    """Prove the ledger, account by account, while it is in use; nothing is written.

    granted = available + held + spent + expired + revoked, Redis = Postgres + outbox, and every hold ended at most once. Prints the
    offending rows otherwise.

    Exit status: 0 if it is proven, 1 if anything is found, 3 if a store is away.
    """
    shown = rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.completed:,.0f} accounts"),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    )
    with shown:
        task = shown.add_task("verify", total=None)
        verdict = asyncio.run(_verify(postgres, redis_url, lambda count: shown.advance(task, count)))
    if as_json:
        console.print_json({"proven": verdict.is_proven} | dataclasses.asdict(verdict))
    else:
        _show(verdict)
    if not verdict.is_proven:
        sys.exit(console.EXIT_FAILED)


async def _verify(postgres: str, redis_url: str, on_progress: Callable[[int], None]) -> verification.Verdict:
    async with stores.opened(postgres, redis_url, "meterd verify") as found:
        proof = verification.Verification(
            connection=found.connection, run=found.run, store=found.store, on_progress=on_progress
        )
        return await proof.verify()


def _show(verdict: verification.Verdict) -> None:
    if verdict.findings:
        console.print_table(
            ("partition", "tenant", "account", "row", "check", "expected", "actual"),
            [
                (one.partition, one.tenant_id, one.account_id, one.subject, one.check, one.expected, one.actual)
                for one in verdict.findings[:ROWS_SHOWN_MAX]
            ],
            right=("partition",),
        )
    looked_at = (
        f"{verdict.accounts:,} accounts, {verdict.records:,} records in Postgres, {verdict.records_unflushed:,} in the outbox, "
        f"{verdict.holds_open:,} open holds, {verdict.partitions} partitions in {verdict.elapsed_s:.1f} s"
    )
    if verdict.is_proven:
        click.echo(f"Proven: {looked_at}.")
        return
    more = f"; {ROWS_SHOWN_MAX} are shown, --json prints more" if verdict.findings_count > ROWS_SHOWN_MAX else ""
    click.echo(f"NOT proven: {verdict.findings_count:,} findings{more}. Looked at {looked_at}.")
