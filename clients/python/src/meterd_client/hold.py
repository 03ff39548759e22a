"""A hold as a block of asynchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from meterd_client import bodies, errors, holding, requests, streams, wire
from meterd_client.v1 import metering_pb2, types_pb2

T = TypeVar("T")


class Connection(Protocol):
    """What a hold asks of its Meter."""

    @property
    def settings(self) -> wire.Settings: ...
    async def call(self, name: str, request: Any, timeout_s: float, id: str = "") -> Any: ...
    async def settle(self, ending: holding.Ending) -> types_pb2.Settlement | None: ...
    async def spool_late(self, request: metering_pb2.ChargeRequest) -> None: ...
    def run(self, work: Any) -> asyncio.Task[Any]: ...


class Hold:
    """Credits set aside while a block runs. How the block ends decides how the hold does:

    - `commit(response)` charges what the response states; the rest returns to the account.
    - After `stream(iterator)` nothing more is needed: the stream's usage is committed. A stream that ended without one is committed as
      counted, ESTIMATED; one that was cut off or stopped, PARTIAL.
    - An exception or a cancellation commits what is known, PARTIAL. If nothing is (no chunk has come, nothing was reported or
      committed), the call was not made, and all of it returns.
    - A block that ends without a word: a feature, a rate or credits are charged as they were held. A model call of which nothing is
      known is charged by the last report or else by the whole hold, and MissingUsageError is raised: a finished call is never free.

    While the block runs, the hold is extended before it expires.
    """

    def __init__(self, meter: Connection, request: metering_pb2.ReserveRequest) -> None:
        self._meter = meter
        self._holding = holding.Holding(request=request, hold=None)
        self._has_entered = False
        self._settlement: types_pb2.Settlement | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._extend_until_s = 0.0
        self._report: asyncio.Task[Any] | None = None
        self._sources: list[Stream[Any]] = []

    # ---- what there is

    @property
    def hold_id(self) -> str:
        """The hold's id: a UUIDv7, with a signature once it is made. A Commit or Release by other means takes it."""
        return self._holding.hold_id

    @property
    def is_metered(self) -> bool:
        """False if nothing was set aside, because meterd could not be reached and on_undecided is "allow"."""
        return self._holding.hold is not None

    @property
    def amount_micros(self) -> int:
        """What is set aside."""
        return self._holding.amount_micros

    @property
    def max_output_tokens(self) -> int:
        """Output tokens that the hold covers: ask the provider for no more."""
        return self._holding.max_output_tokens

    @property
    def stopped(self) -> bool:
        """Whether not one more output token is covered."""
        return self._holding.is_stopped

    @property
    def settlement(self) -> types_pb2.Settlement | None:
        """What the hold came to; None before its end, and while its end waits in the spool."""
        return self._settlement

    # ---- the block

    async def __aenter__(self) -> Self:
        if self._has_entered:
            raise RuntimeError("a hold is entered once; make another for another call")
        self._has_entered = True
        request, settings, begin_s = self._holding.request, self._meter.settings, time.monotonic()
        try:
            answer = await self._meter.call("Reserve", request, settings.timeout_s, request.hold_id)
        except asyncio.CancelledError:
            self._meter.run(self._undo())
            raise
        except errors.UndecidedError:
            if settings.on_undecided == "deny":
                raise
            return self
        self._holding.hold = wire.granted(answer)
        self._holding.report_s = begin_s
        self._extend_until_s = begin_s + holding.EXTENDED_MAX_S
        self._extend_later(time.monotonic() - begin_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        self._stop_timers()
        if fault is None:
            await self._leave(failed=False)
            return
        # A task of its own: a cancelled caller may be cancelled at each of its awaits.
        leaving = self._meter.run(self._leave(failed=True))
        try:
            await asyncio.shield(leaving)
        except errors.MeterError:
            # Said by the log. What is raised is the block's own fault.
            pass

    async def _leave(self, *, failed: bool) -> None:
        await self._close_sources()
        if self._holding.phase is not holding.Phase.OPEN:
            return
        ending, is_missing = self._holding.leaving(failed=failed)
        try:
            await self._end(ending)
        except errors.InvalidArgumentError:
            if not self._holding.is_model:
                raise
            await self._end(self._holding.leaving_otherwise())
        if is_missing:
            raise errors.MissingUsageError(self._settlement)

    async def _undo(self) -> None:
        """Gives back what a Reserve may have set aside whose caller was cancelled."""
        request = self._holding.request
        answer = await self._meter.call("Reserve", request, self._meter.settings.timeout_s, request.hold_id)
        if answer.WhichOneof("outcome") == "hold":
            release = metering_pb2.ReleaseRequest(hold_id=answer.hold.hold_id, reason="cancelled while reserving")
            await self._meter.settle(release)

    # ---- the end

    async def commit(
        self, used: object = None, *, quantity: requests.Quantity | None = None
    ) -> types_pb2.Settlement | None:
        """Charges what was used, and returns the rest: an OpenAI, Anthropic or Gemini response (SDK object or dict) or a Usage.

        Without it, what the streams told, or the held amount of a feature, a rate (or its real `quantity`) or credits. A response that
        states no usage is charged by the last report or the whole hold. A repeat answers the same settlement and sends nothing.
        None: meterd was not reached, and the spool delivers it. Without a spool that is UndecidedError.
        """
        if self._holding.phase is not holding.Phase.OPEN:
            return self._settlement
        held = self._holding
        ending = held.committing(used) if quantity is None else held.committing_quantity(quantity)
        await self._end(ending)
        return self._settlement

    async def release(self, reason: str = "") -> types_pb2.Settlement | None:
        """Returns everything: for a call that was not made. A repeat answers the same settlement and sends nothing."""
        if self._holding.phase is holding.Phase.OPEN:
            await self._end(self._holding.releasing(reason))
        return self._settlement

    async def _end(self, ending: holding.Ending | None) -> None:
        self._stop_timers()
        held = self._holding
        held.phase = holding.Phase.ENDING
        try:
            if isinstance(ending, metering_pb2.ChargeRequest):
                await self._meter.spool_late(ending)
            elif ending is not None:
                self._settlement = await self._meter.settle(ending)
        except errors.RefusedError:
            # Nothing was written: the block may still end it another way.
            held.phase = holding.Phase.OPEN
            raise
        held.phase = holding.Phase.ENDED

    # ---- progress

    async def report(self, used: object) -> bool:
        """Tells what was used so far, in all: a Usage or a response. Whether to go on; also while meterd cannot be reached.

        For what `stream` does not see, such as an agent's several calls: it is what the hold is committed with if the block then fails.
        """
        self._holding.reported = bodies.reported(used)
        if self._holding.hold is not None and self._holding.phase is holding.Phase.OPEN:
            await self._send_report()
        return not self.stopped

    def stream(self, source: AsyncIterable[T], *, on_stop: wire.OnStop = "end") -> Stream[T]:
        """The same chunks; meterd hears of the output while it comes, and the hold ends by what they tell when the block ends.

        `source` is a provider's stream: of OpenAI (ask for stream_options={"include_usage": True}), Anthropic or Gemini, as SDK objects or
        dicts. When nothing more is covered the source is closed, and the iteration ends (`stopped` is true) or raises StoppedError.
        """
        progress = streams.Progress()
        self._holding.streams.append(progress)
        stream = Stream(self, source, progress, on_stop)
        self._sources.append(stream)
        return stream

    def progressed(self) -> None:
        """For Stream: a chunk was read."""
        self._holding.check_covered()
        if (self._report is None or self._report.done()) and self._holding.wants_report(time.monotonic()):
            self._report = self._meter.run(self._send_report())

    async def _send_report(self) -> None:
        request = self._holding.report_request()
        try:
            answer = await self._meter.call("Report", request, self._meter.settings.attempt_timeout_s)
        except holding.REPORT_LOST:
            return
        self._holding.advise(request, answer)

    async def _close_sources(self) -> None:
        for source in self._sources:
            with contextlib.suppress(Exception):
                await source.aclose()

    # ---- time

    def _extend_later(self, since_s: float) -> None:
        delay_s = max(0.0, self._holding.request.ttl_ms / 1000 * holding.EXTEND_AT_SHARE - since_s)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._extend)

    def _extend(self) -> None:
        if self._holding.phase is holding.Phase.OPEN and time.monotonic() < self._extend_until_s:
            self._meter.run(self._send_extend())

    async def _send_extend(self) -> None:
        request = metering_pb2.ExtendRequest(hold_id=self.hold_id, ttl_ms=self._holding.request.ttl_ms)
        begin_s, rest_s = time.monotonic(), self._holding.request.ttl_ms / 1000 * (1 - holding.EXTEND_AT_SHARE)
        try:
            await self._meter.call("Extend", request, rest_s)
        except errors.UndecidedError:
            # Perhaps the hold is gone by now, perhaps it was extended without an answer: the next try knows.
            begin_s -= self._holding.request.ttl_ms / 1000
        if self._holding.phase is holding.Phase.OPEN:
            self._extend_later(time.monotonic() - begin_s)

    def _stop_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Stream(Generic[T]):
    """A provider's stream that is metered. Closing it closes the provider's."""

    def __init__(self, hold: Hold, source: AsyncIterable[T], progress: streams.Progress, on_stop: wire.OnStop) -> None:
        self._hold = hold
        self._source = source
        self._iterator: AsyncIterator[T] | None = None
        self._progress = progress
        self._on_stop = on_stop
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        if self._hold.stopped:
            await self.aclose()
            if self._on_stop == "raise":
                raise errors.StoppedError("the account cannot pay for more output")
            raise StopAsyncIteration
        if self._iterator is None:
            self._iterator = aiter(self._source)
        try:
            chunk = await anext(self._iterator)
        except StopAsyncIteration:
            self._is_over = self._progress.is_exhausted = True
            raise
        self._progress.observe(chunk)
        self._hold.progressed()
        return chunk

    async def aclose(self) -> None:
        """Closes the provider's stream, if it is open; a repeat does nothing."""
        if self._is_over:
            return
        self._is_over = True
        for owner in (self._source, self._iterator):
            for name in ("aclose", "close"):
                method: Any = getattr(owner, name, None)
                if callable(method):
                    closing = method()
                    if asyncio.iscoroutine(closing) or isinstance(closing, asyncio.Future):
                        await closing
                    return
