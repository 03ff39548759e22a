"""What a server remembers of holds, and what the durable ledger knows of ended ones."""

from __future__ import annotations

import collections
import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from meterd.core import ledger, values

# A Commit mostly reaches the server that reserved; what it was priced by then needs no second trip to Redis. About 40 MB when full.
CACHED_HOLDS_MAX = 50_000


@values.value
class Terms:
    """What a hold charges for and at which price version; the keys are listed in docs/ARCHITECTURE.md."""

    hold: uuid.UUID
    address: str
    terms: dict[str, Any]
    reported_micros: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Durable:
    """The flushed end of a hold or a charge. For an expired hold that was committed late: the late Commit."""

    kind: ledger.Kind
    txn: uuid.UUID
    wallet: str
    held_micros: int
    charged_micros: int
    returned_micros: int
    uncollected_micros: int
    forfeited_micros: int
    at_ms: int
    draws: Sequence[ledger.Draw]
    overage: ledger.Overage
    request_digest: bytes
    terms: dict[str, Any]
    detail: dict[str, Any]

    @property
    def state(self) -> ledger.State:
        return ledger.STATES[self.kind]


class TermsCache:
    """The terms of holds that this server reserved lately, by tenant and hold_id; the oldest leave first.

    What is found here needs no second look at its id: it was made of a hold_id that Reserve answered.
    """

    def __init__(self, count_max: int = CACHED_HOLDS_MAX) -> None:
        self._count_max = count_max
        self._by_id: collections.OrderedDict[tuple[str, str], Terms] = collections.OrderedDict()

    def put(self, tenant_id: str, terms: Terms) -> None:
        self._by_id[tenant_id, f"{terms.hold}.{terms.address}"] = terms
        if len(self._by_id) > self._count_max:
            self._by_id.popitem(last=False)

    def get(self, tenant_id: str, hold_id: str) -> Terms | None:
        return self._by_id.get((tenant_id, hold_id))

    def drop(self, tenant_id: str, hold_id: str) -> None:
        self._by_id.pop((tenant_id, hold_id), None)
