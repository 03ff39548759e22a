"""Delivers events to webhooks, at least once each, as https://www.standardwebhooks.com describes.

Deliveries are claimed in Postgres for a while, so any number of servers may deliver, and what a dead one had claimed another one takes
over. An endpoint has few requests in flight, and fewer if it fails: a slow one occupies its own room, never that of others.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import logging
import random
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import asyncpg

from meterd.core import addresses, signing
from meterd.meter import hydration
from meterd.postgres import webhooks

_log = logging.getLogger(__name__)

# A receiver should store the event and answer; what takes longer it does afterwards.
TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
# Longer than an attempt can take. After it another server takes the delivery over.
LEASE_MS = 60_000
# Requests in flight to one endpoint, from one server; and to one whose last answer was no success.
ROOM_MAX = 4
ROOM_FAILING_MAX = 1
# In flight from one server, each some 50 KB.
IN_FLIGHT_MAX = 256
POLL_S = 0.5
RETRY_S = 2.0
# Tries after 5 s, 20 s, 80 s …, then every 12 hours, until three days are over.
BACKOFF_MIN_MS = 5_000
BACKOFF_FACTOR = 4
BACKOFF_MAX_MS = 12 * 3600 * 1000
SPAN_MS = 3 * 24 * 3600 * 1000
# Part of the wait that is left to chance, so that failures that came together do not come back together.
JITTER = 0.2
# A receiver may ask for a later try, within reason.
RETRY_AFTER_MAX_MS = 24 * 3600 * 1000
# Read of an answer, for the operator to see what was wrong.
ANSWER_BYTES_MAX = 200
GONE = 410
USER_AGENT = "meterd-webhooks/1"


class _RefusedAddressError(OSError):
    """The name leads to an address that is not public."""


def body(attempt: webhooks.Attempt) -> bytes:
    """What is sent: the same bytes in each attempt."""
    at = datetime.datetime.fromtimestamp(attempt.at_ms / 1000, datetime.UTC)
    document = {
        "type": attempt.type,
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": attempt.payload,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def backoff_ms(attempts: int, chance: float) -> int:
    """The wait after `attempts` failed ones; `chance` from 0 to 1 spreads it."""
    # The power alone would grow without end.
    wait_ms = min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * BACKOFF_FACTOR ** min(attempts - 1, 16))
    return int(wait_ms * (1 - JITTER + 2 * JITTER * chance))


def retry_after_ms(text: str, now_ms: int) -> int:
    """The wait that a Retry-After header asks for, in seconds or as a date; 0 if it says nothing that makes sense."""
    if text.strip().isdecimal() and text.isascii():
        return min(RETRY_AFTER_MAX_MS, int(text.strip()[:9]) * 1000)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return max(0, min(RETRY_AFTER_MAX_MS, int(at.timestamp() * 1000) - now_ms))


def result_of(
    attempt: webhooks.Attempt, status: int, error: str, *, wait_ms: int, now_ms: int, chance: float
) -> webhooks.Result:
    """What becomes of a delivery after an attempt that got `status` (0: no answer). `wait_ms`: the receiver wants no try sooner."""
    if 200 <= status < 300:
        return webhooks.Result(delivered_ms=now_ms, status=status, error="")
    next_ms = now_ms + max(wait_ms, backoff_ms(attempt.attempts, chance))
    if status == GONE or next_ms > attempt.queued_ms + SPAN_MS:
        return webhooks.Result(dead_ms=now_ms, status=status, error=error)
    return webhooks.Result(next_ms=next_ms, status=status, error=error)


class Deliverer:
    """`run` it as a task, or call `round` for what is due now."""

    def __init__(
        self,
        connections: asyncpg.Pool,
        *,
        allow_private: bool,
        clock_ms: Callable[[], int],
        timeout_s: float = TIMEOUT_S,
        poll_s: float = POLL_S,
    ) -> None:
        """`allow_private` lets webhooks lead to private and loopback addresses."""
        self._connections = connections
        self._allow_private = allow_private
        self._clock_ms = clock_ms
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: dict[uuid.UUID, int] = {}
        self._failing: set[uuid.UUID] = set()
        self._ended = asyncio.Event()
        self.delivered = self.failed = self.dead = 0

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop`, then waits for what is in flight. Outages of Postgres are retried for ever."""
        stopped = asyncio.ensure_future(stop.wait())
        told = ""
        try:
            while not stop.is_set():
                pause_s = self._poll_s
                self._ended.clear()
                try:
                    await self._start()
                    told = ""
                except hydration.POSTGRES_ERRORS as exc:
                    pause_s = RETRY_S
                    text = f"{type(exc).__name__}: {exc}"
                    if text != told:
                        _log.warning("webhooks wait for Postgres: %s", text)
                    told = text
                await self._pause(stopped, pause_s)
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            stopped.cancel()
            await self.close()

    async def _pause(self, stopped: asyncio.Future[Any], pause_s: float) -> None:
        """Until more may be due: after the time, or as soon as a request has ended and left its room."""
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((ended, stopped), timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()

    async def close(self) -> None:
        """Ends what is in flight: it is tried again after its lease."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def round(self) -> int:
        """Delivers what is due now, and answers how many attempts that took."""
        total = 0
        while count := await self._start():
            total += count
            await asyncio.gather(*self._tasks)
        return total

    async def _start(self) -> int:
        """Claims what there is room for, and begins to deliver it."""
        free = IN_FLIGHT_MAX - len(self._tasks)
        if free <= 0:
            return 0
        busy = self._in_flight.keys() | self._failing
        rooms = {
            endpoint: (ROOM_FAILING_MAX if endpoint in self._failing else ROOM_MAX) - self._in_flight.get(endpoint, 0)
            for endpoint in busy
        }
        claimed = await webhooks.claim(
            self._connections,
            self._clock_ms(),
            lease_ms=LEASE_MS,
            room=ROOM_MAX,
            rooms=rooms,
            count_max=free,
        )
        for attempt in claimed:
            self._in_flight[attempt.endpoint_id] = self._in_flight.get(attempt.endpoint_id, 0) + 1
            task = asyncio.create_task(self._deliver(attempt))
            self._tasks.add(task)
            task.add_done_callback(lambda done, endpoint=attempt.endpoint_id: self._end(done, endpoint))
        return len(claimed)

    def _end(self, task: asyncio.Task[None], endpoint: uuid.UUID) -> None:
        self._tasks.discard(task)
        self._in_flight[endpoint] -= 1
        if not self._in_flight[endpoint]:
            del self._in_flight[endpoint]
        self._ended.set()
        if not task.cancelled() and (fault := task.exception()) is not None:
            # Whatever it was, the lease ends and the delivery is tried again.
            _log.error("a delivery was not settled: %s", type(fault).__name__, exc_info=fault)

    async def _deliver(self, attempt: webhooks.Attempt) -> None:
        status, error, wait_ms = await self._post(attempt)
        now_ms = self._clock_ms()
        result = result_of(attempt, status, error, wait_ms=wait_ms, now_ms=now_ms, chance=random.random())
        if result.delivered_ms:
            self.delivered += 1
            self._failing.discard(attempt.endpoint_id)
        else:
            self.failed += 1
            self._failing.add(attempt.endpoint_id)
        try:
            await webhooks.settle(self._connections, attempt, result)
            if result.dead_ms:
                self.dead += 1
                _log.warning("webhook %s: gave up event %s: %s", attempt.endpoint_id, attempt.event_id, error)
            if status == GONE:
                await webhooks.disable(self._connections, attempt.tenant_id, attempt.endpoint_id, now_ms)
        except hydration.POSTGRES_ERRORS as exc:
            # The receiver may hear of the event a second time, with the same id.
            _log.warning("webhooks: Postgres did not take the result of an attempt: %s", exc)

    async def _post(self, attempt: webhooks.Attempt) -> tuple[int, str, int]:
        """Status (0: no answer), what was wrong, and the wait in ms that the receiver asks for."""
        data = body(attempt)
        headers = {"content-type": "application/json", "user-agent": USER_AGENT}
        now_ms = self._clock_ms()
        headers |= signing.headers(attempt.secrets, str(attempt.event_id), now_ms // 1000, data)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(attempt.url, data, headers)
        except TimeoutError:
            return 0, f"no answer within {self._timeout_s:g} s", 0
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return 0, _reason(exc), 0

    async def _exchange(self, url: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, str, int]:
        # A redirect would lead the signed event to whoever the receiver names; it is an answer that is no success.
        async with self._opened().post(url, data=data, headers=headers, allow_redirects=False) as answer:
            if 200 <= answer.status < 300:
                return answer.status, "", 0
            text = (await answer.content.read(ANSWER_BYTES_MAX)).decode("utf-8", "replace")
            wait_ms = retry_after_ms(answer.headers.get("retry-after", ""), self._clock_ms())
            return answer.status, f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}", wait_ms

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A connection for each attempt: one that the receiver has closed meanwhile would cost a failed one.
                connector=aiohttp.TCPConnector(
                    limit=0, limit_per_host=0, use_dns_cache=False, force_close=True, socket_factory=self._socket
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Answers are hardly read, and never believed.
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _socket(self, address: Any) -> socket.socket:
        """The socket for one address that a name was resolved to: what is checked here is what is connected to."""
        family, kind, protocol, _, where = address
        if not self._allow_private and not addresses.is_public(where[0]):
            raise _RefusedAddressError(f"{where[0]} is not a public address")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def _reason(exc: BaseException) -> str:
    """What was wrong, in one line. A refused address stands inside what aiohttp makes of it."""
    refused: BaseException | None = exc
    while refused is not None:
        if isinstance(refused, _RefusedAddressError):
            return str(refused)
        refused = refused.__cause__ or refused.__context__
    return f"{type(exc).__name__}: {exc}"[: webhooks.ERROR_CHARS_MAX]
