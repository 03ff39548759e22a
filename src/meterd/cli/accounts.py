"""`meterd account`, `meterd grant` and `meterd balance`: accounts and their credits, through a running server."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from typing import Any

import click

from meterd.cli import console, limits, plans, remote, top_ups
from meterd_client.v1 import accounts_pb2, types_pb2

# The server's own limit of one page.
PAGE_SIZE_MAX = 1_000
OVERAGES = ("cap", "draw", "overdraft")
CATEGORIES = ("paid", "promotional", "allowance", "reward", "gift", "refund", "adjustment")
_remote = remote.connected(remote.accounts)


@click.group("account", short_help="Create accounts and look into them.")
def account() -> None:
    """Create accounts and look into them, through a running server. The tenant is the API key's."""


account.add_command(limits.limits)
account.add_command(limits.set_limit)
account.add_command(limits.delete_limit)
account.add_command(top_ups.top_up)


@account.command("create", short_help="Create an account.")
@click.argument("account_id")
@click.option("--overage", type=click.Choice(OVERAGES), default="draw", show_default=True, help="What happens when a Commit charges more than its hold.")  # fmt: skip  # noqa: E501
@click.option(
    "--overdraft-limit",
    "overdraft_micros",
    type=console.credits_micros,
    default="0",
    show_default=True,
    metavar="CREDITS",
    help="How far overdraft may go below zero.",
)
@click.option("--strict-expiry", is_flag=True, help="Refuse a Commit after its hold has expired.")
@_remote
def create(
    service: remote.Accounts,
    account_id: str,
    overage: str,
    overdraft_micros: int,
    strict_expiry: bool,
    as_json: bool,
) -> None:
    """Create ACCOUNT_ID. A repeat with the same settings changes nothing. Needs a key of role admin.

    Exit status: 0, or 1 if it exists with other settings, 3 if the server is away.
    """
    answer: accounts_pb2.CreateAccountResponse = service.call(
        "CreateAccount",
        accounts_pb2.CreateAccountRequest(
            account_id=account_id,
            overage_policy=f"OVERAGE_POLICY_{overage.upper()}",
            overdraft_limit_micros=overdraft_micros,
            strict_expiry=strict_expiry,
        ),
    )
    if as_json:
        console.print_json(remote.document(answer))
    else:
        click.echo(f"Account {account_id} {'was there already' if answer.replayed else 'is created'}.")


@account.command("update", short_help="Change an account's settings.")
@click.argument("account_id")
@click.option("--overage", type=click.Choice(OVERAGES), help="What happens when a Commit charges more than its hold.")
@click.option(
    "--overdraft-limit",
    "overdraft_micros",
    type=console.credits_micros,
    metavar="CREDITS",
    help="How far overdraft may go below zero.",
)
@click.option("--strict-expiry/--no-strict-expiry", default=None, help="Refuse a Commit after its hold has expired.")
@click.option("--frozen/--not-frozen", default=None, help="No new holds and charges; open holds can be committed.")
@_remote
def update(
    service: remote.Accounts,
    account_id: str,
    overage: str | None,
    overdraft_micros: int | None,
    strict_expiry: bool | None,
    frozen: bool | None,
    as_json: bool,
) -> None:
    """Change the settings of ACCOUNT_ID that are given; a repeat changes nothing. Needs a key of role admin."""
    if overage is None and overdraft_micros is None and strict_expiry is None and frozen is None:
        raise console.Misuse("nothing to change: give at least one setting")
    request = accounts_pb2.UpdateAccountRequest(
        account_id=account_id,
        overage_policy=f"OVERAGE_POLICY_{overage.upper()}" if overage else None,
        overdraft_limit_micros=overdraft_micros,
        strict_expiry=strict_expiry,
        frozen=frozen,
    )
    answer: accounts_pb2.UpdateAccountResponse = service.call("UpdateAccount", request)
    if as_json:
        console.print_json(remote.document(answer))
        return
    _show_settings(answer.account)
    if not answer.projected:
        click.echo("It takes effect as soon as Redis is back.")


@account.command("show", short_help="Show an account's settings and balance.")
@click.argument("account_id")
@_remote
def show(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Show settings and balance of ACCOUNT_ID."""
    answer: accounts_pb2.GetAccountResponse = service.call(
        "GetAccount", accounts_pb2.GetAccountRequest(account_id=account_id)
    )
    held: accounts_pb2.GetBalanceResponse = service.call(
        "GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id)
    )
    if as_json:
        console.print_json(remote.document(answer) | {"balance": remote.document(held)})
        return
    _show_settings(answer.account)
    _show_balance(held)


def _show_settings(found: accounts_pb2.Account) -> None:
    overage = types_pb2.OveragePolicy.Name(found.overage_policy).removeprefix("OVERAGE_POLICY_").lower()
    console.print_table(
        ("account", "overage", "overdraft limit", "strict expiry", "frozen", "created"),
        [
            (
                found.account_id,
                overage,
                console.credits_text(found.overdraft_limit_micros),
                "yes" if found.strict_expiry else "no",
                "yes" if found.frozen else "no",
                console.time_text(remote.time_ms(found.created_at)),
            )
        ],
        right=("overdraft limit",),
    )


@account.command("list-holds", short_help="List an account's open holds.")
@click.argument("account_id")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@_remote
def list_holds(service: remote.Accounts, account_id: str, limit: int, as_json: bool) -> None:
    """List the open holds of ACCOUNT_ID, soonest to expire first."""
    holds = _pages(service, "ListHolds", accounts_pb2.ListHoldsRequest(account_id=account_id), "holds", limit)
    if as_json:
        console.print_json([remote.document(hold) for hold in holds])
        return
    console.print_table(
        ("hold", "wallet", "credits", "created", "expires"),
        [
            (
                hold.hold_id,
                hold.wallet,
                console.credits_text(hold.amount_micros),
                console.time_text(remote.time_ms(hold.created_at)),
                console.time_text(remote.time_ms(hold.expires_at)),
            )
            for hold in holds
        ],
        right=("credits",),
    )


@account.command("list-transactions", short_help="List an account's ledger records.")
@click.argument("account_id")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many at most.")
@_remote
def list_transactions(service: remote.Accounts, account_id: str, limit: int, as_json: bool) -> None:
    """List the ledger records of ACCOUNT_ID, newest first. Amounts are credits added (+) or taken (−)."""
    request = accounts_pb2.ListTransactionsRequest(account_id=account_id)
    records = _pages(service, "ListTransactions", request, "transactions", limit)
    if as_json:
        console.print_json([remote.document(record) for record in records])
        return
    console.print_table(
        ("at", "seq", "kind", "wallet", "item", "credits", "available after", "held after", "transaction"),
        [
            (
                console.time_text(remote.time_ms(record.at)),
                record.seq,
                accounts_pb2.Transaction.Kind.Name(record.kind).removeprefix("KIND_").lower(),
                record.wallet,
                record.item,
                console.credits_text(record.amount_micros),
                console.credits_text(record.available_after_micros),
                console.credits_text(record.held_after_micros),
                record.transaction_id,
            )
            for record in records
        ],
        right=("seq", "credits", "available after", "held after"),
    )


@account.command("explain", short_help="Say how a charge came about.")
@click.argument("account_id")
@click.argument("charge_id", metavar="ID")
@_remote
def explain(service: remote.Accounts, account_id: str, charge_id: str, as_json: bool) -> None:
    """Say, step by step, how the charge ID of ACCOUNT_ID came about. ID is a hold's, a charge's or a settlement's."""
    answer: accounts_pb2.ExplainSettlementResponse = service.call(
        "ExplainSettlement", accounts_pb2.ExplainSettlementRequest(account_id=account_id, id=charge_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    for step in answer.steps:
        click.echo(console.printable(step))


@account.command("revoke-grant", short_help="Take back what is left of a grant.")
@click.argument("grant_id")
@click.option("--reason", default="", help="For the record.")
@click.option("--idempotency-key", default="", help="Of this revocation; made from the grant if not given.")
@_remote
def revoke_grant(service: remote.Accounts, grant_id: str, reason: str, idempotency_key: str, as_json: bool) -> None:
    """Take back what is left of GRANT_ID; open holds on it are honoured. Needs a key of role admin."""
    # The grant can be revoked once only, so that its own id is a good key.
    request = accounts_pb2.RevokeGrantRequest(
        idempotency_key=idempotency_key or f"revoke-{grant_id}", grant_id=grant_id, reason=reason
    )
    answer: accounts_pb2.RevokeGrantResponse = service.call("RevokeGrant", request)
    if as_json:
        console.print_json(remote.document(answer))
    else:
        click.echo(f"Revoked {console.credits_text(answer.revoked_micros)} credits.{_later(answer.projected)}")


for _command in (
    plans.subscribe,
    plans.update_subscription,
    plans.cancel_subscription,
    plans.subscription,
    plans.transfer,
    plans.claw_back,
    plans.reward,
):
    account.add_command(_command)


@click.command("grant", short_help="Give an account credits.")
@click.argument("account_id")
@click.argument("amount_micros", metavar="CREDITS", type=console.credits_micros)
@click.option("--wallet", default="", help="Wallet; 'default' if not given.")
@click.option(
    "--category", type=click.Choice(CATEGORIES), default="paid", show_default=True, help="Where it comes from."
)
@click.option("--priority", type=click.IntRange(-1000, 1000), default=0, show_default=True, help="Lower burns first.")
@click.option(
    "--effective", type=console.time_of, metavar="TIME", help="From when on it can be spent; now if not given."
)
@click.option("--expires", type=console.time_of, metavar="TIME", help="When it expires; never if not given.")
@click.option("--source", default="", help="What it comes from, such as an order's number.")
@click.option(
    "--idempotency-key", default="", help="The same for a repeat, which then has no effect; made if not given."
)
@_remote
def grant(
    service: remote.Accounts,
    account_id: str,
    amount_micros: int,
    wallet: str,
    category: str,
    priority: int,
    effective: datetime.datetime | None,
    expires: datetime.datetime | None,
    source: str,
    idempotency_key: str,
    as_json: bool,
) -> None:
    """Give ACCOUNT_ID an amount such as 12.5 CREDITS. Needs a key of role admin.

    Example: meterd grant alice 1000 --expires 2026-12-31 --source order-4711

    Exit status: 0, or 1 if it was refused, 2 for a bad option, 3 if the server is away: repeat it with the same key.
    """
    request = accounts_pb2.GrantRequest(
        idempotency_key=idempotency_key or f"cli-{uuid.uuid4()}",
        account_id=account_id,
        wallet=wallet,
        amount_micros=amount_micros,
        category=f"GRANT_CATEGORY_{category.upper()}",
        priority=priority,
        source_id=source,
    )
    if effective is not None:
        request.effective_at.FromDatetime(effective)
    if expires is not None:
        request.expires_at.FromDatetime(expires)
    answer = _granted(service, request)
    if as_json:
        console.print_json(remote.document(answer))
        return
    click.echo(
        f"{'Had granted' if answer.replayed else 'Granted'} {console.credits_text(amount_micros)} credits to {account_id}, "
        f"grant {answer.grant.grant_id}.{_later(answer.projected)}"
    )
    if answer.projected:
        click.echo(f"Available: {console.credits_text(answer.balance.available_micros)} credits.")


def _granted(service: remote.Accounts, request: Any) -> Any:
    """The answer. A failure tells the key with which the command can be repeated."""
    try:
        return service.call("Grant", request)
    except Exception as exc:
        failure = console.failure_of(exc)
        if isinstance(failure, console.Unavailable):
            # It may have happened: with another key, a repeat would grant twice.
            raise console.Unavailable(
                f"{failure.message}\nIt may have happened; repeat it with --idempotency-key {request.idempotency_key}"
            ) from exc
        raise


@click.command("balance", short_help="Show an account's balance.")
@click.argument("account_id")
@_remote
def balance(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Show what ACCOUNT_ID has, by wallet and grant."""
    answer: accounts_pb2.GetBalanceResponse = service.call(
        "GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
    else:
        _show_balance(answer)


def _show_balance(answer: Any) -> None:
    console.print_table(
        ("wallet", "available", "held", "debt"),
        [
            (
                wallet.wallet,
                console.credits_text(wallet.available_micros),
                console.credits_text(wallet.held_micros),
                console.credits_text(wallet.debt_micros),
            )
            for wallet in answer.wallets
        ],
        title=f"{answer.account_id}, in credits{', unlimited' if answer.unlimited else ''}",
        right=("available", "held", "debt"),
    )
    grants = [one for wallet in answer.wallets for one in wallet.grants]
    if grants:
        console.print_table(
            ("wallet", "grant, in burn order", "category", "priority", "available", "held", "granted", "expires"),
            [
                (
                    one.wallet,
                    one.grant_id,
                    types_pb2.GrantCategory.Name(one.category).removeprefix("GRANT_CATEGORY_").lower(),
                    one.priority,
                    console.credits_text(one.available_micros),
                    console.credits_text(one.held_micros),
                    console.credits_text(one.amount_micros),
                    console.time_text(remote.time_ms(one.expires_at)) or "never",
                )
                for one in grants
            ],
            right=("priority", "available", "held", "granted"),
        )
    if answer.freshness_ms:
        click.echo(f"Postgres is {answer.freshness_ms} ms behind.")


def _later(projected: bool) -> str:
    return "" if projected else " It takes effect as soon as Redis is back."


def _pages(service: remote.Accounts, verb: str, request: Any, field: str, limit: int) -> Sequence[Any]:
    """The first `limit` items of a paged answer."""
    found: list[Any] = []
    while True:
        request.page_size = min(limit - len(found), PAGE_SIZE_MAX)
        answer = service.call(verb, request)
        found += getattr(answer, field)
        request.page_token = answer.next_page_token
        if len(found) >= limit or not request.page_token:
            return found[:limit]
