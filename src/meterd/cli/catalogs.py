"""`meterd catalog`: what a tenant sells, through a running server."""

from __future__ import annotations

import getpass
import pathlib
import sys
from decimal import Decimal

import click

from meterd.cli import console, remote
from meterd.pricing import catalog_file
from meterd_client.v1 import catalog_pb2

_remote = remote.connected(remote.catalog)


@click.group("catalog", short_help="Apply and show what you sell.")
def catalog() -> None:
    """Apply and show packages, plans, features, rates and rewards, through a running server. The tenant is the API key's."""


@catalog.command("apply", short_help="Make a file the catalog in force.")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask.")
@_remote
def apply(service: remote.Catalog, path: pathlib.Path, dry_run: bool, is_agreed: bool, as_json: bool) -> None:
    """Make what FILE says the catalog in force. Shows what changes, and asks before it does it. A repeat changes nothing.

    Needs a key of role admin. Servers charge by it within a second; open holds keep their prices.

    Exit status: 0, or 1 if the file is wrong, nobody agreed or another catalog came between, 3 if the server is away.
    """
    try:
        document = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise console.Failure(f"{path}: not UTF-8: byte {exc.start}") from exc
    # The server reads it too; here its errors name the file.
    catalog_file.parsed(document, str(path))
    planned: catalog_pb2.ApplyCatalogResponse = service.call(
        "ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document, dry_run=True)
    )
    is_new = planned.version != planned.previous_version
    if not as_json:
        _show_changes(planned)
    if dry_run or not is_new:
        if as_json:
            console.print_json(remote.document(planned))
        return
    if not is_agreed:
        _ask(planned)
    done: catalog_pb2.ApplyCatalogResponse = service.call(
        "ApplyCatalog",
        catalog_pb2.ApplyCatalogRequest(
            document=document, expected_version=planned.previous_version, applied_by=f"meterd catalog: {_who()}"
        ),
    )
    if as_json:
        console.print_json(remote.document(done))
    else:
        click.echo(f"Catalog {done.version} is in force.")


def _show_changes(planned: catalog_pb2.ApplyCatalogResponse) -> None:
    if planned.version == planned.previous_version:
        click.echo(f"Nothing to change: catalog {planned.version} is in force.")
        return
    click.echo(f"Catalog {planned.previous_version or 'none'} → {planned.version}:")
    for change in planned.changes:
        click.echo(f"  {console.printable(change)}")


def _ask(planned: catalog_pb2.ApplyCatalogResponse) -> None:
    if not _is_terminal():
        raise console.Misuse("nobody is there to agree: say --yes, or --dry-run to look only")
    count = len(planned.changes)
    if not click.confirm(f"Apply {count} change{'' if count == 1 else 's'}?", err=True):
        raise console.Failure("nothing was applied")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _who() -> str:
    try:
        return getpass.getuser()[:64]
    except (KeyError, OSError):
        return "somebody"


@catalog.command("show", short_help="Show the catalog in force.")
@_remote
def show(service: remote.Catalog, as_json: bool) -> None:
    """Show the catalog in force."""
    found: catalog_pb2.GetCatalogResponse = service.call("GetCatalog", catalog_pb2.GetCatalogRequest())
    if as_json:
        console.print_json(remote.document(found))
        return
    if not found.version:
        click.echo("No catalog was applied yet.")
        return
    at = console.time_text(remote.time_ms(found.applied_at))
    click.echo(f"Catalog {found.version}, in force since {at}. A credit is worth {found.credit_value_usd} USD.")
    _show_packages(found)
    _show_plans(found)
    _show_prices(found)
    _show_rewards(found)


def _show_packages(found: catalog_pb2.GetCatalogResponse) -> None:
    if not found.packages:
        return
    console.print_table(
        ("package", "name", "credits", "bonus", "price", "saved", "flags", "wallet", "active"),
        [
            (
                item.package_id,
                item.name,
                console.credits_text(item.amount_micros),
                console.credits_text(item.bonus_micros),
                f"{item.price} {item.currency}",
                f"{item.discount_percent} %" if item.discount_percent else "",
                ", ".join(item.flags),
                item.wallet,
                _yes(item.active),
            )
            for item in found.packages
        ],
        title="Packages",
        right=("credits", "bonus", "price", "saved"),
    )


def _show_plans(found: catalog_pb2.GetCatalogResponse) -> None:
    if not found.plans:
        return
    console.print_table(
        ("plan", "name", "price", "every", "period", "credits", "actions a day", "active"),
        [
            (
                item.plan_id,
                item.name,
                f"{item.price} {item.currency}".strip(),
                item.interval,
                catalog_pb2.Period.Name(item.period).removeprefix("PERIOD_").lower(),
                _credits_of(item),
                item.actions_per_day or "",
                _yes(item.active),
            )
            for item in found.plans
        ],
        title="Plans",
        right=("price", "actions a day"),
    )


def _credits_of(plan: catalog_pb2.Plan) -> str:
    allowances = [f"{one.wallet} {console.credits_text(one.amount_micros)}" for one in plan.allowances]
    return ", ".join((*(("unlimited",) if plan.unlimited else ()), *allowances))


def _show_prices(found: catalog_pb2.GetCatalogResponse) -> None:
    if found.features:
        console.print_table(
            ("feature", "name", "category", "credits", "wallet", "active"),
            [
                (
                    item.feature_id,
                    item.name,
                    item.category,
                    console.credits_text(item.amount_micros),
                    item.wallet,
                    _yes(item.active),
                )
                for item in found.features
            ],
            title="Features",
            right=("credits",),
        )
    if found.rates:
        console.print_table(
            ("rate", "name", "credits", "unit", "wallet", "active"),
            [
                (item.rate_id, item.name, _rate_credits(item.unit_micros), item.unit, item.wallet, _yes(item.active))
                for item in found.rates
            ],
            title="Rates",
            right=("credits",),
        )


def _show_rewards(found: catalog_pb2.GetCatalogResponse) -> None:
    if not found.rewards:
        return
    console.print_table(
        ("reward", "name", "credits", "kind", "a week", "at spent", "wallet"),
        [
            (
                item.reward_id,
                item.name,
                console.credits_text(item.amount_micros),
                item.kind,
                item.weekly_cap or "",
                console.credits_text(item.lifetime_spent_micros) if item.lifetime_spent_micros else "",
                item.wallet,
            )
            for item in found.rewards
        ],
        title="Rewards",
        right=("credits", "a week", "at spent"),
    )


def _rate_credits(unit_micros: str) -> str:
    """As the file has it: a rate may be finer than a micro-credit."""
    return f"{Decimal(unit_micros).scaleb(-6).normalize():f}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
