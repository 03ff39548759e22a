"""What `meterd account` does about plans, transfers, claw-backs and rewards, through a running server."""

from __future__ import annotations

import time
import uuid
from typing import Any

import click

from meterd.cli import console, remote
from meterd.core import ids
from meterd_client.v1 import accounts_pb2

_remote = remote.connected(remote.accounts)
_key = click.option(
    "--idempotency-key", default="", help="The same for a repeat, which then has no effect; made if not given."
)


def _called(service: remote.Accounts, verb: str, request: Any) -> Any:
    """The answer. A failure tells the key with which the command can be repeated."""
    try:
        return service.call(verb, request)
    except Exception as exc:
        failure = console.failure_of(exc)
        if isinstance(failure, console.Unavailable):
            raise console.Unavailable(
                f"{failure.message}\nIt may have happened; repeat it with --idempotency-key {request.idempotency_key}"
            ) from exc
        raise


@click.command("subscribe", short_help="Put an account on a plan.")
@click.argument("account_id")
@click.argument("plan_id")
@click.option("--skip-trial", is_flag=True, help="No trial, even if the plan has one.")
@click.option("--source", default="", help="What it comes from, such as a subscription elsewhere.")
@click.option(
    "--proration",
    type=click.Choice(("none", "credits")),
    default="none",
    show_default=True,
    help="credits: go on in the present period, with what is left of it.",
)
@_key
@_remote
def subscribe(
    service: remote.Accounts,
    account_id: str,
    plan_id: str,
    skip_trial: bool,
    source: str,
    proration: str,
    idempotency_key: str,
    as_json: bool,
) -> None:
    """Put ACCOUNT_ID on PLAN_ID of the catalog; the plan that it was on ends. Needs a key of role admin."""
    request = accounts_pb2.SubscribeRequest(
        idempotency_key=idempotency_key or f"cli-{uuid.uuid4()}",
        account_id=account_id,
        plan_id=plan_id,
        skip_trial=skip_trial,
        source_id=source,
        proration=f"PRORATION_{proration.upper()}",
    )
    answer: accounts_pb2.SubscribeResponse = _called(service, "Subscribe", request)
    if as_json:
        console.print_json(remote.document(answer))
        return
    show_subscription(answer.subscription)


@click.command("update-subscription", short_help="Tell what became of a plan's payment.")
@click.argument("account_id")
@click.option("--past-due/--paid", required=True, help="Whether a payment failed, or came after all.")
@_remote
def update_subscription(service: remote.Accounts, account_id: str, past_due: bool, as_json: bool) -> None:
    """Tell that a payment for the plan of ACCOUNT_ID failed: nothing is granted until it comes. Needs a key of role admin."""
    answer: accounts_pb2.UpdateSubscriptionResponse = service.call(
        "UpdateSubscription", accounts_pb2.UpdateSubscriptionRequest(account_id=account_id, past_due=past_due)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    show_subscription(answer.subscription)


@click.command("cancel-subscription", short_help="End an account's plan.")
@click.argument("account_id")
@click.option("--now", "at_once", is_flag=True, help="At once, and not with its period.")
@_remote
def cancel_subscription(service: remote.Accounts, account_id: str, at_once: bool, as_json: bool) -> None:
    """End the plan of ACCOUNT_ID with its period. What was paid or earned stays. Needs a key of role admin."""
    answer: accounts_pb2.CancelSubscriptionResponse = service.call(
        "CancelSubscription", accounts_pb2.CancelSubscriptionRequest(account_id=account_id, at_once=at_once)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    show_subscription(answer.subscription)


@click.command("subscription", short_help="Show an account's plan.")
@click.argument("account_id")
@_remote
def subscription(service: remote.Accounts, account_id: str, as_json: bool) -> None:
    """Show the plan that ACCOUNT_ID is on, or the last one."""
    answer: accounts_pb2.GetSubscriptionResponse = service.call(
        "GetSubscription", accounts_pb2.GetSubscriptionRequest(account_id=account_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    show_subscription(answer.subscription)


def show_subscription(found: accounts_pb2.Subscription) -> None:
    """Prints one row."""
    status = accounts_pb2.Subscription.Status.Name(found.status).removeprefix("STATUS_").lower()
    if found.cancel_at_period_end:
        status += ", ends with its period"
    console.print_table(
        ("account", "plan", "status", "period", "from", "until", "terms until"),
        [
            (
                found.account_id,
                found.plan.plan_id,
                status,
                found.period_no,
                console.time_text(remote.time_ms(found.period_start)),
                console.time_text(remote.time_ms(found.period_end)),
                console.time_text(remote.time_ms(found.terms_until)),
            )
        ],
        right=("period",),
    )


@click.command("transfer", short_help="Give credits of one account to another.")
@click.argument("from_account_id")
@click.argument("to_account_id")
@click.argument("amount_micros", metavar="CREDITS", type=console.credits_micros)
@click.option("--wallet", default="", help="Wallet of both; 'default' if not given.")
@click.option("--reason", default="", help="For the record.")
@_key
@_remote
def transfer(
    service: remote.Accounts,
    from_account_id: str,
    to_account_id: str,
    amount_micros: int,
    wallet: str,
    reason: str,
    idempotency_key: str,
    as_json: bool,
) -> None:
    """Give CREDITS of FROM_ACCOUNT_ID to TO_ACCOUNT_ID. Exit status 1 if they are not covered. Needs a key of role admin."""
    request = accounts_pb2.TransferRequest(
        idempotency_key=idempotency_key or str(ids.uuid7(time.time_ns() // 1_000_000)),
        from_account_id=from_account_id,
        from_wallet=wallet,
        to_account_id=to_account_id,
        amount_micros=amount_micros,
        reason=reason,
    )
    answer: accounts_pb2.TransferResponse = _called(service, "Transfer", request)
    if as_json:
        console.print_json(remote.document(answer))
    if answer.HasField("denial"):
        raise console.Failure(f"Not covered: {console.credits_text(answer.denial.available_micros)} credits available.")
    if not as_json:
        later = "" if answer.transfer.HasField("gift") else " They arrive as soon as Postgres has the record."
        click.echo(f"Gave {console.credits_text(amount_micros)} credits to {to_account_id}.{later}")


@click.command("claw-back", short_help="Take credits back, below zero if need be.")
@click.argument("account_id")
@click.argument("amount_micros", metavar="CREDITS", type=console.credits_micros)
@click.option("--wallet", default="", help="Wallet; 'default' if not given.")
@click.option("--reason", default="", help="For the record.")
@_key
@_remote
def claw_back(
    service: remote.Accounts,
    account_id: str,
    amount_micros: int,
    wallet: str,
    reason: str,
    idempotency_key: str,
    as_json: bool,
) -> None:
    """Take CREDITS back from ACCOUNT_ID, whatever is left of them. Needs a key of role admin."""
    request = accounts_pb2.ClawBackRequest(
        idempotency_key=idempotency_key or f"cli-{uuid.uuid4()}",
        account_id=account_id,
        wallet=wallet,
        amount_micros=amount_micros,
        reason=reason,
    )
    answer: accounts_pb2.ClawBackResponse = _called(service, "ClawBack", request)
    if as_json:
        console.print_json(remote.document(answer))
        return
    later = "" if answer.projected else " It takes effect as soon as Redis is back."
    click.echo(f"Took {console.credits_text(amount_micros)} credits back from {account_id}.{later}")
    if answer.HasField("balance"):
        click.echo(f"Available: {console.credits_text(answer.balance.available_micros)} credits.")


@click.command("reward", short_help="Claim a reward for an account.")
@click.argument("account_id")
@click.argument("reward_id")
@click.option("--referred", default="", metavar="ACCOUNT_ID", help="For a referral: the account that was won.")
@_remote
def reward(service: remote.Accounts, account_id: str, reward_id: str, referred: str, as_json: bool) -> None:
    """Grant REWARD_ID of the catalog to ACCOUNT_ID, if it is due. A repeat has no effect. Exit status 1 if it is not due."""
    request = accounts_pb2.ClaimRewardRequest(account_id=account_id, reward_id=reward_id, referred_account_id=referred)
    answer: accounts_pb2.ClaimRewardResponse = service.call("ClaimReward", request)
    if as_json:
        console.print_json(remote.document(answer))
    if answer.refusal:
        name = accounts_pb2.ClaimRewardResponse.Refusal.Name(answer.refusal).removeprefix("REFUSAL_").lower()
        raise console.Failure(f"Not due: {name.replace('_', ' ')}.")
    if not as_json:
        for grant in answer.grants:
            amount = console.credits_text(grant.amount_micros)
            click.echo(f"{'Had granted' if answer.replayed else 'Granted'} {amount} credits to {grant.account_id}.")
