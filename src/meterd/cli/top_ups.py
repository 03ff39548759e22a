"""`meterd account top-up`: what an account lets be asked for when a wallet runs low, through a running server."""

from __future__ import annotations

import click

from meterd.cli import console, remote
from meterd_client.v1 import accounts_pb2

_remote = remote.connected(remote.accounts)


@click.group("top-up", short_help="Ask for a package when a wallet runs low.")
def top_up() -> None:
    """Let the event topup.requested ask for a package when a wallet runs low. Who sells the package acts on it."""


@top_up.command("set", short_help="Set an account's top-up.")
@click.argument("account_id")
@click.argument("package_id")
@click.option(
    "--below",
    "threshold_micros",
    type=console.credits_micros,
    required=True,
    metavar="CREDITS",
    help="Asked for when so much is left of the package's wallet, or less.",
)
@click.option("--per-month", "per_month_max", type=int, required=True, help="At most so many requests a month, UTC.")
@_remote
def set_top_up(
    service: remote.Accounts,
    account_id: str,
    package_id: str,
    threshold_micros: int,
    per_month_max: int,
    as_json: bool,
) -> None:
    """Let PACKAGE_ID of the catalog be asked for when ACCOUNT_ID runs low; at once, if it is. Needs a key of role admin."""
    wanted = accounts_pb2.TopUp(package_id=package_id, threshold_micros=threshold_micros, per_month_max=per_month_max)
    answer: accounts_pb2.SetTopUpResponse = service.call(
        "SetTopUp", accounts_pb2.SetTopUpRequest(account_id=account_id, top_up=wanted)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    found = answer.top_up
    click.echo(f"The top-up {'was so already' if answer.replayed else 'is set'}.")
    click.echo(f"Requests this month: {found.requested_this_month} of {found.per_month_max}.")


@top_up.command("show", short_help="Show an account's top-up.")
@click.argument("account_id")
@_remote
def show(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Show what ACCOUNT_ID lets be asked for, and how often it was this month."""
    answer: accounts_pb2.GetAccountResponse = service.call(
        "GetAccount", accounts_pb2.GetAccountRequest(account_id=account_id)
    )
    found = answer.account.top_up
    if as_json:
        console.print_json(remote.document(found) if answer.account.HasField("top_up") else None)
        return
    rows = [
        (
            found.package_id,
            found.wallet,
            console.credits_text(found.threshold_micros),
            f"{found.requested_this_month} of {found.per_month_max}",
        )
    ]
    console.print_table(
        ("package", "wallet", "at or below", "requests this month"),
        rows if answer.account.HasField("top_up") else [],
        right=("at or below",),
    )


@top_up.command("delete", short_help="Ask for no more top-ups.")
@click.argument("account_id")
@_remote
def delete(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Ask for no more top-ups of ACCOUNT_ID. Needs a key of role admin."""
    answer: accounts_pb2.DeleteTopUpResponse = service.call(
        "DeleteTopUp", accounts_pb2.DeleteTopUpRequest(account_id=account_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    click.echo("There was none." if answer.replayed else "The top-up is deleted.")
