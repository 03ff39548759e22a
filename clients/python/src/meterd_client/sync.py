"""The client for code without asyncio: the same calls and rules as Meter and Hold, and it may be shared by threads."""

from __future__ import annotations

import logging
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, cast

import grpc

from meterd_client import bodies, clock, errors, holding, requests, retries, spool, streams, wire
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2

T = TypeVar("T")
_log = logging.getLogger(__name__)


class SyncMeter:
    """As Meter, for threads. `with` it, or `close` it. A process that forks makes it after the fork."""

    def __init__(
        self,
        target: str,
        *,
        key: str = "",
        tls: wire.Tls = None,
        timeout_s: float = wire.TIMEOUT_S,
        settle_timeout_s: float = wire.SETTLE_TIMEOUT_S,
        attempt_timeout_s: float = wire.ATTEMPT_TIMEOUT_S,
        on_undecided: wire.OnUndecided = "deny",
        spool: pathlib.Path | str | spool.Spool | None = None,
    ) -> None:
        """See Meter. Connects, and begins to deliver what the spool holds from before."""
        self._settings = wire.settings(
            target,
            key=key,
            tls=tls,
            timeout_s=timeout_s,
            settle_timeout_s=settle_timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            on_undecided=on_undecided,
            spool_=spool,
        )
        self._metadata = self._settings.metadata
        credentials = wire.credentials(target, tls)
        self._channel = (
            grpc.insecure_channel(target, options=wire.OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=wire.OPTIONS)
        )
        self._methods: dict[str, Any] = {
            name: self._channel.unary_unary(
                path, request_serializer=wire.encoded, response_deserializer=answer.FromString
            )
            for name, (path, answer) in wire.METHODS.items()
        }
        self._closing = threading.Event()
        self.clock = clock.Clock("meterd holds")
        # Of its own: a delivery that waits for meterd must not keep holds from being extended.
        self._deliveries = clock.Clock("meterd spool")
        if self._settings.spool is not None:
            self._replay(self._settings.spool, is_first=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. A repeat does nothing."""
        self._closing.set()
        self.clock.close()
        self._deliveries.close()
        self._channel.close()
        if self._settings.spool is not None and self._settings.owns_spool:
            self._settings.spool.close()

    def hold(self, account: str, **options: Unpack[requests.HoldOptions]) -> SyncHold:
        """`with meter.hold(…) as hold:`; as Meter.hold."""
        request = requests.reserve(account, options)
        wire.check_expiry(self._settings, request)
        return SyncHold(self, request)

    def charge(self, account: str, **options: Unpack[requests.ChargeOptions]) -> types_pb2.Settlement | None:
        """As Meter.charge."""
        request = requests.charge(account, options)
        try:
            return wire.settled(self.call("Charge", request, self._settings.timeout_s, request.idempotency_key))
        except errors.UndecidedError:
            if self._settings.on_undecided == "deny":
                raise
            self.spool_late(request)
            return None

    def estimate(self, account: str = "", **options: Unpack[requests.ItemOptions]) -> metering_pb2.EstimateResponse:
        """As Meter.estimate."""
        return self.call("Estimate", requests.estimate(account, options), self._settings.timeout_s)

    def balance(self, account: str) -> accounts_pb2.GetBalanceResponse:
        """As Meter.balance."""
        request = accounts_pb2.GetBalanceRequest(account_id=account)
        return self.call("GetBalance", request, self._settings.timeout_s)

    # ---- for SyncHold

    @property
    def settings(self) -> wire.Settings:
        return self._settings

    def call(self, name: str, request: Any, timeout_s: float, id: str = "") -> Any:
        """The answer, after as many tries as fit into the time."""
        method, now_s = self._methods[name], time.monotonic()
        attempts = retries.Attempts(deadline_s=now_s + timeout_s, attempt_timeout_s=self._settings.attempt_timeout_s)
        while True:
            try:
                return method(request, metadata=self._metadata, timeout=attempts.timeout_s(now_s))
            except grpc.RpcError as fault:
                # A call that failed is its own error.
                call = cast(grpc.Call, fault)
                delay_s = attempts.delay_s(call.code(), call.trailing_metadata(), time.monotonic())
                # A closed meter cancels its calls: that is no fault of the server.
                if delay_s is None or self._closing.wait(delay_s):
                    raise errors.of_status(call.code(), call.details() or "", id) from fault
            now_s = time.monotonic()

    def begin(self, name: str, request: Any, timeout_s: float, answered: Callable[[Any], None]) -> None:
        """One try, for which nobody waits; `answered` hears of its answer or its grpc.RpcError, in a thread of gRPC's."""
        future: Any = self._methods[name].future(request, metadata=self._metadata, timeout=timeout_s)
        future.add_done_callback(lambda done: answered(None if done.cancelled() else done.exception() or done.result()))

    def settle(self, ending: holding.Ending) -> types_pb2.Settlement | None:
        """Ends a hold. None: it is in the spool, which goes on trying."""
        entry, kept = wire.entry(ending), self._settings.spool
        is_kept = kept is not None and self._put(kept, entry)
        timeout_s = self._settings.timeout_s if is_kept else self._settings.settle_timeout_s
        try:
            settlement = wire.settled(self.call(entry.method, entry.request, timeout_s, entry.id))
        except errors.MeterError as fault:
            if kept is None or not is_kept:
                raise
            if wire.is_final(fault):
                kept.remove(entry.id)
                raise
            self._keep(kept, entry.id)
            if isinstance(fault, errors.UndecidedError):
                return None
            raise
        if kept is not None and is_kept:
            kept.remove(entry.id)
        return settlement

    def spool_late(self, request: metering_pb2.ChargeRequest) -> None:
        """Leaves a charge to the spool. SpoolFullError if it takes no more."""
        kept, entry = self._settings.spool, wire.entry(request)
        assert kept is not None
        kept.put(entry)
        self._keep(kept, entry.id)

    # ---- the spool

    def _put(self, kept: spool.Spool, entry: spool.Entry) -> bool:
        try:
            kept.put(entry)
        except (errors.SpoolFullError, sqlite3.Error) as exc:
            _log.error("the spool does not take the %s of %s: %s", entry.method, entry.id, exc)
            return False
        return True

    def _keep(self, kept: spool.Spool, id: str) -> None:
        kept.keep(id)
        self._deliveries.after(spool.DELAY_FIRST_MS / 1000, lambda: self._deliver_all(kept, kept.due()))

    def _replay(self, kept: spool.Spool, *, is_first: bool) -> None:
        """Delivers what is due, at first all there is, and again after a while."""

        def run() -> None:
            try:
                self._deliver_all(kept, kept.due(all_entries=is_first))
            except sqlite3.Error as exc:
                _log.error("the spool cannot be used: %s", exc)
            self._replay(kept, is_first=False)

        self._deliveries.after(0.0 if is_first else wire.SPOOL_INTERVAL_S, run)

    def _deliver_all(self, kept: spool.Spool, entries: Sequence[spool.Entry]) -> None:
        """Sends entries one after the other, until one cannot be decided."""
        for number, entry in enumerate(entries):
            try:
                wire.settled(self.call(entry.method, entry.request, self._settings.attempt_timeout_s, entry.id))
            except errors.MeterError as fault:
                if wire.is_final(fault):
                    kept.refuse(entry, str(fault))
                    continue
                kept.defer(entries[number + 1 :])
                self._keep(kept, entry.id)
                return
            kept.remove(entry.id)


class SyncHold:
    """As Hold, for a `with` block in one thread."""

    def __init__(self, meter: SyncMeter, request: metering_pb2.ReserveRequest) -> None:
        self._meter = meter
        self._holding = holding.Holding(request=request, hold=None)
        self._has_entered = False
        self._settlement: types_pb2.Settlement | None = None
        self._timer: clock.Timer | None = None
        self._extend_until_s = 0.0
        self._is_reporting = False
        self._sources: list[SyncStream[Any]] = []

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

    def __enter__(self) -> Self:
        if self._has_entered:
            raise RuntimeError("a hold is entered once; make another for another call")
        self._has_entered = True
        request, settings, begin_s = self._holding.request, self._meter.settings, time.monotonic()
        try:
            answer = self._meter.call("Reserve", request, settings.timeout_s, request.hold_id)
        except errors.UndecidedError:
            if settings.on_undecided == "deny":
                raise
            return self
        self._holding.hold = wire.granted(answer)
        self._holding.report_s = begin_s
        self._extend_until_s = begin_s + holding.EXTENDED_MAX_S
        self._extend_later(time.monotonic() - begin_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        if self._timer is not None:
            self._meter.clock.cancel(self._timer)
        if fault is None:
            self._leave(failed=False)
            return
        try:
            self._leave(failed=True)
        except errors.MeterError as exc:
            # What is raised is the block's own fault.
            _log.warning("the end of hold %s: %s", self.hold_id, exc)

    def _leave(self, *, failed: bool) -> None:
        for source in self._sources:
            source.close_quietly()
        if self._holding.phase is not holding.Phase.OPEN:
            return
        ending, is_missing = self._holding.leaving(failed=failed)
        try:
            self._end(ending)
        except errors.InvalidArgumentError:
            if not self._holding.is_model:
                raise
            self._end(self._holding.leaving_otherwise())
        if is_missing:
            raise errors.MissingUsageError(self._settlement)

    def commit(self, used: object = None, *, quantity: requests.Quantity | None = None) -> types_pb2.Settlement | None:
        """As Hold.commit."""
        held = self._holding
        if held.phase is holding.Phase.OPEN:
            self._end(held.committing(used) if quantity is None else held.committing_quantity(quantity))
        return self._settlement

    def release(self, reason: str = "") -> types_pb2.Settlement | None:
        """As Hold.release."""
        if self._holding.phase is holding.Phase.OPEN:
            self._end(self._holding.releasing(reason))
        return self._settlement

    def _end(self, ending: holding.Ending | None) -> None:
        held = self._holding
        held.phase = holding.Phase.ENDING
        try:
            if isinstance(ending, metering_pb2.ChargeRequest):
                self._meter.spool_late(ending)
            elif ending is not None:
                self._settlement = self._meter.settle(ending)
        except errors.RefusedError:
            # Nothing was written: the block may still end it another way.
            held.phase = holding.Phase.OPEN
            raise
        held.phase = holding.Phase.ENDED

    def report(self, used: object) -> bool:
        """As Hold.report."""
        self._holding.reported = bodies.reported(used)
        if self._holding.hold is not None and self._holding.phase is holding.Phase.OPEN:
            request = self._holding.report_request()
            try:
                answer = self._meter.call("Report", request, self._meter.settings.attempt_timeout_s)
            except holding.REPORT_LOST:
                return not self.stopped
            self._holding.advise(request, answer)
        return not self.stopped

    def stream(self, source: Iterable[T], *, on_stop: wire.OnStop = "end") -> SyncStream[T]:
        """As Hold.stream."""
        progress = streams.Progress()
        self._holding.streams.append(progress)
        stream = SyncStream(self, source, progress, on_stop)
        self._sources.append(stream)
        return stream

    def progressed(self) -> None:
        """For SyncStream: a chunk was read."""
        self._holding.check_covered()
        if self._is_reporting or not self._holding.wants_report(time.monotonic()):
            return
        request, self._is_reporting = self._holding.report_request(), True

        def answered(answer: object) -> None:
            if isinstance(answer, metering_pb2.ReportResponse):
                self._holding.advise(request, answer)
            self._is_reporting = False

        self._meter.begin("Report", request, self._meter.settings.attempt_timeout_s, answered)

    def _extend_later(self, since_s: float) -> None:
        delay_s = max(0.0, self._holding.request.ttl_ms / 1000 * holding.EXTEND_AT_SHARE - since_s)
        self._timer = self._meter.clock.after(delay_s, self._extend)

    def _extend(self) -> None:
        begin_s = time.monotonic()
        if self._holding.phase is not holding.Phase.OPEN or begin_s > self._extend_until_s:
            return
        ttl_s = self._holding.request.ttl_ms / 1000
        request = metering_pb2.ExtendRequest(hold_id=self.hold_id, ttl_ms=self._holding.request.ttl_ms)

        def answered(answer: object) -> None:
            if self._holding.phase is not holding.Phase.OPEN:
                return
            if isinstance(answer, metering_pb2.ExtendResponse):
                self._extend_later(time.monotonic() - begin_s)
            elif isinstance(answer, grpc.RpcError) and retries.is_retried(cast(grpc.Call, answer).code()):
                # Perhaps the hold is gone by now, perhaps it was extended without an answer: the next try knows.
                self._timer = self._meter.clock.after(ttl_s * (1 - holding.EXTEND_AT_SHARE) / 4, self._extend)

        self._meter.begin("Extend", request, self._meter.settings.attempt_timeout_s, answered)


class SyncStream(Generic[T]):
    """As Stream, for a synchronous iterator. Closing it closes the provider's."""

    def __init__(self, hold: SyncHold, source: Iterable[T], progress: streams.Progress, on_stop: wire.OnStop) -> None:
        self._hold = hold
        self._source = source
        self._iterator: Iterator[T] | None = None
        self._progress = progress
        self._on_stop = on_stop
        self._is_over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._is_over:
            raise StopIteration
        if self._hold.stopped:
            self.close()
            if self._on_stop == "raise":
                raise errors.StoppedError("the account cannot pay for more output")
            raise StopIteration
        if self._iterator is None:
            self._iterator = iter(self._source)
        try:
            chunk = next(self._iterator)
        except StopIteration:
            self._is_over = self._progress.is_exhausted = True
            raise
        self._progress.observe(chunk)
        self._hold.progressed()
        return chunk

    def close(self) -> None:
        """Closes the provider's stream, if it is open; a repeat does nothing."""
        if self._is_over:
            return
        self._is_over = True
        for owner in (self._source, self._iterator):
            method: Any = getattr(owner, "close", None)
            if callable(method):
                method()
                return

    def close_quietly(self) -> None:
        """As `close`, where another fault is already on its way."""
        try:
            self.close()
        except Exception as exc:
            _log.info("closing the provider's stream: %s", exc)
