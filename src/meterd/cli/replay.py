"""`meterd replay`: plays an LLM trace through a running server."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

import asyncpg
import click
import grpc.aio
import rich.console
import rich.progress
import uvloop

from meterd.cli import console
from meterd.core import money
from meterd.postgres import pool
from meterd.replay import plan, play, player, report, trace, wire

SEED_DEFAULT = 1
# In flight on one channel; a busy backend has about as many.
IN_FLIGHT_DEFAULT = 64


@click.command("replay", short_help="Play an LLM trace through a running server.")
@click.argument(
    "trace_path", metavar="[TRACE.csv]", required=False, type=click.Path(path_type=pathlib.Path, dir_okay=False)
)
@click.option("--generate", type=click.IntRange(1), metavar="N", help="Play N generated requests instead of a file.")
@click.option("--model", default="gpt-4o-mini", show_default=True, help="Model that all requests are priced as.")
@click.option(
    "--provider", default="", help="Its provider in the price book; found from the model's name if not given."
)
@click.option(
    "--speed", type=click.FloatRange(0), default=0.0, show_default=True, help="Times the trace's own pace; 0: flat out."
)
@click.option(
    "--accounts", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Accounts to spread it over."
)
@click.option("--grant", "grant_credits", type=click.IntRange(1, 9_000_000_000), default=1_000_000, show_default=True, help="Credits granted to each account.")  # fmt: skip  # noqa: E501
@click.option(
    "--abort-share", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share released or cut off."
)
@click.option(
    "--late-share", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that outlives its hold."
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 10_000),
    default=IN_FLIGHT_DEFAULT,
    show_default=True,
    help="Requests at once.",
)
@click.option("--limit", type=click.IntRange(1), help="Play only the first requests of the trace.")
@click.option(
    "--seed", type=int, default=SEED_DEFAULT, show_default=True, help="Decides accounts, aborts and late ones."
)
@click.option(
    "--server",
    envvar="METERD_SERVER",
    default=console.SERVER_DEFAULT,
    show_default=True,
    help="Address of the server. [env: METERD_SERVER]",
)
@click.option("--key", envvar="METERD_KEY", required=True, help="API key of role meter or admin. [env: METERD_KEY]")
@click.option(
    "--admin-key",
    envvar="METERD_ADMIN_KEY",
    help="Key that creates and grants accounts; --key if not given. [env: METERD_ADMIN_KEY]",
)
@click.option(
    "--ca", "ca_path", type=click.Path(exists=True, path_type=pathlib.Path), help="CA certificate; plaintext without."
)
@click.option(
    "--postgres",
    envvar="METERD_POSTGRES_DSN",
    default="",
    help="DSN of the ledger, for flush lag and verify. [env: METERD_POSTGRES_DSN]",
)
@click.option(
    "--redis",
    "redis_url",
    envvar="METERD_REDIS_URL",
    default="",
    help="URL of Redis, for verify. [env: METERD_REDIS_URL]",
)
@click.option("--check", is_flag=True, help="Fail unless the cost is exactly what genai-prices asks for.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Prove the ledger at the end, if the stores are named.",
)
@click.option("--patience", type=click.FloatRange(1), default=120.0, show_default=True, metavar="SECONDS", help="How long a call is retried.")  # fmt: skip  # noqa: E501
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay(
    trace_path: pathlib.Path | None,
    generate: int | None,
    model: str,
    provider: str,
    speed: float,
    accounts: int,
    grant_credits: int,
    abort_share: float,
    late_share: float,
    in_flight: int,
    limit: int | None,
    seed: int,
    server: str,
    key: str,
    admin_key: str | None,
    ca_path: pathlib.Path | None,
    postgres: str,
    redis_url: str,
    check: bool,
    verify: bool,
    patience: float,
    as_json: bool,
) -> None:
    """Play TRACE.csv (Azure's columns TIMESTAMP, ContextTokens, GeneratedTokens) through a running server.

    Each request is a Reserve with an estimate and a Commit with what it really used; some are aborted, some outlive their hold. Calls
    that cannot be decided are repeated with the same ids, so that a server that is killed and started again does no harm. Ends with
    a table and, if the stores are named, `meterd verify`.

    Exit status: 0, or 1 if a request failed, a sum differs or the proof fails, 2 for a bad trace or option.
    """
    requests = _requests(trace_path, generate, limit, seed)
    if abort_share + late_share > 1:
        raise click.UsageError("--abort-share and --late-share add up to more than 1")
    options = play.Options(
        target=wire.Target(address=server, key=key, admin_key=admin_key or key, ca_path=ca_path, patience_s=patience),
        mix=plan.Mix(accounts=accounts, abort_share=abort_share, late_share=late_share, seed=seed),
        settings=player.Settings(
            run_id=play.new_run_id(),
            model=model,
            provider=provider,
            speed=speed,
            in_flight_max=in_flight,
            grant_micros=grant_credits * money.MICROS_PER_CREDIT,
        ),
        postgres_dsn=postgres,
        redis_url=redis_url,
        check_cost=check,
        verify=verify,
    )
    found = _play(requests, options, show_progress=not as_json and sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(report.as_json(found), indent=2))
    else:
        report.show(rich.console.Console(), found)
    if found.problems:
        sys.exit(1)


def _requests(
    trace_path: pathlib.Path | None, generate: int | None, limit: int | None, seed: int
) -> Sequence[trace.Request]:
    if (trace_path is None) == (generate is None):
        raise click.UsageError("name a trace file or --generate N, one of them")
    if generate is not None:
        return trace.generate(generate, seed)[:limit]
    assert trace_path is not None
    try:
        return trace.read(trace_path, limit)
    except (trace.TraceError, OSError) as exc:
        raise click.UsageError(f"{trace_path}: {exc}") from exc


def _play(requests: Sequence[trace.Request], options: play.Options, *, show_progress: bool) -> report.Report:
    columns = (
        rich.progress.TextColumn("replay"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    terminal = rich.console.Console(stderr=True)
    try:
        with rich.progress.Progress(*columns, console=terminal, transient=True, disable=not show_progress) as progress:
            task = progress.add_task("replay", total=len(requests))
            return uvloop.run(play.play(requests, options, on_step=lambda count: progress.advance(task, count)))
    except grpc.aio.AioRpcError as exc:
        raise click.ClickException(f"the server refused: {exc.code().name}: {exc.details()}") from exc
    except (asyncpg.PostgresError, *pool.AWAY) as exc:
        raise click.ClickException(f"Postgres: {exc}") from exc
