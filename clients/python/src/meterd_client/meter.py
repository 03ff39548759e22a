"""The asynchronous client."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import sqlite3
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from meterd_client import errors, hold, holding, requests, retries, spool, wire
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Meter:
    """A connection to meterd, for one event loop: make one and share it. `async with` it, or `close` it.

    All calls carry an id that the client makes, so a call that is tried again has one effect. They are tried again, with a growing random
    delay, after UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, a CANCELLED that the caller did not ask for, and RESOURCE_EXHAUSTED
    with a pushback, until their time is over; then UndecidedError is raised.

    target             host:port, or unix:path
    key                an API key of role "meter" (or "admin")
    tls                None: plaintext to this machine, TLS to any other. True, False, PEM roots, or channel credentials
    timeout_s          for a call with all of its tries; the end of a hold is kept by the spool after it
    settle_timeout_s   for the end of a hold if there is no spool
    attempt_timeout_s  for one try
    on_undecided       where Reserve could not be decided: "deny" raises UndecidedError; "allow" lets the block run with a hold that
                       nothing was set aside for, and charges what it used later, from the spool. A denial is never let pass
    spool              a file that keeps what could not be delivered, across processes; see Spool. Its folder must be there
    """

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
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._replaying: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begins to deliver what the spool holds from before. The first call does it too; a repeat does nothing."""
        if self._channel is not None:
            return
        if self._is_closed:
            raise RuntimeError("the meter is closed")
        credentials = wire.credentials(self._settings.target, self._settings.tls)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(self._settings.target, options=wire.OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self._settings.target, credentials, options=wire.OPTIONS)
        for name, (path, answer) in wire.METHODS.items():
            self._methods[name] = self._channel.unary_unary(
                path, request_serializer=wire.encoded, response_deserializer=answer.FromString
            )
        if self._settings.spool is not None:
            self._replaying = asyncio.create_task(self._replay(self._settings.spool))

    async def close(self) -> None:
        """Waits for the ends of holds that are on their way, then closes the connection. A repeat does nothing."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.settle_timeout_s)
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.wait((self._replaying,))
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        if self._settings.spool is not None and self._settings.owns_spool:
            self._settings.spool.close()

    def hold(self, account: str, **options: Unpack[requests.HoldOptions]) -> hold.Hold:
        """`async with meter.hold(…) as hold:` sets credits aside while the block runs; see Hold, HoldOptions and ItemOptions.

        Entering it raises DeniedError if the account cannot pay, UndecidedError if nobody could say (see on_undecided), and
        RefusedError for a request that is wrong.
        """
        request = requests.reserve(account, options)
        wire.check_expiry(self._settings, request)
        return hold.Hold(self, request)

    async def charge(self, account: str, **options: Unpack[requests.ChargeOptions]) -> types_pb2.Settlement | None:
        """Charges without a hold: a fixed price, or usage that is known already. See ChargeOptions.

        All or nothing (DeniedError) unless overage_policy is given. None: with on_undecided="allow", the spool will deliver it.
        UndecidedError has the idempotency key for a retry.
        """
        request = requests.charge(account, options)
        try:
            return wire.settled(await self.call("Charge", request, self._settings.timeout_s, request.idempotency_key))
        except errors.UndecidedError:
            if self._settings.on_undecided == "deny":
                raise
            await self.spool_late(request)
            return None

    async def estimate(
        self, account: str = "", **options: Unpack[requests.ItemOptions]
    ) -> metering_pb2.EstimateResponse:
        """What a hold would set aside, in micro-credits, and with an account whether it would be denied, as an answer; touches nothing.

        RefusedError for a request that is wrong, UndecidedError after timeout_s.
        """
        return await self.call("Estimate", requests.estimate(account, options), self._settings.timeout_s)

    async def balance(self, account: str) -> accounts_pb2.GetBalanceResponse:
        """The live balance by wallet, in micro-credits. NotFoundError for no such account, UndecidedError after timeout_s."""
        request = accounts_pb2.GetBalanceRequest(account_id=account)
        return await self.call("GetBalance", request, self._settings.timeout_s)

    # ---- for Hold

    @property
    def settings(self) -> wire.Settings:
        return self._settings

    async def call(self, name: str, request: Any, timeout_s: float, id: str = "") -> Any:
        """The answer, after as many tries as fit into the time."""
        self.start()
        method, now_s = self._methods[name], time.monotonic()
        attempts = retries.Attempts(deadline_s=now_s + timeout_s, attempt_timeout_s=self._settings.attempt_timeout_s)
        while True:
            try:
                return await method(request, metadata=self._metadata, timeout=attempts.timeout_s(now_s))
            except grpc.aio.AioRpcError as fault:
                delay_s = attempts.delay_s(fault.code(), fault.trailing_metadata(), time.monotonic())
                if delay_s is None:
                    raise errors.of_status(fault.code(), fault.details() or "", id) from fault
            await asyncio.sleep(delay_s)
            now_s = time.monotonic()

    async def settle(self, ending: holding.Ending) -> types_pb2.Settlement | None:
        """Ends a hold. None: it is in the spool, which goes on trying. A cancelled caller does not stop it."""
        entry = wire.entry(ending)
        try:
            return await self._settle(entry)
        except asyncio.CancelledError:
            # The same bytes once more: whatever the first try has done, there is one end.
            self.run(self._settle(entry))
            raise

    async def _settle(self, entry: spool.Entry) -> types_pb2.Settlement | None:
        kept = self._settings.spool
        is_kept = kept is not None and await self._put(kept, entry)
        timeout_s = self._settings.timeout_s if is_kept else self._settings.settle_timeout_s
        try:
            settlement = wire.settled(await self.call(entry.method, entry.request, timeout_s, entry.id))
        except errors.MeterError as fault:
            if kept is None or not is_kept:
                raise
            if wire.is_final(fault):
                await asyncio.to_thread(kept.remove, entry.id)
                raise
            await asyncio.to_thread(kept.keep, entry.id)
            self._wake.set()
            if isinstance(fault, errors.UndecidedError):
                return None
            raise
        if kept is not None and is_kept:
            await asyncio.to_thread(kept.remove, entry.id)
        return settlement

    async def _put(self, kept: spool.Spool, entry: spool.Entry) -> bool:
        """Whether the spool has it now. A spool that cannot take it must not keep meterd from taking it."""
        try:
            await asyncio.to_thread(kept.put, entry)
        except (errors.SpoolFullError, sqlite3.Error) as exc:
            _log.error("the spool does not take the %s of %s: %s", entry.method, entry.id, exc)
            return False
        return True

    async def spool_late(self, request: metering_pb2.ChargeRequest) -> None:
        """Leaves a charge to the spool. SpoolFullError if it takes no more."""
        kept, entry = self._settings.spool, wire.entry(request)
        assert kept is not None
        await asyncio.to_thread(kept.put, entry)
        await asyncio.to_thread(kept.keep, entry.id)
        self._wake.set()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something that the caller does not wait for; `close` does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.warning("in the background: %s", fault)

    # ---- the spool

    async def _replay(self, kept: spool.Spool) -> None:
        """Delivers what is due, for ever; at first all there is."""
        is_first = True
        while True:
            self._wake.clear()
            try:
                await self._deliver_all(kept, await asyncio.to_thread(kept.due, all_entries=is_first))
                is_first = False
            except sqlite3.Error as exc:
                _log.error("the spool cannot be used: %s", exc)
            try:
                async with asyncio.timeout(wire.SPOOL_INTERVAL_S):
                    await self._wake.wait()
                # What woke it is due a moment later.
                await asyncio.sleep(spool.DELAY_FIRST_MS / 1000)
            except TimeoutError:
                pass

    async def _deliver_all(self, kept: spool.Spool, entries: Sequence[spool.Entry]) -> None:
        """Sends entries one after the other, until one cannot be decided."""
        for number, entry in enumerate(entries):
            try:
                wire.settled(await self.call(entry.method, entry.request, self._settings.attempt_timeout_s, entry.id))
            except errors.MeterError as fault:
                if wire.is_final(fault):
                    await asyncio.to_thread(kept.refuse, entry, str(fault))
                    continue
                await asyncio.to_thread(kept.keep, entry.id)
                await asyncio.to_thread(kept.defer, entries[number + 1 :])
                self._wake.set()
                return
            await asyncio.to_thread(kept.remove, entry.id)
