"""The service Events: webhooks, and what was told."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import addresses, errors, ids, money, signing
from meterd.core import events as core_events
from meterd.meter import hydration, pages, replies
from meterd.postgres import events, webhooks
from meterd_client.v1 import events_pb2

REPLAYED_IDS_MAX = 1_000
# Year 9999 is where protobuf's timestamps end.
TIME_MAX_MS = 253_402_300_799_999
_TYPES = frozenset(kind.value for kind in core_events.Type)
_LAST = uuid.UUID(int=2**128 - 1)
_NONE = uuid.UUID(int=0)


class Events:
    """The service Events for one tenant's request at a time; see events.proto for what each answers."""

    def __init__(self, *, connections: asyncpg.Pool, allow_private: bool, clock_ms: Callable[[], int]) -> None:
        """`allow_private` lets webhooks lead to private addresses, and to plain http."""
        self._connections = connections
        self._allow_private = allow_private
        self._clock_ms = clock_ms

    async def create_webhook(
        self, tenant_id: str, request: events_pb2.CreateWebhookRequest
    ) -> events_pb2.CreateWebhookResponse:
        """See Events.CreateWebhook in events.proto."""
        new = webhooks.NewEndpoint(
            tenant_id=tenant_id,
            idempotency_key=ids.checked_id(request.idempotency_key, "idempotency_key"),
            url=addresses.checked_url(request.url, "url", allow_private=self._allow_private),
            types=_checked_types(request.types),
        )
        secret = os.urandom(signing.SECRET_BYTES)
        async with _postgres():
            made, replayed = await webhooks.create(self._connections, new, secret, self._clock_ms())
        return events_pb2.CreateWebhookResponse(
            webhook=_webhook(made), secret="" if replayed else signing.secret_text(secret), replayed=replayed
        )

    async def list_webhooks(
        self, tenant_id: str, request: events_pb2.ListWebhooksRequest
    ) -> events_pb2.ListWebhooksResponse:
        """See Events.ListWebhooks in events.proto."""
        del request
        async with _postgres():
            found = await webhooks.listed(self._connections, tenant_id, self._clock_ms())
        return events_pb2.ListWebhooksResponse(webhooks=map(_webhook, found))

    async def delete_webhook(
        self, tenant_id: str, request: events_pb2.DeleteWebhookRequest
    ) -> events_pb2.DeleteWebhookResponse:
        """See Events.DeleteWebhook in events.proto."""
        async with _postgres():
            await webhooks.delete(self._connections, tenant_id, _webhook_id(request.webhook_id), self._clock_ms())
        return events_pb2.DeleteWebhookResponse()

    async def rotate_webhook_secret(
        self, tenant_id: str, request: events_pb2.RotateWebhookSecretRequest
    ) -> events_pb2.RotateWebhookSecretResponse:
        """See Events.RotateWebhookSecret in events.proto."""
        secret = os.urandom(signing.SECRET_BYTES)
        async with _postgres():
            changed = await webhooks.rotate(
                self._connections,
                tenant_id,
                _webhook_id(request.webhook_id),
                secret,
                self._clock_ms(),
                force=request.force,
            )
        return events_pb2.RotateWebhookSecretResponse(webhook=_webhook(changed), secret=signing.secret_text(secret))

    async def list_events(self, tenant_id: str, request: events_pb2.ListEventsRequest) -> events_pb2.ListEventsResponse:
        """See Events.ListEvents in events.proto."""
        account_id = ids.checked_id(request.account_id, "account_id") if request.account_id else ""
        types = _checked_types(request.types)
        size = pages.checked_size(request.page_size)
        scope = f"events {tenant_id} {json.dumps([account_id, sorted(types)])}"
        before = pages.place(scope, request.page_token)
        async with _postgres():
            found = await events.listed(
                self._connections,
                tenant_id,
                account_id=account_id,
                types=types,
                before=uuid.UUID(before) if before else _LAST,
                count_max=size + 1,
            )
        return events_pb2.ListEventsResponse(
            events=map(_event, found[:size]),
            next_page_token=pages.token(scope, str(found[size - 1].event_id)) if len(found) > size else "",
        )

    async def replay_events(
        self, tenant_id: str, request: events_pb2.ReplayEventsRequest
    ) -> events_pb2.ReplayEventsResponse:
        """See Events.ReplayEvents in events.proto."""
        endpoint_id = _webhook_id(request.webhook_id)
        if len(request.event_ids) > REPLAYED_IDS_MAX:
            raise errors.InvalidArgumentError("event_ids", f"more than {REPLAYED_IDS_MAX}")
        event_ids = [_uuid(text, "event_ids", "must be ids of events") for text in request.event_ids]
        scope = f"replay {tenant_id} {endpoint_id}"
        after = pages.place(scope, request.page_token)
        now_ms = self._clock_ms()
        async with _postgres():
            count, last = await webhooks.replay(
                self._connections,
                tenant_id,
                endpoint_id,
                since_ms=_time_ms(request.since, "since") if request.HasField("since") else 0,
                until_ms=_time_ms(request.until, "until") if request.HasField("until") else now_ms + 1,
                event_ids=event_ids,
                include_delivered=request.include_delivered,
                after=uuid.UUID(after) if after else _NONE,
                now_ms=now_ms,
            )
        return events_pb2.ReplayEventsResponse(
            replayed_count=count, next_page_token=pages.token(scope, str(last)) if last else ""
        )

    async def set_low_balance(
        self, tenant_id: str, request: events_pb2.SetLowBalanceRequest
    ) -> events_pb2.SetLowBalanceResponse:
        """See Events.SetLowBalance in events.proto."""
        account_id = ids.checked_id(request.account_id, "account_id") if request.account_id else ""
        threshold_micros = request.low_balance_micros if request.HasField("low_balance_micros") else None
        if (threshold_micros is None) != request.clear:
            raise errors.InvalidArgumentError("low_balance_micros", "must be given, or else clear")
        if threshold_micros is not None and not 0 <= threshold_micros <= money.AMOUNT_MAX_MICROS:
            raise errors.OutOfRangeError("low_balance_micros", f"must be from 0 to {money.AMOUNT_MAX_MICROS}")
        async with _postgres():
            await events.set_low_balance(self._connections, tenant_id, account_id, threshold_micros)
        return events_pb2.SetLowBalanceResponse()


@contextlib.asynccontextmanager
async def _postgres() -> AsyncGenerator[None]:
    try:
        yield
    except hydration.POSTGRES_ERRORS as exc:
        raise errors.UnavailableError(f"Postgres is away: {exc}; retry") from exc


def _checked_types(types: Sequence[str]) -> list[str]:
    for kind in types:
        if kind not in _TYPES:
            raise errors.InvalidArgumentError("types", f"must be of {', '.join(sorted(_TYPES))}")
    return sorted(set(types))


def _webhook_id(text: str) -> uuid.UUID:
    return _uuid(text, "webhook_id", "must be the id of a webhook")


def _uuid(text: str, field: str, reason: str) -> uuid.UUID:
    try:
        found = uuid.UUID(text)
    except ValueError:
        found = None
    # The constructor takes other forms too.
    if found is None or str(found) != text:
        raise errors.InvalidArgumentError(field, reason)
    return found


def _time_ms(time: Timestamp, field: str) -> int:
    time_ms = time.seconds * 1000 + time.nanos // 1_000_000
    if not 0 <= time_ms <= TIME_MAX_MS:
        raise errors.InvalidArgumentError(field, "must be from 1970 to 9999")
    return time_ms


def _stamp(time_ms: int) -> Timestamp | None:
    return replies.timestamp(time_ms) if time_ms else None


def _webhook(value: webhooks.Endpoint) -> events_pb2.Webhook:
    return events_pb2.Webhook(
        webhook_id=str(value.endpoint_id),
        url=value.url,
        types=value.types,
        created_at=_stamp(value.created_ms),
        disabled_at=_stamp(value.disabled_ms),
        old_secret_until=_stamp(value.old_secret_ms),
        waiting_count=value.waiting_count,
        dead_count=value.dead_count,
    )


def _event(value: events.Event) -> events_pb2.Event:
    return events_pb2.Event(
        event_id=str(value.event_id),
        account_id=value.account_id,
        type=value.type,
        subject=value.subject,
        data=json.dumps(value.payload, ensure_ascii=False, separators=(",", ":"), sort_keys=True),
        at=_stamp(value.at_ms),
        deliveries=map(_delivery, value.deliveries),
    )


def _delivery(value: events.Delivery) -> events_pb2.Delivery:
    state = events_pb2.Delivery.STATE_WAITING
    if value.delivered_ms:
        state = events_pb2.Delivery.STATE_DELIVERED
    elif value.dead_ms:
        state = events_pb2.Delivery.STATE_DEAD
    return events_pb2.Delivery(
        webhook_id=str(value.endpoint_id),
        state=state,
        attempts=value.attempts,
        next_at=_stamp(value.next_ms),
        delivered_at=_stamp(value.delivered_ms),
        last_status=value.last_status,
        last_error=value.last_error,
    )
