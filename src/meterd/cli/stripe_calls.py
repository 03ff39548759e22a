"""`meterd stripe sync` and `meterd stripe reconcile`: what asks Stripe, in place of being told by it."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import click

from meterd import settings
from meterd.billing import catalog_sync, inbox, outgoing
from meterd.billing import reconcile as missing
from meterd.cli import console
from meterd.postgres import orders, pool

ResultT = TypeVar("ResultT")

_tenant_option = click.option(
    "--tenant",
    "tenant_id",
    envvar="METERD_STRIPE_TENANT",
    required=True,
    help="Whose catalog and customers. [env: METERD_STRIPE_TENANT]",
)
# The inbox's word for an event whose effect was made.
_TAKEN = "done"
_DONE = {
    catalog_sync.Step.KEEP: "is there",
    catalog_sync.Step.MATCH: "is there, to be named in the catalog",
    catalog_sync.Step.CREATE: "new price",
    catalog_sync.Step.REPLACE: "new price in place of another",
}


def _with_stripe(postgres: str, work: Callable[[asyncpg.Pool, outgoing.Stripe, bool], Awaitable[ResultT]]) -> ResultT:
    """What `work(connections, stripe, livemode)` answers, with the key that the server's settings name."""
    given = settings.read(os.environ)
    if not given.stripe_api_key:
        raise console.Misuse("name the key: METERD_STRIPE_API_KEY, or METERD_STRIPE_API_KEY_FILE")

    async def run() -> ResultT:
        stripe_ = outgoing.opened(
            given.stripe_api_key,
            livemode=given.stripe_livemode,
            base=given.stripe_api_base,
            timeout_s=given.stripe_timeout_ms / 1000,
        )
        assert stripe_ is not None
        connections = await pool.create(postgres, size_max=2, application_name="meterd stripe")
        try:
            return await work(connections, stripe_, given.stripe_livemode)
        finally:
            await stripe_.close()
            await connections.close()

    return asyncio.run(run())


@click.command("sync", short_help="Make Stripe's products and prices what the catalog says.")
@_tenant_option
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask.")
@console.postgres_option
@console.json_option
@console.guarded
def sync(tenant_id: str, dry_run: bool, is_agreed: bool, postgres: str, as_json: bool) -> None:
    """Make products and prices at Stripe for what the tenant's catalog sells, and write their ids into the catalog.

    Shows first what would change, and asks. What is there already is found by its lookup key. A changed price becomes a new price at
    Stripe, and the old one is archived, as is what was made for items that are not sold any more; subscriptions keep the price that they
    have. A repeat changes nothing.

    Exit status: 0, or 1 if Stripe refuses, nobody agreed or another catalog came between, 2 for a bad key, 3 if Stripe or Postgres is away.
    """

    async def look(connections: asyncpg.Pool, stripe_: outgoing.Stripe, livemode: bool) -> catalog_sync.Plan:
        return (await catalog_sync.planned(connections, stripe_, tenant_id, livemode=livemode))[1]

    plan = _with_stripe(postgres, look)
    version = plan.sold.version
    if not as_json:
        _show(plan)
    if not dry_run and not plan.is_done:
        if not is_agreed:
            _ask(plan)

        async def work(connections: asyncpg.Pool, stripe_: outgoing.Stripe, livemode: bool) -> str:
            at_stripe, now = await catalog_sync.planned(connections, stripe_, tenant_id, livemode=livemode)
            if now != plan:
                raise console.Failure("the catalog or Stripe has changed meanwhile: nothing was done; run it again")
            return await catalog_sync.apply(connections, at_stripe, plan)

        version = _with_stripe(postgres, work)
    if as_json:
        console.print_json(_document(plan, version, applied=not dry_run and not plan.is_done))
    elif not dry_run and not plan.is_done:
        click.echo(f"Catalog {version} is in force, with the prices' ids.")


def _show(plan: catalog_sync.Plan) -> None:
    if plan.changes:
        console.print_table(
            ("item", "name", "price", "at Stripe", "archived"),
            [
                (
                    f"{change.item.kind.removeprefix('meterd_')} {change.item.item_id}",
                    change.item.name + (" (renamed)" if change.renames else ""),
                    change.item.price,
                    f"{_DONE[change.step]} {change.price_id}".strip(),
                    ", ".join(change.old_ids),
                )
                for change in plan.changes
            ],
            title=f"Catalog {plan.sold.version}",
            right=("price",),
        )
    for one in plan.retired:
        click.echo(
            f"To be archived: {one.price_id}, {one.kind.removeprefix('meterd_')} {one.item_id}, not sold any more."
        )
    if plan.skipped:
        click.echo(f"Not at Stripe, since free or not active: {', '.join(plan.skipped)}.")
    if plan.is_done:
        click.echo("Nothing to change.")


def _ask(plan: catalog_sync.Plan) -> None:
    if not sys.stdin.isatty():
        raise console.Misuse("nobody is there to agree: say --yes, or --dry-run to look only")
    count = sum(change.is_change for change in plan.changes) + len(plan.retired)
    if not click.confirm(f"Change {count} item{'' if count == 1 else 's'}?", err=True):
        raise console.Failure("nothing was changed")


def _document(plan: catalog_sync.Plan, version: str, *, applied: bool) -> dict[str, object]:
    return {
        "catalog_version": version,
        "applied": applied,
        "items": [
            {
                "kind": change.item.kind.removeprefix("meterd_"),
                "id": change.item.item_id,
                "price": change.item.price,
                "step": change.step.value,
                "stripe_price": change.price_id,
                "archived": list(change.old_ids),
                "renamed": change.renames,
            }
            for change in plan.changes
        ],
        "retired": [
            {"kind": one.kind.removeprefix("meterd_"), "id": one.item_id, "stripe_price": one.price_id}
            for one in plan.retired
        ],
        "skipped": list(plan.skipped),
    }


@click.command("reconcile", short_help="Find what the webhooks have missed.")
@click.option("--from", "since", type=console.time_of, required=True, metavar="TIME", help="From then on, UTC.")
@click.option("--to", "until", type=console.time_of, metavar="TIME", help="Up to then; now if not given.")
@click.option("--dry-run", is_flag=True, help="Only show what is missing.")
@_tenant_option
@console.postgres_option
@console.json_option
@console.guarded
def reconcile(
    since: datetime.datetime,
    until: datetime.datetime | None,
    dry_run: bool,
    tenant_id: str,
    postgres: str,
    as_json: bool,
) -> None:
    """Ask Stripe for the events, paid sessions, payments and invoices of a time, and take in what the inbox has not.

    Effects are keyed by payment, invoice, refund and dispute: what was done is not done again. A repeat finds nothing.

    Example: meterd stripe reconcile --from 2026-11-01 --to 2026-11-08

    Exit status: 0, or 1 if something is still waiting then, 2 for a bad key or time, 3 if Stripe or Postgres is away.
    """
    given = settings.read(os.environ)
    from_s, to_s = int(since.timestamp()), int(until.timestamp() if until else time.time()) + (0 if until else 1)
    if from_s >= to_s:
        raise console.Misuse("--from: must be before --to")

    async def work(
        connections: asyncpg.Pool, stripe_: outgoing.Stripe, livemode: bool
    ) -> tuple[missing.Found, dict[str, str]]:
        at_stripe = stripe_.of(await orders.account_at_stripe(connections, tenant_id, livemode=livemode))
        found = await missing.look(connections, at_stripe, tenant_id, from_s=from_s, to_s=to_s)
        if dry_run:
            return found, {}
        box = inbox.Inbox(
            connections,
            tenant_id=tenant_id,
            freezes=given.stripe_freeze_disputed,
            at_stripe=at_stripe,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        return found, await missing.hand_in(box, found.missed)

    found, states = _with_stripe(postgres, work)
    if as_json:
        console.print_json(_missed_document(found, states))
    else:
        _show_missed(found, states, dry_run=dry_run)
    if any(state != _TAKEN for state in states.values()):
        sys.exit(console.EXIT_FAILED)


def _show_missed(found: missing.Found, states: dict[str, str], *, dry_run: bool) -> None:
    if found.missed:
        console.print_table(
            ("at", "event", "type", "object", "now"),
            [
                (
                    console.time_text(one.created_s * 1000),
                    one.event_id,
                    one.type,
                    one.object_id,
                    states.get(one.event_id, "missing"),
                )
                for one in found.missed
            ],
        )
    asked = f"{found.events} events, {found.sessions} sessions, {found.payments} payments, {found.invoices} invoices"
    count = len(found.missed)
    verb = "are missing" if dry_run else "were missing and are taken in"
    click.echo(f"Stripe has {asked}; {count} {verb}." if count else f"Stripe has {asked}; nothing is missing.")


def _missed_document(found: missing.Found, states: dict[str, str]) -> dict[str, object]:
    return {
        "events": found.events,
        "sessions": found.sessions,
        "payments": found.payments,
        "invoices": found.invoices,
        "missed": [
            {
                "event_id": one.event_id,
                "type": one.type,
                "object_id": one.object_id,
                "at": console.time_text(one.created_s * 1000),
                "state": states.get(one.event_id, "missing"),
            }
            for one in found.missed
        ],
    }
