"""`meterd webhooks`: where events are delivered to, and what became of them, through a running server."""

from __future__ import annotations

import datetime
import uuid

import click

from meterd.cli import console, remote
from meterd.core import events
from meterd_client.v1 import events_pb2

TYPES = tuple(sorted(kind.value for kind in events.Type))

_connected = remote.connected(remote.events)
_types_option = click.option(
    "--type", "types", multiple=True, type=click.Choice(TYPES), help="Only events of this type; may be given again."
)


@click.group("webhooks", short_help="Tell other services what happens.")
def webhooks() -> None:
    """Deliver events to URLs, and look into deliveries. The tenant is the API key's. docs/EVENTS.md lists the events."""


@webhooks.command("create", short_help="Deliver events to a URL, and print the secret, once.")
@click.argument("url")
@_types_option
@click.option(
    "--idempotency-key", default="", help="The same for a repeat, which then has no effect; made if not given."
)
@_connected
def create(service: remote.Events, url: str, types: tuple[str, ...], idempotency_key: str, as_json: bool) -> None:
    """Deliver events to URL, and print the secret that its receiver checks signatures with. It is not shown again.

    Example: meterd webhooks create https://example.com/hooks/meterd --type balance.low --type balance.exhausted

    Exit status: 0, or 1 if it was refused, 2 for a bad option or URL, 3 if the server is away.
    """
    answer: events_pb2.CreateWebhookResponse = service.call(
        "CreateWebhook",
        events_pb2.CreateWebhookRequest(idempotency_key=idempotency_key or f"cli-{uuid.uuid4()}", url=url, types=types),
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    if answer.replayed:
        click.echo(f"Webhook {answer.webhook.webhook_id} was there already; its secret is not shown again.", err=True)
        return
    click.echo(answer.secret)
    click.echo(f"Webhook {answer.webhook.webhook_id} is created. Its secret is not shown again.", err=True)


@webhooks.command("list", short_help="List webhooks; never their secrets.")
@_connected
def list_webhooks(service: remote.Events, as_json: bool) -> None:
    """List webhooks, with how many deliveries wait and how many were given up."""
    answer: events_pb2.ListWebhooksResponse = service.call("ListWebhooks", events_pb2.ListWebhooksRequest())
    if as_json:
        console.print_json([remote.document(one) for one in answer.webhooks])
        return
    console.print_table(
        ("webhook", "url", "types", "created", "state", "waiting", "dead"),
        [
            (
                one.webhook_id,
                one.url,
                ", ".join(one.types) or "all",
                console.time_text(remote.time_ms(one.created_at)),
                "disabled" if one.HasField("disabled_at") else "enabled",
                one.waiting_count,
                one.dead_count,
            )
            for one in answer.webhooks
        ],
        right=("waiting", "dead"),
    )


@webhooks.command("delete", short_help="Deliver nothing to a webhook any more.")
@click.argument("webhook_id")
@_connected
def delete(service: remote.Events, webhook_id: str, as_json: bool) -> None:
    """Delete WEBHOOK_ID; what waits for it is dropped. A repeat changes nothing."""
    answer: events_pb2.DeleteWebhookResponse = service.call(
        "DeleteWebhook", events_pb2.DeleteWebhookRequest(webhook_id=webhook_id)
    )
    if as_json:
        console.print_json(remote.document(answer))
    else:
        click.echo(f"Webhook {webhook_id} is deleted.")


@webhooks.command("rotate", short_help="Give a webhook a new secret, and print it, once.")
@click.argument("webhook_id")
@click.option("--force", is_flag=True, help="End the old secret at once, and an older rotation too.")
@_connected
def rotate(service: remote.Events, webhook_id: str, force: bool, as_json: bool) -> None:
    """Give WEBHOOK_ID a new secret and print it. The old one signs too for a day."""
    answer: events_pb2.RotateWebhookSecretResponse = service.call(
        "RotateWebhookSecret", events_pb2.RotateWebhookSecretRequest(webhook_id=webhook_id, force=force)
    )
    if as_json:
        console.print_json(remote.document(answer))
    else:
        click.echo(answer.secret)


@webhooks.command("replay", short_help="Deliver events again.")
@click.argument("webhook_id")
@click.option("--since", type=console.time_of, metavar="TIME", help="Only what happened from then on.")
@click.option("--until", type=console.time_of, metavar="TIME", help="Only what happened before.")
@click.option("--event", "event_ids", multiple=True, metavar="EVENT_ID", help="Only this event; may be given again.")
@click.option("--delivered", is_flag=True, help="Also what was delivered.")
@_connected
def replay(
    service: remote.Events,
    webhook_id: str,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    event_ids: tuple[str, ...],
    delivered: bool,
    as_json: bool,
) -> None:
    """Deliver to WEBHOOK_ID what it has not taken: what was given up, waits, or happened before it was created."""
    request = events_pb2.ReplayEventsRequest(webhook_id=webhook_id, event_ids=event_ids, include_delivered=delivered)
    if since is not None:
        request.since.FromDatetime(since)
    # Fixed, so that all pages are of the same time.
    request.until.FromDatetime(until if until is not None else datetime.datetime.now(datetime.UTC))
    count = 0
    while True:
        answer: events_pb2.ReplayEventsResponse = service.call("ReplayEvents", request)
        count += answer.replayed_count
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    if as_json:
        console.print_json({"replayed_count": count})
    else:
        click.echo(f"{count} deliveries are queued.")


@webhooks.command("events", short_help="List events and their deliveries.")
@click.option("--account", "account_id", default="", help="Only of this account.")
@_types_option
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@_connected
def list_events(service: remote.Events, account_id: str, types: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List events, newest first, with what became of their deliveries."""
    answer: events_pb2.ListEventsResponse = service.call(
        "ListEvents", events_pb2.ListEventsRequest(account_id=account_id, types=types, page_size=limit)
    )
    if as_json:
        console.print_json([remote.document(one) for one in answer.events])
        return
    console.print_table(
        ("at", "type", "account", "subject", "event", "deliveries"),
        [
            (
                console.time_text(remote.time_ms(one.at)),
                one.type,
                one.account_id,
                one.subject,
                one.event_id,
                ", ".join(_delivery_text(delivery) for delivery in one.deliveries),
            )
            for one in answer.events
        ],
    )


def _delivery_text(delivery: events_pb2.Delivery) -> str:
    state = events_pb2.Delivery.State.Name(delivery.state).removeprefix("STATE_").lower()
    return f"{state} ({delivery.last_error})" if delivery.last_error else state


@webhooks.command("low-balance", short_help="Say when a balance is low.")
@click.argument("amount_micros", metavar="CREDITS|none", type=lambda text: None if text == "none" else console.credits_micros(text))  # fmt: skip  # noqa: E501
@click.option("--account", "account_id", default="", help="Of this account only; of all that have none of their own.")
@_connected
def low_balance(service: remote.Events, amount_micros: int | None, account_id: str, as_json: bool) -> None:
    """A wallet is low (balance.low) when CREDITS or less are left; with "none" it never is."""
    answer: events_pb2.SetLowBalanceResponse = service.call(
        "SetLowBalance",
        events_pb2.SetLowBalanceRequest(
            account_id=account_id, low_balance_micros=amount_micros, clear=amount_micros is None
        ),
    )
    if as_json:
        console.print_json(remote.document(answer))
        return
    text = "none" if amount_micros is None else f"{console.credits_text(amount_micros)} credits"
    click.echo(f"Low balance of {account_id or 'all accounts without their own'}: {text}.")
