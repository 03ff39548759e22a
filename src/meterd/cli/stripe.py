"""`meterd stripe`: the process that takes in Stripe's webhooks, and what it has done with them."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import click

from meterd import settings
from meterd.billing import inbox, outgoing
from meterd.cli import console, stripe_calls
from meterd.core import errors
from meterd.postgres import pool
from meterd.postgres import stripe as stored

T = TypeVar("T")

# A replay works through the inbox in the order of the events' time, so many at once.
CONNECTIONS_MAX = 2
LOG_COUNT_DEFAULT = 50
LOG_COUNT_MAX = 1000

_tenant_option = click.option(
    "--tenant",
    envvar="METERD_STRIPE_TENANT",
    required=True,
    help="Whose events. [env: METERD_STRIPE_TENANT]",
)


@click.group("stripe", short_help="Take in what Stripe tells, and look into it.")
def stripe() -> None:
    """Money in: the webhook process, its log, and what puts it right. docs/STRIPE.md tells how to set it up."""


stripe.add_command(stripe_calls.sync)
stripe.add_command(stripe_calls.reconcile)


@stripe.command("serve", short_help="Take in Stripe's webhooks.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Where it listens. [env: METERD_STRIPE_LISTEN; default 127.0.0.1:8263]"
)
@console.guarded
def serve(listen: str | None) -> None:
    """Take in webhooks at /webhooks/stripe until SIGTERM; /healthz, /readyz and /metrics are beside it. Needs METERD_STRIPE_TENANT,
    METERD_STRIPE_WEBHOOK_SECRETS and METERD_POSTGRES_DSN.

    Exit status: 0 after an orderly stop, 2 for settings that cannot work, 3 if Postgres is away at the start.
    """
    read = settings.read(os.environ, stripe_listen=listen)
    sys.exit(_serve(read))


def _serve(read: settings.Settings) -> int:
    import uvloop

    from meterd.cli import logs
    from meterd.server import stripe_app

    logs.configure(read.log_level, read.log_format)

    async def run() -> int:
        return await stripe_app.StripeApp(read).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


@stripe.command("replay", short_help="Process events of the inbox again.")
@click.argument("event_id", required=False, default="")
@click.option("--dead", is_flag=True, help="Those that were given up.")
@click.option("--pending", is_flag=True, help="Those that wait, without waiting any longer.")
@click.option("--all", "everything", is_flag=True, help="All of them. What was done is not done again.")
@_tenant_option
@console.postgres_option
@console.json_option
@console.guarded
def replay(
    event_id: str, dead: bool, pending: bool, everything: bool, tenant: str, postgres: str, as_json: bool
) -> None:
    """Process events again, such as after the catalog has got what was missing. Effects are keyed by payment, invoice, refund and
    dispute: nothing is granted or taken back twice.

    Example: meterd stripe replay --dead

    Exit status: 0, or 1 if some still wait, 2 for a wrong option, 3 if Postgres is away.
    """
    if not (event_id or dead or pending or everything):
        raise click.UsageError("Say which: an event's id, --dead, --pending or --all.")
    states: Sequence[str] = [name for name, wanted in ((stored.DEAD, dead), (stored.PENDING, pending)) if wanted]
    if event_id or everything:
        states = list(stored.STATES)

    async def work(connections: asyncpg.Pool) -> tuple[int, int]:
        return await _replay(connections, tenant, event_id, states)

    tried, waiting = _with_pool(postgres, work)
    if as_json:
        console.print_json({"replayed": tried, "waiting": waiting})
    else:
        click.echo(f"Replayed {tried} events; {waiting} still wait.")
    if event_id and not tried:
        raise console.Failure(f"there is no event {event_id}")
    if waiting:
        sys.exit(console.EXIT_FAILED)


async def _replay(connections: asyncpg.Pool, tenant: str, event_id: str, states: Sequence[str]) -> tuple[int, int]:
    """How many were tried, and how many of them still wait or are dead."""
    read = settings.read({name: value for name, value in os.environ.items() if name.startswith("METERD_STRIPE_")})
    at_stripe = outgoing.opened(read.stripe_api_key, livemode=read.stripe_livemode, base=read.stripe_api_base)
    box = inbox.Inbox(
        connections,
        tenant_id=tenant,
        freezes=read.stripe_freeze_disputed,
        at_stripe=at_stripe.of(read.stripe_account) if at_stripe is not None else None,
        clock_ms=_now_ms,
    )
    now_ms = _now_ms()
    count = await stored.reopen(connections, tenant, event_id=event_id, states=states, now_ms=now_ms)
    waiting = 0
    while due := await stored.due(connections, tenant, now_ms, count_max=inbox.BATCH_MAX):
        for one, _ in due:
            if await box.process(one) != stored.DONE:
                waiting += 1
    if at_stripe is not None:
        await at_stripe.close()
    return count, waiting


@stripe.command("log", short_help="Show events and what became of them.")
@click.argument("about", required=False, default="")
@click.option("--state", type=click.Choice(stored.STATES), default=None, help="Only those.")
@click.option(
    "--count", type=click.IntRange(1, LOG_COUNT_MAX), default=LOG_COUNT_DEFAULT, show_default=True, help="At most."
)
@_tenant_option
@console.postgres_option
@console.json_option
@console.guarded
def log(about: str, state: str | None, count: int, tenant: str, postgres: str, as_json: bool) -> None:
    """Show the inbox, the last received first; ABOUT is an event's id, or that of a payment, session, invoice or subscription.

    Example: meterd stripe log --state dead

    Exit status: 0, or 2 for a wrong option, 3 if Postgres is away.
    """

    async def work(connections: asyncpg.Pool) -> list[stored.Entry]:
        return await stored.listed(connections, tenant, state=state or "", about=about, count_max=count)

    entries = _with_pool(postgres, work)
    if as_json:
        console.print_json({"events": [_document(entry) for entry in entries]})
        return
    for entry in entries:
        head = f"{_time(entry.received_ms)}  {entry.state:<7}  {entry.type}  {entry.object_id}  {entry.event_id}"
        tried = f"{entry.attempts} attempts, {entry.deliveries} deliveries"
        click.echo(f"{head}\n    {tried}: {entry.error or entry.effect or 'not tried yet'}")
    if not entries:
        click.echo("No events.")


def _document(entry: stored.Entry) -> dict[str, Any]:
    return {
        "event_id": entry.event_id,
        "type": entry.type,
        "object_id": entry.object_id,
        "state": entry.state,
        "attempts": entry.attempts,
        "deliveries": entry.deliveries,
        "error": entry.error,
        "effect": entry.effect,
        "created_at": _time(entry.created_ms),
        "received_at": _time(entry.received_ms),
        "ended_at": _time(entry.ended_ms),
        "next_at": _time(entry.next_ms),
    }


def _time(at_ms: int) -> str:
    if not at_ms:
        return ""
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _with_pool(dsn: str, work: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
    async def run() -> T:
        connections = await pool.create(dsn, size_max=CONNECTIONS_MAX, application_name="meterd stripe")
        try:
            return await work(connections)
        finally:
            await connections.close()

    try:
        return asyncio.run(run())
    except asyncpg.UndefinedTableError as exc:
        raise errors.FailedPreconditionError("the database has no tables: run `meterd migrate`") from exc
