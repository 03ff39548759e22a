"""`meterd account limits`, `set-limit` and `delete-limit`: what subjects of an account may use, through a running server."""

from __future__ import annotations

import click

from meterd.cli import console, remote
from meterd_client.v1 import accounts_pb2, types_pb2

SUBJECTS = ("account", "user", "team", "key", "feature", "model")
METRICS = ("credits", "cost", "actions", "tokens", "open-holds")
WINDOWS = tuple(
    name.removeprefix("LIMIT_WINDOW_").lower().replace("_", "-") for name in types_pb2.LimitWindow.keys()[1:]
)
_remote = remote.connected(remote.accounts)


def _amount(text: str, metric: str) -> int:
    """Credits and USD as people write them, counts as they are."""
    if metric in ("credits", "cost"):
        return console.credits_micros(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise console.Misuse(f"AMOUNT: {text!r} is not a whole number")
    return int(text)


def _text(amount: int, metric: int) -> str:
    if metric in (types_pb2.LIMIT_METRIC_CREDITS, types_pb2.LIMIT_METRIC_COST):
        return console.credits_text(amount)
    return f"{amount:,}"


def _name(text: str, prefix: str) -> str:
    return text.removeprefix(prefix).lower().replace("_", "-")


@click.command("set-limit", short_help="Set or change a limit of an account.")
@click.argument("account_id")
@click.argument("limit_id")
@click.argument("amount")
@click.option("--subject", type=click.Choice(SUBJECTS), default="account", show_default=True, help="Whom it counts.")
@click.option("--value", default="", help="The one user, team …; without, each has a count of its own.")
@click.option("--metric", type=click.Choice(METRICS), default="credits", show_default=True, help="What it counts.")
@click.option("--window", type=click.Choice(WINDOWS), help="How long it counts. Open holds have none.")
@click.option("--observe", is_flag=True, help="Deny nothing, but count what would have been denied.")
@_remote
def set_limit(
    service: remote.Accounts,
    account_id: str,
    limit_id: str,
    amount: str,
    subject: str,
    value: str,
    metric: str,
    window: str | None,
    observe: bool,
    as_json: bool,
) -> None:
    """Let subjects of ACCOUNT_ID use at most AMOUNT: credits, USD or a count. Needs a key of role admin.

    LIMIT_ID names it: the same id changes the limit. A raised amount helps at once.
    """
    answer: accounts_pb2.SetLimitResponse = service.call(
        "SetLimit",
        accounts_pb2.SetLimitRequest(
            account_id=account_id,
            limit=accounts_pb2.Limit(
                limit_id=limit_id,
                subject=f"LIMIT_SUBJECT_{subject.upper()}",
                value=value,
                metric=f"LIMIT_METRIC_{metric.upper().replace('-', '_')}",
                window=f"LIMIT_WINDOW_{window.upper().replace('-', '_')}" if window else "LIMIT_WINDOW_UNSPECIFIED",
                amount=_amount(amount, metric),
                observe=observe,
            ),
        ),
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    later = "" if answer.projected else " It takes effect as soon as Redis is back."
    click.echo(f"Limit {limit_id} {'was so already' if answer.replayed else 'is set'}.{later}")


@click.command("delete-limit", short_help="Remove a limit of an account.")
@click.argument("account_id")
@click.argument("limit_id")
@_remote
def delete_limit(service: remote.Accounts, account_id: str, limit_id: str, as_json: bool) -> None:
    """Remove LIMIT_ID from ACCOUNT_ID. Needs a key of role admin."""
    answer: accounts_pb2.DeleteLimitResponse = service.call(
        "DeleteLimit", accounts_pb2.DeleteLimitRequest(account_id=account_id, limit_id=limit_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    later = "" if answer.projected else " It takes effect as soon as Redis is back."
    click.echo(f"Limit {limit_id} {'was not there' if answer.replayed else 'is removed'}.{later}")


@click.command("limits", short_help="Show an account's limits and their use.")
@click.argument("account_id")
@_remote
def limits(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Show the limits of ACCOUNT_ID with what is used of them now, the 100 that use most of each."""
    answer: accounts_pb2.ListLimitsResponse = service.call(
        "ListLimits", accounts_pb2.ListLimitsRequest(account_id=account_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    rows: list[tuple[object, ...]] = []
    for status in answer.limits:
        one = status.limit
        subject = _name(types_pb2.LimitSubject.Name(one.subject), "LIMIT_SUBJECT_")
        head = (
            one.limit_id,
            f"{subject}:{one.value}" if one.value else subject,
            _name(types_pb2.LimitMetric.Name(one.metric), "LIMIT_METRIC_"),
            _name(types_pb2.LimitWindow.Name(one.window), "LIMIT_WINDOW_") if one.window else "",
            "observe" if one.observe else "enforce",
            _text(one.amount, one.metric),
        )
        for use in status.uses or [accounts_pb2.LimitUse()]:
            name = " ".join(part for part in (use.value, use.operation_id) if part)
            resets = console.time_text(remote.time_ms(use.resets_at))
            rows.append((*head, name, _text(use.used, one.metric), f"{use.would_deny_count:,}", resets))
            head = ("",) * len(head)
    console.print_table(
        ("limit", "subject", "metric", "window", "mode", "at most", "who", "used", "would deny", "resets"),
        rows,
        right=("at most", "used", "would deny"),
    )
