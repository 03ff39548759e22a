"""Whether what was decided in Postgres has reached Redis."""

from __future__ import annotations

from meterd.core import errors
from meterd.meter import hydration, projector
from meterd.postgres import catalog
from meterd.redis import ledger as redis_ledger


class Reach:
    """Brings an account's changes to Redis right after they were decided, and tells whether it succeeded."""

    def __init__(
        self, *, projector_: projector.Projector, store: redis_ledger.RedisLedger, catalog_: catalog.Catalog
    ) -> None:
        self._projector = projector_
        self._store = store
        self._catalog = catalog_

    async def reach(self, tenant_id: str, address: str) -> bool:
        """True if the hot path has all changes of the account. Otherwise the projector's rounds bring them, as soon as they can."""
        try:
            with hydration.postgres():
                decided = await self._catalog.change_no(tenant_id, address)
            await self._projector.project(address)
            state = await self._store.account(address)
        except errors.MeterdError:
            return False
        # An account that Redis does not have is loaded with all of its changes.
        return state is None or state.change_no >= decided
