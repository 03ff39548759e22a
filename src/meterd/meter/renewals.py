"""The renewer: periods that turn, transfers whose gift is still to be made, achievements that were reached.

Nothing depends on its being in time: allowances are granted a day ahead, and expire by themselves. Every step holds its account's row
and asks first what is done already, so any number of servers may do the same, one after the other or at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, periods
from meterd.meter import catalogs, hydration, movements, subscriptions
from meterd.postgres import movements as stored
from meterd.postgres import plans

_log = logging.getLogger(__name__)

POLL_S = 1.0
RETRY_S = 2.0
# At the first of a month all of a tenant's subscriptions are due at once. A round takes a second or two, then others' have their turn.
BATCH_MAX = 100
# An allowance that does not fit into its wallet, or an account whose row is locked, is tried again after this time.
POSTPONE_MS = 60_000
# Looking for transfers and achievements reads more than it finds.
SEARCH_INTERVAL_S = 5.0
# Longer than any outage of the workers that nobody notices. The months of the ledger before it are not read.
TRANSFERS_SINCE_MS = 35 * periods.DAY_MS
ACHIEVERS_MAX = 500
# What is missing is looked for among what Postgres got since the last search. Among everything, which reads each transfer of these days, or
# each account of the tenant: once in this process, or for a reward that is new to it, and as a net under it all.
SEARCH_ALL_INTERVAL_S = 3_600.0
# Rows are seen when their flush ends, and dated when it began: hardly one takes so long, and the hourly search finds what is left.
FLUSH_S_MAX = 10.0
# What could not be done is looked for again; for as long, if it came lately.
UNSERVED_S_MAX = 300.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Since the start: steps done by kind, and those that failed and will be tried again."""

    renewed: int
    gifts: int
    achievements: int
    failed: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """When gifts or achievers were looked for last, and among all; the clock's seconds."""

    last_s: float
    all_s: float


class Renewer:
    """`run` as a background task, beside the projector."""

    def __init__(
        self,
        connections: asyncpg.Pool,
        *,
        subscriptions_: subscriptions.Subscriptions,
        movements_: movements.Movements,
        catalogs_: catalogs.Catalogs,
        clock_ms: Callable[[], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._subscriptions = subscriptions_
        self._movements = movements_
        self._catalogs = catalogs_
        self._clock_ms = clock_ms
        self._clock_s = clock_s
        self._searched_s = float("-inf")
        self._gift_search: _Search | None = None
        # By tenant, reward and what it takes.
        self._searches: dict[tuple[str, str, int], _Search] = {}
        self._renewed = self._gifts = self._achievements = self._failed = 0

    def stats(self) -> Stats:
        return Stats(renewed=self._renewed, gifts=self._gifts, achievements=self._achievements, failed=self._failed)

    async def round(self) -> int:
        """One batch of what is due; answers how many steps it did. Postgres' being away passes through."""
        done = await self._renew()
        if self._clock_s() - self._searched_s >= SEARCH_INTERVAL_S:
            done += await self.search()
            self._searched_s = self._clock_s()
        return done

    async def _renew(self) -> int:
        now_ms = self._clock_ms()
        found = await plans.due(self._connections, now_ms=now_ms, count_max=BATCH_MAX)
        for due in found:
            name = f"subscription {due.subscription_id}"
            if await self._done(name, self._subscriptions.renew(due)):
                self._renewed += 1
            else:
                await plans.postpone(self._connections, due, until_ms=now_ms + POSTPONE_MS)
        return len(found)

    async def _done(self, name: str, work: Awaitable[object]) -> bool:
        """Whether the step succeeded. One that does not is for later, and does not keep the others from their turn."""
        try:
            await work
        except (errors.MeterdError, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as exc:
            self._failed += 1
            _log.warning("%s waits: %s", name, exc)
            return False
        return True

    async def search(self) -> int:
        """Makes the gifts that are missing, and grants achievements that were reached; answers how many."""
        return await self._make_gifts() + await self._grant_achievements()

    async def _make_gifts(self) -> int:
        since_ms, now_s = self._clock_ms() - TRANSFERS_SINCE_MS, self._clock_s()
        within_s = _within_s(self._gift_search, now_s)
        missing = await stored.ungifted(self._connections, since_ms=since_ms, count_max=BATCH_MAX, within_s=within_s)
        done = 0
        for found in missing:
            work = self._movements.gift(found.tenant_id, found.address, found.txn)
            if await self._done(f"gift of transfer {found.txn}", work):
                done += 1
        self._gifts += done
        if len(missing) < BATCH_MAX or not done:
            self._gift_search = _searched(self._gift_search, now_s, within_s, unserved=done < len(missing))
        return done

    async def _grant_achievements(self) -> int:
        done = 0
        rewards = [
            (tenant_id, reward)
            for tenant_id, sold in self._catalogs.all()
            for reward in sold.rewards
            if reward.lifetime_spent_micros
        ]
        for tenant_id, reward in rewards:
            done += await self._grant_achievement(tenant_id, reward)
        kept = {_search_key(tenant_id, reward) for tenant_id, reward in rewards}
        self._searches = {key: search for key, search in self._searches.items() if key in kept}
        self._achievements += done
        return done

    async def _grant_achievement(self, tenant_id: str, reward: offers.Reward) -> int:
        key, now_s = _search_key(tenant_id, reward), self._clock_s()
        search = self._searches.get(key)
        within_s = _within_s(search, now_s)
        accounts = await stored.reached(
            self._connections, tenant_id, reward, count_max=ACHIEVERS_MAX, within_s=within_s
        )
        done = 0
        for account_id in accounts:
            work = self._movements.achieve(tenant_id, account_id, reward)
            if await self._done(f"reward {reward.reward_id} of {account_id}", work):
                done += 1
        # If there are more, the next search is the same again.
        if len(accounts) < ACHIEVERS_MAX or not done:
            self._searches[key] = _searched(search, now_s, within_s, unserved=done < len(accounts))
        return done

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until `stop`. Outages are retried for ever."""
        told = ""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                if await self.round() >= BATCH_MAX:
                    continue
                told = ""
            except hydration.POSTGRES_ERRORS as exc:
                pause_s = RETRY_S
                text = f"{type(exc).__name__}: {exc}"
                if text != told:
                    _log.warning("renewals failed, retrying: %s", text)
                told = text
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                pass


def _search_key(tenant_id: str, reward: offers.Reward) -> tuple[str, str, int]:
    return tenant_id, reward.reward_id, reward.lifetime_spent_micros


def _within_s(search: _Search | None, now_s: float) -> float | None:
    """How far back the next search looks; None: among all."""
    if search is None or now_s - search.all_s >= SEARCH_ALL_INTERVAL_S:
        return None
    return now_s - search.last_s + FLUSH_S_MAX


def _searched(search: _Search | None, now_s: float, within_s: float | None, *, unserved: bool) -> _Search:
    """After a search that began at `now_s`; `unserved`: some of what it found could not be done."""
    if search is None or within_s is None:
        late_s = SEARCH_ALL_INTERVAL_S - UNSERVED_S_MAX if unserved else 0.0
        return _Search(last_s=now_s, all_s=now_s - late_s)
    last_s = max(search.last_s, now_s - UNSERVED_S_MAX) if unserved else now_s
    return dataclasses.replace(search, last_s=last_s)
