"""`meterd report`: usage, revenue, burn and top accounts, through a running server."""

from __future__ import annotations

import datetime

import click

from meterd.cli import console, remote
from meterd_client.v1 import reports_pb2

GROUPS = ("day", "feature", "model", "user", "team", "key", "wallet")
# Days that a report covers unless told otherwise, today included.
DAYS_DEFAULT = 30

_remote = remote.connected(remote.reports)
_from_option = click.option(
    "--from",
    "from_day",
    default="",
    metavar="DAY",
    help=f"First UTC day; {DAYS_DEFAULT - 1} days before the last if not given.",
)
_to_option = click.option("--to", "to_day", default="", metavar="DAY", help="Last UTC day; today if not given.")


@click.group("report", short_help="Add up usage, revenue and burn.")
def report() -> None:
    """Add up what the ledger in Postgres has, through a running server. The tenant is the API key's, of role read or admin."""


@report.command("usage", short_help="Usage, charge, cost and margin, grouped.")
@_from_option
@_to_option
@click.option("--account", "account_id", default="", help="Of one account; the whole tenant if not given.")
@click.option(
    "--by",
    "group_by",
    type=click.Choice(GROUPS),
    multiple=True,
    help="What to group by; may be repeated. [default: day]",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=1_000, show_default=True, help="How many rows at most."
)
@_remote
def usage(
    service: remote.Reports,
    from_day: str,
    to_day: str,
    account_id: str,
    group_by: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Show usage, charge, cost and margin.

    Example: meterd report usage --from 2026-11-01 --by feature --by model

    Exit status: 0, or 2 for a bad option, 3 if the server is away.
    """
    first, last = _days(from_day, to_day)
    groups = group_by or ("day",)
    answer: reports_pb2.UsageResponse = service.call(
        "Usage",
        reports_pb2.UsageRequest(from_day=first, to_day=last, account_id=account_id, group_by=groups, limit=limit),
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    rows = [(*row.group, *_figures(row)) for row in answer.rows]
    total = ("total", *[""] * (len(groups) - 1), *_figures(answer.total))
    figures = ("actions", "charged", "uncollected", "input tokens", "output tokens", "cost USD", "margin USD")
    console.print_table((*groups, *figures), [*rows, total], title=f"{first} to {last}, in credits", right=figures)
    if answer.has_more:
        click.echo(f"There are more than {limit} rows; the total is of all of them.")


def _figures(row: reports_pb2.UsageRow) -> tuple[object, ...]:
    return (
        row.actions,
        console.credits_text(row.charged_micros),
        console.credits_text(row.uncollected_micros),
        row.input_tokens,
        row.output_tokens,
        row.cost_usd,
        row.margin_usd,
    )


@report.command("revenue", short_help="Money in, and how many accounts pay.")
@_from_option
@_to_option
@_remote
def revenue(service: remote.Reports, from_day: str, to_day: str, as_json: bool) -> None:
    """Show what came in, by currency, and how many accounts have ever paid."""
    first, last = _days(from_day, to_day)
    answer: reports_pb2.RevenueResponse = service.call(
        "Revenue", reports_pb2.RevenueRequest(from_day=first, to_day=last)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    figures = ("packages", "subscriptions", "purchases", "average purchase")
    console.print_table(
        ("currency", *figures),
        [
            (row.currency, row.package_revenue, row.subscription_revenue, row.purchases, row.average_purchase)
            for row in answer.rows
        ],
        title=f"{first} to {last}",
        right=figures,
    )
    click.echo(f"{answer.paying_accounts} of {answer.accounts} accounts have ever paid: {answer.conversion_percent} %.")


@report.command("burn", short_help="How long an account's credits last.")
@click.argument("account_id")
@click.option("--days", type=click.IntRange(1, 90), default=7, show_default=True, help="Days to average over.")
@_remote
def burn(service: remote.Reports, account_id: str, days: int, as_json: bool) -> None:
    """Show what ACCOUNT_ID has, what it spends a day, and when that will be all."""
    answer: reports_pb2.BurnResponse = service.call("Burn", reports_pb2.BurnRequest(account_id=account_id, days=days))
    if as_json:
        console.print_json(remote.document(answer))
        return
    figures = ("available", "charged a day", "days left")
    console.print_table(
        ("account", *figures, "runs out at"),
        [
            (
                account_id,
                console.credits_text(answer.available_micros),
                console.credits_text(answer.charged_per_day_micros),
                answer.days_left or "no end",
                console.time_text(remote.time_ms(answer.runs_out_at)),
            )
        ],
        right=figures,
    )


@report.command("top", short_help="The accounts that were charged most.")
@_from_option
@_to_option
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many at most.")
@_remote
def top(service: remote.Reports, from_day: str, to_day: str, limit: int, as_json: bool) -> None:
    """Show the accounts that were charged most, the most first."""
    first, last = _days(from_day, to_day)
    answer: reports_pb2.TopAccountsResponse = service.call(
        "TopAccounts", reports_pb2.TopAccountsRequest(from_day=first, to_day=last, limit=limit)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    figures = ("actions", "charged", "cost USD")
    console.print_table(
        ("account", *figures),
        [(row.account_id, row.actions, console.credits_text(row.charged_micros), row.cost_usd) for row in answer.rows],
        title=f"{first} to {last}, in credits",
        right=figures,
    )


def _days(from_day: str, to_day: str) -> tuple[str, str]:
    """Both days, with defaults. What is no day at all is the server's to say."""
    last = to_day or datetime.datetime.now(datetime.UTC).date().isoformat()
    if from_day:
        return from_day, last
    try:
        return (datetime.date.fromisoformat(last) - datetime.timedelta(days=DAYS_DEFAULT - 1)).isoformat(), last
    except (ValueError, OverflowError) as exc:
        raise console.Misuse(f"--to: {last!r} is not a day such as 2026-12-31") from exc
