"""Watch: an account's balance, now and after each change, to many at once.

Each change of a balance, a Reserve's too, rewrites the account in Redis. So one loop reads the watched accounts, all in one batch, and
tells of those that differ from what it read before. What happens between two rounds is told as one change. A client that does not read
gets the latest balance when it does: nothing is kept for it but that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from meterd.core import errors, ids
from meterd.redis import keys, runner
from meterd.server import auth, handler, methods
from meterd_client.v1 import accounts_pb2

_log = logging.getLogger(__name__)

# A person does not see a shorter delay, and Redis spends a microsecond on each account that is watched.
POLL_S = 0.25
# Balances that are told within it are told anew, so that what only time changes (a grant's expiry) is seen, and dead connections are.
KEEP_ALIVE_S = 30.0
# Each some 30 KB, and a read of Redis four times a second.
WATCHERS_MAX = 1_000
# Balances read at once: they share the connections to Postgres with the calls.
READS_MAX = 4

# GetBalance, as the table of methods has it.
Balance = Callable[[str, Any], Awaitable[Any]]


class _Topic:
    """One account that is watched, by one or by many."""

    def __init__(self, tenant_id: str, account_id: str, key: str) -> None:
        self.tenant_id = tenant_id
        self.account_id = account_id
        self.key = key
        # As Redis had the account in the last round; None: not read yet, or to be read again.
        self.seen: bytes | None = None
        self.watchers: set[_Watcher] = set()
        self.is_read = False


class _Watcher:
    """One open stream: what it is to be told next, if anything."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata
        self.latest: accounts_pb2.GetBalanceResponse | None = None
        self.wake = asyncio.Event()


class Watches:
    """The handler of Watch. `run` its loop as a task."""

    def __init__(
        self,
        *,
        run: runner.Runner,
        partitions: int,
        balance: Balance,
        authenticator: auth.Authenticator,
        poll_s: float = POLL_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        watchers_max: int = WATCHERS_MAX,
    ) -> None:
        self._run = run
        self._partitions = partitions
        self._balance = balance
        self._authenticator = authenticator
        self._roles = auth.roles_of(methods.WATCH)
        self._poll_s = poll_s
        self.keep_alive_s = keep_alive_s
        self.watchers_max = watchers_max
        self._topics: dict[str, _Topic] = {}
        self._some = asyncio.Event()
        self._reads = asyncio.Semaphore(READS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.open_count = 0

    @property
    def topic_count(self) -> int:
        """How many accounts are watched."""
        return len(self._topics)

    def drain(self) -> None:
        """Ends all streams, and refuses new ones."""
        self._draining = True
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.wake.set()

    async def handle(self, data: bytes, rpc: Any) -> None:
        """One stream, until the client ends it."""
        self.open_count += 1
        try:
            await self._watch(data, rpc)
        except errors.MeterdError as exc:
            code, message = handler.status(exc)
            await rpc.abort(code, message)
        finally:
            self.open_count -= 1

    async def _watch(self, data: bytes, rpc: Any) -> None:
        principal = await handler.admitted(self._authenticator, rpc, self._roles)
        if self.open_count > self.watchers_max:
            raise errors.OverloadedError(f"{self.watchers_max} streams watch balances; retry later")
        try:
            request = accounts_pb2.WatchRequest.FromString(data)
        except DecodeError as exc:
            raise errors.InvalidArgumentError("request", "not a WatchRequest") from exc
        account_id = ids.checked_id(request.account_id, "account_id")
        watcher = _Watcher(rpc.invocation_metadata())
        # Before the first read, so that no change is missed between the two.
        topic = self._join(principal.tenant_id, account_id, watcher)
        try:
            await self._tell(topic, watcher, rpc)
        finally:
            self._leave(topic, watcher)

    def _join(self, tenant_id: str, account_id: str, watcher: _Watcher) -> _Topic:
        address = ids.account_address(tenant_id, account_id)
        topic = self._topics.get(address)
        if topic is None:
            key = keys.account(ids.partition_of(address, self._partitions), address)
            topic = self._topics[address] = _Topic(tenant_id, account_id, key)
        topic.watchers.add(watcher)
        self._some.set()
        return topic

    def _leave(self, topic: _Topic, watcher: _Watcher) -> None:
        topic.watchers.discard(watcher)
        if not topic.watchers:
            del self._topics[ids.account_address(topic.tenant_id, topic.account_id)]

    async def _tell(self, topic: _Topic, watcher: _Watcher, rpc: Any) -> None:
        """Writes the balance, and then each that differs from the last one."""
        told = await self._read(topic)
        await rpc.write(told.SerializeToString())
        while True:
            try:
                async with asyncio.timeout(self.keep_alive_s):
                    await watcher.wake.wait()
            except TimeoutError:
                # If it cannot be read, the client must not take the last one for the present one.
                watcher.latest = await self._read(topic)
                told = None
            watcher.wake.clear()
            if self._draining:
                raise errors.UnavailableError("the server is stopping; watch anew")
            await handler.admitted(self._authenticator, rpc, self._roles)
            latest, watcher.latest = watcher.latest, None
            if latest is not None and (told is None or _differs(latest, told)):
                told = latest
                await rpc.write(told.SerializeToString())

    async def _read(self, topic: _Topic) -> accounts_pb2.GetBalanceResponse:
        async with self._reads:
            request = accounts_pb2.GetBalanceRequest(account_id=topic.account_id)
            return await self._balance(topic.tenant_id, request)

    async def run(self, stop: asyncio.Event) -> None:
        """Looks at the watched accounts until `stop`. While Redis is away nothing is told."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                if not self._topics:
                    self._some.clear()
                    some = asyncio.ensure_future(self._some.wait())
                    await asyncio.wait((some, stopped), return_when=asyncio.FIRST_COMPLETED)
                    some.cancel()
                try:
                    await self._round()
                except errors.MeterdError as exc:
                    _log.debug("watch: %s", exc)
                await asyncio.wait((stopped,), timeout=self._poll_s)
        finally:
            stopped.cancel()
            for task in self._tasks:
                task.cancel()

    async def _round(self) -> None:
        topics = list(self._topics.values())
        found = await asyncio.gather(*(self._run.command(("HGET", topic.key, "c")) for topic in topics))
        for topic, account in zip(topics, found, strict=True):
            self._check_keys(topic)
            # None: Redis does not have it, and the read loads it.
            if (account is None or account != topic.seen) and not topic.is_read:
                topic.seen = account
                topic.is_read = True
                task = asyncio.create_task(self._spread(topic))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _check_keys(self, topic: _Topic) -> None:
        """Wakes those whose key is not known any more: it was revoked, or has expired."""
        for watcher in topic.watchers:
            if self._authenticator.principal(watcher.metadata) is None:
                watcher.wake.set()

    async def _spread(self, topic: _Topic) -> None:
        """Reads the balance once for all who watch it."""
        try:
            balance = await self._read(topic)
        except Exception as exc:
            handler.status(exc)
            # The next round tries again.
            topic.seen = None
        else:
            for watcher in topic.watchers:
                watcher.latest = balance
                watcher.wake.set()
        finally:
            topic.is_read = False


def _differs(one: accounts_pb2.GetBalanceResponse, other: accounts_pb2.GetBalanceResponse) -> bool:
    """Whether anything differs but the freshness, which time alone changes."""
    if one.freshness_ms == other.freshness_ms:
        return one != other
    same = accounts_pb2.GetBalanceResponse()
    same.CopyFrom(one)
    same.freshness_ms = other.freshness_ms
    return same != other
