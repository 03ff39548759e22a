"""The proof that nothing was lost, doubled or made up: online, account by account, without stopping anybody.

For each partition: one snapshot of Postgres with its cursor; then accounts and open holds of Redis, one moment a batch; then the outbox
from the cursor to its end. Whatever Redis had done at its moment but Postgres had not at its own therefore stands in what is read last.
Nothing is written, and no more than a partition's outbox and one batch of accounts is kept in memory.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meterd.core import errors, ledger
from meterd.meter import fence, proof
from meterd.postgres import partitions, queries
from meterd.redis import audit, runner
from meterd.redis import ledger as redis_ledger

# One Redis transaction reads this many accounts: a few milliseconds of its time.
BATCH_ACCOUNTS_MAX = 100
# A broken installation may have as many findings as rows; the first ones tell what is wrong.
FINDINGS_MAX = 1_000
# A hold that is extended, or an entry that is trimmed, between two reads is no finding; it is looked at again.
ATTEMPTS_MAX = 4
HOLDS_AT_ONCE_MAX = 500


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was looked at, and what is wrong. `findings_count` counts those beyond the first ones too."""

    partitions: int
    accounts: int
    records: int
    records_unflushed: int
    holds_open: int
    findings: Sequence[proof.Finding]
    findings_count: int
    elapsed_s: float

    @property
    def is_proven(self) -> bool:
        return self.findings_count == 0


@dataclasses.dataclass(slots=True)
class _Tally:
    accounts: int = 0
    records: int = 0
    unflushed: int = 0
    holds: int = 0
    count: int = 0
    findings: list[proof.Finding] = dataclasses.field(default_factory=list[proof.Finding])

    def add(self, findings: Sequence[proof.Finding]) -> None:
        self.count += len(findings)
        self.findings += findings[: max(0, FINDINGS_MAX - len(self.findings))]


class _Outbox:
    """A partition's outbox behind the snapshot's cursor, read on as needed; records of accounts that are done are dropped."""

    def __init__(self, run: runner.Runner, position: partitions.Position) -> None:
        self._run = run
        self._partition = position.partition
        self._after = position.cursor
        self._done: set[str] = set()
        self.by_address: dict[str, list[ledger.Record]] = {}
        self.bad: list[tuple[str, str]] = []
        self.count = 0

    async def read_on(self) -> None:
        async for entry_id, fields in audit.entries_after(self._run, self._partition, self._after):
            self._after = entry_id
            self.count += 1
            try:
                record = redis_ledger.decode_record(entry_id, fields)
            except (KeyError, ValueError) as exc:
                self.bad.append((entry_id, f"{type(exc).__name__}: {exc}"))
                continue
            if record.address not in self._done:
                # The proof needs no terms, and the outbox may be long.
                small = dataclasses.replace(record, terms=b"", detail=b"")
                self.by_address.setdefault(record.address, []).append(small)

    def drop(self, addresses: Sequence[str]) -> None:
        self._done.update(addresses)
        for address in addresses:
            self.by_address.pop(address, None)


class Verification:
    """Proves one installation. `connection` is its own; `store` is one that no traffic uses."""

    def __init__(
        self,
        *,
        connection: Any,
        run: runner.Runner,
        store: redis_ledger.RedisLedger,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """`on_progress` hears how many more accounts were proven."""
        self._connection = connection
        self._run = run
        self._store = store
        self._on_progress = on_progress
        self._tally = _Tally()

    async def verify(self) -> Verdict:
        """Looks at everything once. UnavailableError: a store is away; asyncpg's errors pass through."""
        started_s = time.monotonic()
        await audit.load_readers(self._run, self._store)
        found = await partitions.positions(self._connection)
        for position in found:
            await self._partition(position.partition)
        await self._dead()
        tally = self._tally
        return Verdict(
            partitions=len(found),
            accounts=tally.accounts,
            records=tally.records,
            records_unflushed=tally.unflushed,
            holds_open=tally.holds,
            findings=tally.findings,
            findings_count=tally.count,
            elapsed_s=time.monotonic() - started_s,
        )

    async def _dead(self) -> None:
        count, rows = await queries.dead(self._connection, FINDINGS_MAX)
        found = [
            proof.Finding(
                partition=row["partition"],
                tenant_id=row["tenant_id"],
                account_id=row["account_id"],
                subject=f"outbox_dead {row['entry_id']}",
                check="every outbox entry became a ledger row",
                expected="a row",
                actual=f"{row['cause']}: {row['reason']}",
            )
            for row in rows
        ]
        self._tally.add(found)
        self._tally.count += count - len(found)

    async def _partition(self, partition: int) -> None:
        """One partition, in one snapshot of Postgres."""
        async with queries.snapshot(self._connection):
            # The first statement takes the snapshot, and Redis is asked after it.
            position = (await partitions.positions(self._connection))[partition]
            live = await self._is_live(position)
            outbox = _Outbox(self._run, position)
            seen: set[str] = set()
            strays: dict[str, uuid.UUID] = {}
            async for rows in queries.accounts_of(self._connection, partition, BATCH_ACCOUNTS_MAX):
                durables = await self._durables(rows)
                await self._fold(durables)
                if live:
                    strays = await self._hold_against_redis(durables, outbox)
                seen.update(durable.address for durable in durables)
                self._tally.accounts += len(durables)
                if self._on_progress is not None:
                    self._on_progress(len(durables))
            await self._tenant_sums(partition)
            if live:
                if not seen:
                    strays = _by_address((await audit.snapshot(self._run, self._store, partition, [])).deadlines)
                    await outbox.read_on()
                self._tally.unflushed += outbox.count
        if live:
            await self._leftovers(partition, outbox, seen, strays)

    async def _is_live(self, position: partitions.Position) -> bool:
        """Whether Redis carries the partition; a fenced one is a finding. One that was never armed has nothing in Redis yet."""
        self._store.sentinels[position.partition] = None
        if not position.incarnation:
            return False
        reason = await fence.disagreement(self._run, position)
        if reason is not None:
            # The flusher may have moved on meanwhile, and trimmed: only the sentinel and the stream's end are sure to be comparable.
            self._add_partition(position.partition, "Redis is the one that Postgres knows", "not fenced", reason)
            return False
        self._store.sentinels[position.partition] = position.sentinel
        return True

    def _add_partition(self, partition: int, check: str, expected: str, actual: str, subject: str = "") -> None:
        found = proof.Finding(
            partition=partition,
            tenant_id="",
            account_id="",
            subject=subject or f"partition {partition}",
            check=check,
            expected=expected,
            actual=actual,
        )
        self._tally.add([found])

    async def _durables(self, rows: Sequence[Mapping[str, Any]]) -> list[proof.Durable]:
        numbers = [row["account_no"] for row in rows]
        debts, grants = await queries.left(self._connection, numbers)
        return [
            proof.Durable(
                account_no=row["account_no"],
                tenant_id=row["tenant_id"],
                account_id=row["account_id"],
                address=row["address"],
                partition=row["partition"],
                seq=row["last_seq"],
                last_txn=row["last_txn"],
                change_no=row["applied_change_no"],
                change_no_last=row["change_no"],
                granted_micros=row["granted_micros"],
                spent_micros=row["spent_micros"],
                expired_micros=row["expired_micros"],
                revoked_micros=row["revoked_micros"],
                overage=ledger.Overage(row["overage_policy"]),
                overdraft_limit_micros=row["overdraft_limit_micros"],
                strict_expiry=row["strict_expiry"],
                frozen=row["frozen"],
                plan=ledger.PlanRule(
                    until_ms=row["plan_until_ms"],
                    unlimited=row["plan_unlimited"],
                    actions_per_day=row["plan_actions_per_day"],
                    blocked_wallets=row["plan_blocked_wallets"],
                ),
                debts=debts.get(row["account_no"], {}),
                grants=grants.get(row["account_no"], {}),
            )
            for row in rows
        ]

    async def _fold(self, durables: Sequence[proof.Durable]) -> None:
        """Postgres against itself: rows chain, counters are their sums, holds end once."""
        by_no = {durable.account_no: durable for durable in durables}
        numbers = list(by_no)
        self._tally.records += await queries.ledger_count(self._connection, numbers)
        for check in queries.CHECKS:
            rows = await queries.broken(self._connection, check, numbers, FINDINGS_MAX)
            self._tally.add([_offence(check, by_no[row["account_no"]], row) for row in rows])

    async def _tenant_sums(self, partition: int) -> None:
        """Postgres against itself: a tenant's daily sums are those of its accounts."""
        rows = await queries.broken_tenant_sums(self._connection, partition, FINDINGS_MAX)
        found = [
            proof.Finding(
                partition=partition,
                tenant_id=row["tenant_id"],
                account_id="",
                subject=f"usage of {row['day']}, {row['item']}",
                check=row["check_name"],
                expected=str(row["expected"]),
                actual=str(row["actual"]),
            )
            for row in rows
        ]
        self._tally.add(found)

    async def _hold_against_redis(self, durables: Sequence[proof.Durable], outbox: _Outbox) -> dict[str, uuid.UUID]:
        """Redis against Postgres and the outbox. Answers a hold of each address that the deadlines name."""
        left = list(durables)
        strays: dict[str, uuid.UUID] = {}
        for attempt in range(ATTEMPTS_MAX):
            addresses = [durable.address for durable in left]
            moment = await audit.snapshot(self._run, self._store, durables[0].partition, addresses)
            opened = await self._opened(moment, left, outbox)
            strays = _by_address(moment.deadlines)
            again: list[proof.Durable] = []
            for durable in left:
                found = _compared(durable, moment, opened.get(durable.address, []), outbox)
                if found and attempt + 1 < ATTEMPTS_MAX:
                    again.append(durable)
                    continue
                self._tally.add(found)
                self._tally.holds += len(opened.get(durable.address, []))
            left = again
            if not left:
                break
        outbox.drop([durable.address for durable in durables])
        return strays

    async def _opened(
        self, moment: audit.Snapshot, durables: Sequence[proof.Durable], outbox: _Outbox
    ) -> dict[str, list[proof.Opened]]:
        """The accounts' holds that were open at the moment, with their amounts; those that ended since tell them by their record."""
        tenants = {durable.address: durable.tenant_id for durable in durables}
        asked = [deadline for deadline in moment.deadlines if deadline.address in tenants]
        views: list[ledger.Held | ledger.Settled | None] = []
        for start in range(0, len(asked), HOLDS_AT_ONCE_MAX):
            part = asked[start : start + HOLDS_AT_ONCE_MAX]
            views += await asyncio.gather(*(self._view(tenants[one.address], one) for one in part))
        await outbox.read_on()
        found: dict[str, list[proof.Opened]] = collections.defaultdict(list)
        for deadline, view in zip(asked, views, strict=True):
            found[deadline.address].append(_opened(deadline, view, outbox.by_address.get(deadline.address, ())))
        return found

    async def _view(self, tenant_id: str, deadline: audit.Deadline) -> ledger.Held | ledger.Settled | None:
        try:
            return await self._store.hold(tenant_id, deadline.address, deadline.hold)
        except errors.NotFoundError:
            return None

    async def _leftovers(
        self, partition: int, outbox: _Outbox, seen: set[str], strays: Mapping[str, uuid.UUID]
    ) -> None:
        """Holds and records of accounts that Postgres does not have, and entries that are no records."""
        foreign = {address: f"hold {hold}" for address, hold in strays.items()}
        foreign |= {address: f"outbox {found[0].entry_id}" for address, found in outbox.by_address.items()}
        unknown = foreign.keys() - seen
        # Accounts that were made after the snapshot are looked at next time.
        known = await queries.known_addresses(self._connection, sorted(unknown)) if unknown else set[str]()
        for address in sorted(unknown - known):
            self._add_partition(
                partition, "its account exists", "an account", f"no account {address}", foreign[address]
            )
        for entry_id, reason in outbox.bad:
            self._add_partition(partition, "is a record", "a record", reason, f"outbox {entry_id}")


def _by_address(deadlines: Sequence[audit.Deadline]) -> dict[str, uuid.UUID]:
    return {deadline.address: deadline.hold for deadline in deadlines}


def _opened(
    deadline: audit.Deadline, view: ledger.Held | ledger.Settled | None, records: Sequence[ledger.Record]
) -> proof.Opened:
    if isinstance(view, ledger.Held):
        return proof.Opened(hold=deadline.hold, wallet=view.wallet, amount_micros=view.amount_micros)
    for record in records:
        if record.txn == deadline.hold and record.kind in (ledger.Kind.COMMIT, ledger.Kind.RELEASE, ledger.Kind.EXPIRE):
            return proof.Opened(hold=deadline.hold, wallet=record.wallet, amount_micros=record.held_before_micros)
    return proof.Opened(hold=deadline.hold, wallet="", amount_micros=None)


def _compared(
    durable: proof.Durable, moment: audit.Snapshot, opened: Sequence[proof.Opened], outbox: _Outbox
) -> list[proof.Finding]:
    records = outbox.by_address.get(durable.address, [])
    examined = moment.accounts.get(durable.address)
    if examined is None:
        return proof.missing(durable, records, len(opened))
    found = proof.conserved(durable, examined) + proof.held(durable, examined.state, opened)
    return found + proof.agreed(durable, examined.state, records)


def _offence(check: str, durable: proof.Durable, row: Mapping[str, Any]) -> proof.Finding:
    match check:
        case "broken_rows":
            subject = f"ledger {row['txn_name']} seq {row['seq']}"
        case "broken_grants":
            subject = f"grant {row['grant_id']}"
        case "broken_wallets":
            subject = f"wallet {row['wallet']}"
        case "broken_sums":
            subject = f"usage of {row['day']}"
        case "double_endings":
            return proof.finding(
                durable, f"hold {row['txn']}", "ends once (C, R, E, or E then L)", "C, R, E or EL", row["kinds"]
            )
        case _:
            subject = "account"
    return proof.finding(durable, subject, row["check_name"], str(row["expected"]), str(row["actual"]))
