"""What Stripe has and the inbox has not: found by asking Stripe, and handed to the inbox as if it had been delivered.

Stripe keeps events for 30 days. What is older is found by its object: sessions and PaymentIntents that were paid, and invoices. Such an
object becomes an event whose id follows from the object, so that a repeat finds it in the inbox.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.billing import events, facts, inbox, marks, outgoing
from meterd.postgres import orders

# Kept in memory at once, oldest last; a month of a busy shop. A longer time is reconciled in parts.
MISSED_MAX = 50_000
_ASKED_AT_ONCE = 500

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Missed:
    """An event that the inbox does not have. `is_made` if Stripe has no event of it any more, and its object says what happened."""

    event_id: str
    type: str
    object_id: str
    created_s: int
    body: bytes
    is_made: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What Stripe was asked for: how many there were of each kind, and what the inbox lacks, oldest first."""

    events: int
    sessions: int
    payments: int
    invoices: int
    missed: Sequence[Missed]


async def look(
    connections: asyncpg.Pool, at_stripe: outgoing.Stripe, tenant_id: str, *, from_s: int, to_s: int
) -> Found:
    """What Stripe has of the time from `from_s` up to, and without, `to_s` (in seconds since 1970). Changes nothing."""
    reader = _Reader(connections, at_stripe, tenant_id, {"created": {"gte": from_s, "lt": to_s}})
    told = await reader.events()
    # What an event tells needs no second one.
    told_of = {(one.type, one.object_id) for one in told}
    made: list[Missed] = []
    for kind, path, of_type, is_paid in _OBJECTS:
        found = await reader.objects(kind, path, of_type, is_paid)
        made += [one for one in found if (one.type, one.object_id) not in told_of]
    missed = sorted((*told, *made), key=lambda one: (one.created_s, one.event_id))
    return Found(
        events=reader.counts["event"],
        sessions=reader.counts[facts.SESSION],
        payments=reader.counts[facts.PAYMENT],
        invoices=reader.counts[facts.INVOICE],
        missed=missed,
    )


async def hand_in(box: inbox.Inbox, missed: Sequence[Missed]) -> dict[str, str]:
    """Gives the inbox what it lacks; answers what state each has by its id. A repeat changes nothing."""
    return {one.event_id: await box.receive(events.parse(one.body), one.body) for one in missed}


class _Reader:
    def __init__(
        self, connections: asyncpg.Pool, at_stripe: outgoing.Stripe, tenant_id: str, params: Mapping[str, Any]
    ) -> None:
        self._connections, self._at_stripe = connections, at_stripe
        self._tenant_id, self._params = tenant_id, params
        self.counts: dict[str, int] = {}

    async def events(self) -> list[Missed]:
        """The events that tell something, and that the inbox does not have."""
        found: list[Missed] = []
        count = 0
        async for document in self._at_stripe.all("events", self._params):
            count += 1
            body = _body(document)
            event = events.parse(body)
            if not facts.of(event) or not self._is_ours(event.object):
                continue
            found.append(
                Missed(
                    event_id=event.event_id,
                    type=event.type,
                    object_id=event.object_id,
                    created_s=event.created_s,
                    body=body,
                )
            )
            _check_room(found)
        self.counts["event"] = count
        known: set[str] = set()
        for start in range(0, len(found), _ASKED_AT_ONCE):
            asked = [one.event_id for one in found[start : start + _ASKED_AT_ONCE]]
            known |= await orders.known_events(self._connections, self._tenant_id, asked)
        return [one for one in found if one.event_id not in known]

    async def objects(self, kind: str, path: str, event_type: str, is_paid: Callable[[Document], bool]) -> list[Missed]:
        """The paid objects of a kind of which the inbox does not know that they are."""
        found: list[Missed] = []
        count = 0
        async for document in self._at_stripe.all(path, self._params):
            count += 1
            if is_paid(document) and self._is_ours(document):
                found.append(_made(document, event_type))
                _check_room(found)
        self.counts[kind] = count
        known: set[str] = set()
        for start in range(0, len(found), _ASKED_AT_ONCE):
            asked = [one.object_id for one in found[start : start + _ASKED_AT_ONCE]]
            known |= await orders.known_paid(self._connections, self._tenant_id, kind, asked)
        return [one for one in found if one.object_id not in known]

    def _is_ours(self, document: Document) -> bool:
        """Whether it does not say that it is another tenant's."""
        metadata: Document = document.get("metadata") or {}
        return metadata.get(marks.TENANT, self._tenant_id) == self._tenant_id


def _made(document: Document, event_type: str) -> Missed:
    """The event that Stripe must have had of a paid object, at the object's own time, so that anything newer counts more."""
    object_id = str(document["id"])
    transitions: Document = document.get("status_transitions") or {}
    created_s = int(transitions.get("paid_at") or document["created"])
    event_id = f"reconciled_{object_id}"
    body = _body(
        {
            "id": event_id,
            "object": "event",
            "api_version": outgoing.API_VERSION,
            "created": created_s,
            "livemode": document["livemode"],
            "type": event_type,
            "data": {"object": document},
        }
    )
    return Missed(event_id=event_id, type=event_type, object_id=object_id, created_s=created_s, body=body, is_made=True)


def _check_room(found: Sequence[Missed]) -> None:
    if len(found) > MISSED_MAX:
        raise outgoing.RefusedError("", f"more than {MISSED_MAX} events in this time: reconcile it in parts")


def _body(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _session_paid(document: Document) -> bool:
    return document.get("status") == "complete" and document.get("payment_status") in ("paid", "no_payment_required")


def _payment_paid(document: Document) -> bool:
    # Those that meterd made; what else the account sells is nobody's here.
    return document["status"] == "succeeded" and marks.PURCHASE in (document.get("metadata") or {})


def _invoice_paid(document: Document) -> bool:
    return document["status"] == "paid"


_OBJECTS: Sequence[tuple[str, str, str, Callable[[Document], bool]]] = (
    (facts.SESSION, "checkout/sessions", "checkout.session.completed", _session_paid),
    (facts.PAYMENT, "payment_intents", "payment_intent.succeeded", _payment_paid),
    (facts.INVOICE, "invoices", "invoice.paid", _invoice_paid),
)
