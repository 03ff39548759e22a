"""Auto-pipelining script runner: concurrent calls leave in one write, replies are matched in order.

Batches form by themselves: a call is written at once when nothing is in flight, otherwise when the batch in flight has been answered. Once
calls have met in a batch, those of one turn of the event loop leave together, until they come one by one again; server/cohorts.py has calls
meet in a turn. A trip per call would cost the server about 100 µs each.

redis-py makes the connection (TLS, authentication, protocol); from then on bytes go between the socket and hiredis without a task, a lock
or an await per call. A caller that is cancelled does not cancel its command: the reply is read and dropped, so that no other caller can
ever get it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import re
from collections.abc import Callable
from typing import Any, cast

import hiredis
import redis.asyncio
import redis.exceptions

from meterd.core import errors
from meterd.redis import scripts

log = logging.getLogger(__name__)

# More calls than this in one batch would make the first wait for the last.
BATCH_COMMANDS_MAX = 512
# After so many batches of one call, calls are alone.
LONE_BATCHES = 4
# Beyond this many waiting calls a new one is refused: it would only time out later.
PENDING_MAX = 50_000
# An answer that takes longer is given up (its effect may happen); Redis normally answers within a millisecond.
REPLY_TIMEOUT_S = 5.0
WATCH_INTERVAL_S = 0.25
CONNECT_TIMEOUT_S = 2.0
RECONNECT_DELAY_MIN_S = 0.02
RECONNECT_DELAY_MAX_S = 1.0

# What a script answers: its code and what belongs to it, or one value of bytes.
Reply = Any
_RUN_ID = re.compile(rb"^run_id:([0-9a-f]+)", re.MULTILINE)


class NoScriptError(errors.UnavailableError):
    """Redis does not have the script: it was restarted, failed over or flushed. Nothing was executed."""


class RedisRefusedError(errors.UnavailableError):
    """Redis answered with an error (OOM, LOADING, READONLY, MISCONF …); the script did not run."""


class _Protocol(asyncio.Protocol):
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def data_received(self, data: bytes) -> None:
        self._runner.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._runner.on_lost(exc)


class Runner:
    """One pipelined connection to one Redis. Not safe across event loops."""

    def __init__(self, url: str, *, on_restart: Callable[[], None] | None = None) -> None:
        """`on_restart` is called when a new connection leads to another Redis process than the one before, before any call goes there."""
        self._url = url
        self._on_restart = on_restart
        self._run_id = ""
        self._transport: asyncio.Transport | None = None
        self._connection: redis.asyncio.Connection | None = None
        self._reader = hiredis.Reader()
        self._flight: collections.deque[asyncio.Future[Any]] = collections.deque()
        self._flight_since_s = 0.0
        self._queue: list[tuple[bytes, asyncio.Future[Any]]] = []
        # A batch that is to be written at the end of the turn.
        self._is_due = False
        # Batches of one call since the last one of more.
        self._lone_batches = LONE_BATCHES
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._closing = False
        self.connections = 0
        # Writes, each of a batch of calls.
        self.batches = 0

    @property
    def is_connected(self) -> bool:
        return self._transport is not None

    @property
    def is_alone(self) -> bool:
        """Whether calls come one by one: the last batches had one each."""
        return self._lone_batches >= LONE_BATCHES

    @property
    def pending(self) -> int:
        """Calls that wait for a reply or to be written."""
        return len(self._flight) + len(self._queue)

    async def start(self) -> None:
        """Begins to connect and keeps at it until close(); does not wait for success."""
        self._loop = asyncio.get_running_loop()
        self._keeper = asyncio.create_task(self._keep_connected(), name="redis-runner")

    async def wait_connected(self, timeout_s: float) -> bool:
        """Whether a connection stands within `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        return self.is_connected

    async def close(self) -> None:
        """Ends the connection; calls in flight fail with UnavailableError."""
        self._closing = True
        self._lost.set()
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._transport is not None:
            self._transport.close()
            self._drop("closing")

    def evalsha(
        self, script: scripts.Script, keys: tuple[str, ...], args: tuple[bytes | str | int, ...]
    ) -> asyncio.Future[Reply]:
        """The reply to EVALSHA. Errors: NoScriptError, RedisRefusedError, OverloadedError, UnavailableError."""
        return self.command((b"EVALSHA", script.sha, str(len(keys)), *keys, *args))

    def command(self, parts: tuple[bytes | str | int, ...]) -> asyncio.Future[Any]:
        """The reply to any single-reply command."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(errors.UnavailableError("redis: not connected"))
            return future
        if len(self._queue) >= PENDING_MAX:
            future.set_exception(errors.OverloadedError("redis: too many calls are waiting"))
            return future
        self._queue.append((hiredis.pack_command(parts), future))  # type: ignore[arg-type]
        if not self._flight and not self._is_due:
            self._send()
        return future

    def on_data(self, data: bytes) -> None:
        reader, flight = self._reader, self._flight
        reader.feed(data)
        while flight:
            reply = reader.gets()
            if reply is False:
                return
            future = flight.popleft()
            if future.done():
                continue
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(_fault(str(reply)))
            else:
                future.set_result(reply)
        if self._queue and not self._is_due:
            self._send()

    def _send(self) -> None:
        """Writes what waits, now or with what else this turn brings. Nothing is in flight."""
        if self.is_alone:
            self._write_batch()
        else:
            self._is_due = True
            self._loop.call_soon(self._write_batch)

    def _write_batch(self) -> None:
        self._is_due = False
        if not self._queue or self._transport is None:
            return
        batch, self._queue = self._queue[:BATCH_COMMANDS_MAX], self._queue[BATCH_COMMANDS_MAX:]
        self.batches += 1
        self._lone_batches = 0 if len(batch) > 1 else self._lone_batches + 1
        self._flight.extend([future for _, future in batch])
        self._flight_since_s = self._loop.time()
        self._transport.write(b"".join([packed for packed, _ in batch]))

    def on_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._drop(str(exc) if exc else "connection closed by Redis")
            self._lost.set()

    def _drop(self, reason: str) -> None:
        self._transport = None
        self._connected.clear()
        waiting = [*self._flight, *(future for _, future in self._queue)]
        self._flight.clear()
        self._queue = []
        for future in waiting:
            if not future.done():
                future.set_exception(errors.UnavailableError(f"redis: {reason}; the effect is unknown"))
                # A caller that has gone need not hear of it.
                future.exception()

    async def _keep_connected(self) -> None:
        delay_s, told = RECONNECT_DELAY_MIN_S, ""
        # Cancellation alone would not do: before Python 3.12, wait_for may swallow one that comes with its result.
        while not self._closing:
            try:
                await self._connect()
                delay_s, told = RECONNECT_DELAY_MIN_S, ""
            except (OSError, redis.exceptions.RedisError) as exc:
                # The same once a second would bury what else is said; probes and metrics tell that it lasts.
                if str(exc) != told:
                    told = str(exc)
                    log.warning("redis: cannot connect, trying on: %s", exc)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RECONNECT_DELAY_MAX_S)
                continue
            while not self._lost.is_set() and not self._closing:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), WATCH_INTERVAL_S)
                if (
                    self._flight
                    and self._loop.time() - self._flight_since_s > REPLY_TIMEOUT_S
                    and self._transport is not None
                ):
                    log.warning("redis: no reply for %s s, reconnecting", REPLY_TIMEOUT_S)
                    self._transport.abort()
                    self._drop(f"no reply for {REPLY_TIMEOUT_S:g} s")
                    self._lost.set()

    async def _connect(self) -> None:
        pool = redis.asyncio.ConnectionPool.from_url(
            self._url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=REPLY_TIMEOUT_S, protocol=2
        )
        connection = cast(redis.asyncio.Connection, pool.make_connection())
        await connection.connect()
        await self._compare_run_id(connection)
        writer = connection._writer  # pyright: ignore[reportPrivateUsage]
        assert writer is not None
        transport = cast(asyncio.Transport, writer.transport)
        self._reader = hiredis.Reader()
        self._lost.clear()
        transport.set_protocol(_Protocol(self))
        # The connection object owns the socket; it must live as long as the transport.
        self._connection = connection
        self._transport = transport
        self._connected.set()
        self.connections += 1

    async def _compare_run_id(self, connection: redis.asyncio.Connection) -> None:
        await connection.send_command("INFO", "server")
        try:
            told: Any = await connection.read_response()
            found = _RUN_ID.search(told)
        except redis.exceptions.ResponseError:
            # Not permitted: then each connection may lead to another process.
            found = None
        run_id = found[1].decode() if found else ""
        if self.connections and (run_id != self._run_id or not run_id):
            log.warning("redis: another process answers than before")
            if self._on_restart is not None:
                self._on_restart()
        self._run_id = run_id


def _fault(message: str) -> errors.MeterdError:
    if message.startswith("NOSCRIPT"):
        return NoScriptError("Redis was restarted or emptied, and is being checked; retry with the same id")
    if message.startswith("OOM"):
        return errors.OverloadedError("redis: out of memory")
    return RedisRefusedError(f"redis: {message}")
