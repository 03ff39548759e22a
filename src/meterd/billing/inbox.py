"""The inbox: an event that was verified is kept first, then its effect is made, in one transaction with its row.

A crash between the two leaves a row that is pending: Stripe's next delivery, or this process itself, takes it up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from meterd.billing import events, facts, failpoints, outgoing, settling
from meterd.core import errors
from meterd.postgres import pool, stripe

_log = logging.getLogger(__name__)

# Where the process may be killed in tests, in this order.
FAILPOINTS = ("verified", "stored", "locked", "absorbed", "settled", "finished", "committed")

# An event that nobody works on is taken up after this time; Stripe gives up on an answer after 10 s or more.
TAKE_UP_MS = 20_000
# 5 s, 10 s, … up to an hour: with 30 attempts a day, in which somebody can create the account or apply the catalog that is missing.
BACKOFF_MS, BACKOFF_MAX_MS = 5_000, 3_600_000
ATTEMPTS_MAX = 30
POLL_S = 1.0
RETRY_S = 2.0
BATCH_MAX = 50
# An event needs one or two objects from Stripe at most.
ASKS_MAX = 6
# An event that waits for so long is told of, again and again.
OVERDUE_MS = 15 * 60 * 1000
_TELL_INTERVAL_MS = 5 * 60 * 1000

_POSTGRES_ERRORS = (asyncpg.PostgresError, *pool.AWAY)
# What passes by itself, and says nothing of the event.
_PASSING = (*pool.AWAY, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


@dataclasses.dataclass(slots=True)
class Counts:
    """Since the start."""

    received: int = 0
    repeated: int = 0
    done: int = 0
    failed: int = 0
    dead: int = 0


class Inbox:
    """One tenant's. Any number of processes may work on the same one."""

    def __init__(
        self,
        connections: asyncpg.Pool,
        *,
        tenant_id: str,
        freezes: bool,
        at_stripe: outgoing.Stripe | None,
        clock_ms: Callable[[], int],
        failpoint: failpoints.Failpoint = failpoints.none,
    ) -> None:
        """`at_stripe` is asked where events leave something open; without it they wait, or the newest counts."""
        self._connections = connections
        self._tenant_id = tenant_id
        self._freezes = freezes
        self._at_stripe = at_stripe
        self._clock_ms = clock_ms
        self._failpoint = failpoint
        # Effects of a tenant come one after the other: who waits here keeps no connection busy.
        self._turn = asyncio.Lock()
        self._told_ms = 0
        self.counts = Counts()
        self.backlog = stripe.Backlog(pending=0, dead=0, oldest_ms=0)

    async def receive(self, event: events.Event, body: bytes) -> str:
        """Keeps the event and makes its effect; answers its state: `pending` if something is missing that may yet come.

        UnavailableError: Postgres is away, and whether it was kept is not known. Any number of deliveries has one effect.
        """
        await self._failpoint("verified")
        now_ms = self._clock_ms()
        try:
            new = stripe.Received(
                event_id=event.event_id,
                type=event.type,
                account=event.account,
                livemode=event.livemode,
                created_ms=event.created_s * 1000,
                object_id=event.object_id,
                payload=body,
            )
            state = await stripe.store(
                self._connections, self._tenant_id, new, now_ms=now_ms, retry_ms=now_ms + TAKE_UP_MS
            )
            await self._failpoint("stored")
            self.counts.received += 1
            if state == stripe.DONE:
                self.counts.repeated += 1
                return state
            return await self.process(event.event_id)
        except _PASSING as exc:
            raise errors.UnavailableError(f"Postgres is away: {type(exc).__name__}: {exc}") from exc

    async def process(self, event_id: str) -> str:
        """Makes the effect of an event that was kept; answers its state. Errors of Postgres pass through, and so does the unforeseen."""
        found: list[facts.Fact] = []
        asked: set[tuple[str, str]] = set()
        async with self._turn:
            while True:
                try:
                    return await self._attempt(event_id, found, asked)
                except settling.AsksError as exc:
                    asked.add((exc.kind, exc.object_id))
                    found += await self._asked(exc)
                except errors.MeterdError as exc:
                    return await self._failed(event_id, str(exc))
                except Exception as exc:
                    if not isinstance(exc, _PASSING):
                        _log.exception("event %s: unforeseen", event_id)
                        await self._failed(event_id, f"{type(exc).__name__}: {exc}")
                    raise

    async def _attempt(self, event_id: str, more: Sequence[facts.Fact], asked: set[tuple[str, str]]) -> str:
        async with pool.as_tenant(self._connections, self._tenant_id) as connection:
            await stripe.lock(connection, self._tenant_id)
            row = await stripe.take(connection, self._tenant_id, event_id)
            await self._failpoint("locked")
            if row is None or row["state"] == stripe.DONE:
                return stripe.DONE
            event = events.parse(row["payload"])
            found = [*facts.of(event), *more]
            context = self._context(connection, event_id, asked)
            await settling.absorb(context, found)
            await self._failpoint("absorbed")
            try:
                # What the event says stays known, even if its effect has to wait: then the event that is missing makes it.
                async with connection.transaction():
                    await settling.settle(context, found)
            except settling.WaitsError as exc:
                return await self._count_failure(connection, event_id, str(exc), row["attempts"])
            await self._failpoint("settled")
            effect = "; ".join(dict.fromkeys(context.told)) or ("nothing to do" if found else "of no use to meterd")
            await stripe.finish(connection, self._tenant_id, event_id, effect, self._clock_ms())
            await self._failpoint("finished")
        await self._failpoint("committed")
        self.counts.done += 1
        _log.info("event %s %s %s: %s", event_id, event.type, event.object_id, effect)
        return stripe.DONE

    def _context(self, connection: Any, event_id: str, asked: set[tuple[str, str]]) -> settling.Context:
        can_ask = self._at_stripe is not None and len(asked) < ASKS_MAX
        return settling.Context(
            connection=connection,
            tenant_id=self._tenant_id,
            event_id=event_id,
            now_ms=self._clock_ms(),
            freezes=self._freezes,
            asked=asked if can_ask else None,
        )

    async def _failed(self, event_id: str, error: str) -> str:
        async with pool.as_tenant(self._connections, self._tenant_id) as connection:
            row = await stripe.take(connection, self._tenant_id, event_id)
            return await self._count_failure(connection, event_id, error, row["attempts"] if row is not None else 0)

    async def _count_failure(self, connection: Any, event_id: str, error: str, attempts: int) -> str:
        now_ms = self._clock_ms()
        state = await stripe.fail(
            connection,
            self._tenant_id,
            event_id,
            error,
            attempts_max=ATTEMPTS_MAX,
            next_ms=now_ms + min(BACKOFF_MAX_MS, BACKOFF_MS << min(attempts, 20)),
            now_ms=now_ms,
        )
        self.counts.failed += 1
        if state == stripe.DEAD:
            self.counts.dead += 1
            _log.error("event %s is dead after %d attempts: %s; see `meterd stripe log`", event_id, attempts + 1, error)
        else:
            _log.warning("event %s waits: %s", event_id, error)
        return state or stripe.PENDING

    async def _asked(self, wanted: settling.AsksError) -> list[facts.Fact]:
        """What Stripe says of an object now; nothing if it does not answer."""
        assert self._at_stripe is not None
        at_s = max(wanted.at_s, self._clock_ms() // 1000)
        try:
            return await _read(self._at_stripe, wanted, at_s)
        except errors.MeterdError as exc:
            _log.warning("Stripe was asked for %s: %s", wanted, exc)
            return []

    async def round(self) -> int:
        """One batch of what waits; answers how many were tried. Postgres' being away passes through."""
        now_ms = self._clock_ms()
        due = await stripe.due(self._connections, self._tenant_id, now_ms, count_max=BATCH_MAX)
        for event_id, _ in due:
            await self._try(self.process(event_id))
        later = await stripe.due_subscriptions(self._connections, self._tenant_id, now_ms, count_max=BATCH_MAX)
        for subscription in later:
            await self._try(self._turn_month(subscription))
        self.backlog = await stripe.backlog(self._connections, self._tenant_id)
        self._tell_overdue(now_ms)
        return len(due) + len(later)

    async def _try(self, work: Awaitable[object]) -> None:
        try:
            await work
        except _PASSING:
            raise
        except Exception as exc:
            # It was told and counted where it happened; the others have their turn.
            _log.debug("%s", exc)

    async def _turn_month(self, subscription: str) -> None:
        """Grants the part of a paid time that has come near. If it cannot be now, it is tried again after a while."""
        async with self._turn, pool.as_tenant(self._connections, self._tenant_id) as connection:
            await stripe.lock(connection, self._tenant_id)
            context = self._context(connection, "", set())
            context = dataclasses.replace(context, asked=None)
            try:
                async with connection.transaction():
                    await settling.settle_subscription(context, subscription)
            except errors.MeterdError as exc:
                _log.warning("subscription %s waits: %s", subscription, exc)
                await stripe.set_due(connection, self._tenant_id, subscription, self._clock_ms() + BACKOFF_MS * 12)

    def _tell_overdue(self, now_ms: int) -> None:
        oldest_ms = self.backlog.oldest_ms
        if oldest_ms and now_ms - oldest_ms > OVERDUE_MS and now_ms - self._told_ms > _TELL_INTERVAL_MS:
            self._told_ms = now_ms
            minutes = (now_ms - oldest_ms) // 60_000
            _log.error("%d events are not processed, the oldest for %d minutes", self.backlog.pending, minutes)

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until `stop`. Outages are retried for ever."""
        told = ""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                if await self.round() >= BATCH_MAX:
                    continue
                told = ""
            except _POSTGRES_ERRORS as exc:
                pause_s = RETRY_S
                text = f"{type(exc).__name__}: {exc}"
                if text != told:
                    _log.warning("the inbox cannot be read, retrying: %s", text)
                told = text
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                pass


async def _read(at_stripe: outgoing.Stripe, wanted: settling.AsksError, at_s: int) -> list[facts.Fact]:
    """The facts of an object as Stripe has it now."""
    if wanted.kind == facts.SUBSCRIPTION:
        return facts.read(await at_stripe.get(f"subscriptions/{wanted.object_id}"), at_s=at_s)
    if wanted.kind == facts.SESSION:
        path = f"checkout/sessions/{wanted.object_id}"
        return facts.read(await at_stripe.get(path, {"expand": ["line_items"]}), at_s=at_s)
    if wanted.kind == facts.INVOICE:
        document = await at_stripe.get(f"invoices/{wanted.object_id}")
        lines = [one async for one in at_stripe.all(f"invoices/{wanted.object_id}/lines", {})]
        document = {**document, "lines": {"object": "list", "data": lines, "has_more": False}}
        return facts.read(document, at_s=at_s)
    assert wanted.kind == facts.PAYMENT, wanted.kind
    # Which invoice it paid, if any; then the payment itself.
    if not wanted.object_id.startswith("pi_"):
        return []
    found = facts.read(await at_stripe.get(f"payment_intents/{wanted.object_id}"), at_s=at_s)
    params = {"payment": {"type": "payment_intent", "payment_intent": wanted.object_id}}
    async for one in at_stripe.all("invoice_payments", params):
        found += facts.read(one, at_s=at_s)
        invoice = await at_stripe.get(f"invoices/{events.id_of(one.get('invoice'))}")
        found += facts.read(invoice, at_s=at_s)
    return found
