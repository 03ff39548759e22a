"""The journal: outbox entries become ledger rows, counters and a moved cursor, in one transaction.

Exactly once by construction: the rows and the cursor behind them are written together, and a row's key is its transaction's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.postgres import events, limit_uses, records, sql, top_ups

_SQL = sql.read("journal")

# Called at each named step; tests make it raise, as a crash would.
Failpoint = Callable[[str], Awaitable[None]]
FAILPOINTS = ("begun", "locked", "inserted", "counted", "buried", "moved", "committed")

# Classes of SQLSTATE that say that a row is wrong, not the server: data, integrity, limits of a statement.
_POISON_CLASSES = frozenset(("22", "23", "54"))


async def no_failpoint(_step: str) -> None:
    """The default: nothing fails."""


class MovedError(Exception):
    """The partition's cursor or epoch is no longer what it was when the entries were read: read again."""


class _DoubtError(Exception):
    """A record does not follow on the last one, or its key is taken: look closer."""


class _RejectedError(Exception):
    """A record that cannot be: it names a grant that does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What was read from one partition's stream after `cursor`, in order."""

    partition: int
    epoch: int
    cursor: str
    entries: Sequence[records.Entry]
    # All records made before this moment (ms) are in `entries` or before the cursor.
    fresh_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What became of the entries: rows, repeats of rows that were there, quarantined ones; and where the cursors stand now."""

    flushed: int
    repeated: int
    dead: Sequence[records.Dead]
    cursors: Mapping[int, str]

    def __add__(self, other: Written) -> Written:
        return Written(
            flushed=self.flushed + other.flushed,
            repeated=self.repeated + other.repeated,
            dead=[*self.dead, *other.dead],
            cursors={**self.cursors, **other.cursors},
        )


@dataclasses.dataclass(slots=True)
class _Account:
    """An account's fold while a batch is added up."""

    no: int
    tenant_id: str
    partition: int
    seq: int
    txn: bytes
    change_no: int
    parked: bool
    epoch: int = 0
    held: int = 0
    granted: int = 0
    spent: int = 0
    expired: int = 0
    revoked: int = 0


@dataclasses.dataclass(slots=True)
class _Fold:
    """What a batch adds up to."""

    places: list[int] = dataclasses.field(default_factory=list[int])
    owners: list[_Account] = dataclasses.field(default_factory=list[_Account])
    # The last record of each wallet, counted within `places`.
    wallets: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict[tuple[int, bytes], int])
    # spent, expired and revoked micros by tenant and grant.
    grants: dict[tuple[str, bytes], list[int]] = dataclasses.field(default_factory=dict[tuple[str, bytes], list[int]])
    dead: list[records.Dead] = dataclasses.field(default_factory=list[records.Dead])
    repeated: int = 0


Decoded = tuple[records.Columns, list[records.Dead]]


def decode(slices: Sequence[Slice]) -> Decoded:
    """What `write` does first. Done ahead, it takes place while Postgres is busy with the batch before."""
    partitions = [part.partition for part in slices for _ in part.entries]
    return records.decode(partitions, [entry for part in slices for entry in part.entries])


async def write(
    connection: Any, slices: Sequence[Slice], *, decoded: Decoded | None = None, failpoint: Failpoint = no_failpoint
) -> Written:
    """Writes all entries of `slices` and moves the cursors.

    What cannot be written is put into outbox_dead, and so is what follows in its account.

    One transaction, except where a bad entry has to be found by halving. MovedError: another flusher was there, nothing was written.
    Errors of the server (asyncpg.PostgresError, OSError …) leave it open whether the last transaction was committed; the cursors tell.
    """
    batch = decode(slices) if decoded is None else decoded
    try:
        try:
            return await _transact(connection, slices, batch, failpoint, careful=False, condemned="")
        except _DoubtError:
            return await _transact(connection, slices, batch, failpoint, careful=True, condemned="")
    except (asyncpg.PostgresError, ValueError, _RejectedError) as exc:
        count = sum(len(part.entries) for part in slices)
        if count == 0 or not _is_poison(exc):
            raise
        if count == 1:
            reason = f"{type(exc).__name__}: {exc}".replace("\0", "?")[:500]
            return await _transact(connection, slices, batch, failpoint, careful=True, condemned=reason)
    first, second = _halves(slices, count // 2)
    return await write(connection, first, failpoint=failpoint) + await write(connection, second, failpoint=failpoint)


def _is_poison(exc: Exception) -> bool:
    if isinstance(exc, asyncpg.PostgresError):
        return getattr(exc, "sqlstate", "")[:2] in _POISON_CLASSES
    # asyncpg raises a ValueError for a value that does not fit its column's type.
    return True


def _halves(slices: Sequence[Slice], count: int) -> tuple[list[Slice], list[Slice]]:
    """The first `count` entries, and the rest."""
    first: list[Slice] = []
    second: list[Slice] = []
    left = count
    for part in slices:
        if left >= len(part.entries):
            first.append(part)
        elif left <= 0:
            second.append(part)
        else:
            last_id = part.entries[left - 1][0].decode()
            fresh_ms = int(last_id.partition("-")[0])
            first.append(dataclasses.replace(part, entries=part.entries[:left], fresh_ms=fresh_ms))
            second.append(dataclasses.replace(part, entries=part.entries[left:], cursor=last_id))
        left -= len(part.entries)
    return first, second


async def _transact(
    connection: Any, slices: Sequence[Slice], decoded: Decoded, failpoint: Failpoint, *, careful: bool, condemned: str
) -> Written:
    columns, undecodable = decoded
    dead = list(undecodable)
    async with connection.transaction(isolation="read_committed"):
        await failpoint("begun")
        await _lock_partitions(connection, slices)
        if condemned:
            accounts = await _lock_accounts(connection, columns)
            fold = _condemn(columns, accounts, condemned)
        elif len(columns):
            fold = await _apply(connection, columns, failpoint, careful=careful, dead=dead)
        else:
            fold = _Fold()
        dead += fold.dead
        await _bury(connection, dead)
        await failpoint("buried")
        cursors = await _move_cursors(connection, slices)
        await failpoint("moved")
    await failpoint("committed")
    return Written(flushed=len(fold.places), repeated=fold.repeated, dead=dead, cursors=cursors)


async def _lock_partitions(connection: Any, slices: Sequence[Slice]) -> None:
    rows = await connection.fetch(_SQL["lock_partitions"], [part.partition for part in slices])
    found = {row["partition"]: (row["epoch"], row["cursor"]) for row in rows}
    for part in slices:
        if found.get(part.partition) != (part.epoch, part.cursor):
            raise MovedError(
                f"partition {part.partition} stands at {found.get(part.partition)}, not at {(part.epoch, part.cursor)}"
            )


async def _lock_accounts(connection: Any, columns: records.Columns) -> dict[bytes, _Account]:
    rows = await connection.fetch(_SQL["lock_accounts"], [address.decode() for address in set(columns.values[b"a"])])
    return {
        row[0].encode(): _Account(
            no=row[1],
            tenant_id=row[2],
            partition=row[3],
            seq=row[4],
            txn=row[5].encode() or records.EMPTY,
            change_no=row[6],
            parked=row[7],
        )
        for row in rows
    }


async def _apply(
    connection: Any, columns: records.Columns, failpoint: Failpoint, *, careful: bool, dead: Sequence[records.Dead]
) -> _Fold:
    """Inserts the records and adds them up. Records that follow a bad one of their account come back as dead."""
    accounts = await _lock_accounts(connection, columns)
    await failpoint("locked")
    if dead:
        # Of an undecodable entry only the address is known. Those of its account before it in this batch were good.
        columns, waiting = _behind(columns, accounts, dead)
    else:
        waiting = list[records.Dead]()
    existing = await _existing(connection, columns, accounts) if careful else None
    fold = _fold(columns, accounts, existing)
    fold.dead += waiting
    if len(fold.places) < len(columns):
        columns = columns.kept(fold.places)
    if len(columns):
        await _insert(connection, columns, fold.owners)
        await failpoint("inserted")
        await _count(connection, columns, fold)
        await _mark(connection, columns, fold.owners)
        await events.decide(connection, columns, fold.owners)
        await limit_uses.decide(connection, columns, fold.owners)
        await top_ups.decide(connection, columns, fold.owners)
        await failpoint("counted")
    return fold


def _behind(
    columns: records.Columns, accounts: dict[bytes, _Account], dead: Sequence[records.Dead]
) -> tuple[records.Columns, list[records.Dead]]:
    """Takes out the records that stand behind an undecodable one of their account; those before it go on."""
    bad = {(entry.partition, entry.address.encode()): _order(entry.entry_id) for entry in reversed(dead)}
    good: list[int] = []
    waiting: list[records.Dead] = []
    for at, address in enumerate(columns.values[b"a"]):
        limit = bad.get((columns.partitions[at], address))
        if limit is not None and _order(columns.entries[at][0].decode()) > limit:
            waiting.append(_dead(columns, at, "parked", "an earlier entry of the account could not be written"))
        else:
            good.append(at)
    return (columns.kept(good) if waiting else columns), waiting


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


Key = tuple[int, bytes, bytes]


async def _existing(connection: Any, columns: records.Columns, accounts: dict[bytes, _Account]) -> dict[Key, str]:
    """Digests of the rows that have the keys of these records."""
    addresses, kinds, txns = (columns.values[name] for name in (b"a", b"k", b"t"))
    known = [at for at, address in enumerate(addresses) if address in accounts]
    rows = await connection.fetch(
        _SQL["existing_digests"],
        [accounts[addresses[at]].no for at in known],
        [kinds[at].decode() for at in known],
        [txns[at].decode() for at in known],
        [columns.txn_ms[at] for at in known],
    )
    return {(row[0], row[1].encode(), row[2].encode()): row[3] for row in rows}


def _dead(columns: records.Columns, at: int, cause: str, reason: str) -> records.Dead:
    return records.Dead(
        partition=columns.partitions[at],
        entry_id=columns.entries[at][0].decode(),
        address=columns.values[b"a"][at].decode(),
        cause=cause,
        reason=reason,
        entry=columns.entries[at],
    )


def _condemn(columns: records.Columns, accounts: dict[bytes, _Account], reason: str) -> _Fold:
    fold = _Fold()
    for at, address in enumerate(columns.values[b"a"]):
        known = address in accounts
        fold.dead.append(_dead(columns, at, "rejected" if known else "unknown_account", reason))
    return fold


def _doubt(
    columns: records.Columns, at: int, account: _Account | None, existing: dict[Key, str] | None
) -> tuple[str, str] | None:
    """Cause and reason why the record is not to become a row; None for a repeat of a row that is there."""
    if account is None:
        return "unknown_account", "no account has this address"
    if account.parked:
        return "parked", "an earlier entry of the account could not be written"
    if account.partition != columns.partitions[at]:
        return "broken_chain", f"the account belongs to partition {account.partition}"
    if existing is None:
        raise _DoubtError
    there = existing.get((account.no, columns.values[b"k"][at], columns.values[b"t"][at]))
    if there == columns.digests[at]:
        return None
    account.parked = True
    if there is not None:
        return "conflict", "the ledger has this transaction with other content"
    seq = columns.numbers[b"s"][at]
    previous = columns.values[b"p"][at].decode()
    return "broken_chain", f"follows {previous!r} as {seq}, but the last was {account.txn.decode()!r} as {account.seq}"


def _fold(columns: records.Columns, accounts: dict[bytes, _Account], existing: dict[Key, str] | None) -> _Fold:
    """Holds each record against the one before it and adds them up."""
    fold = _Fold()
    places, owners, wallets, grants = fold.places, fold.owners, fold.wallets, fold.grants
    numbers = columns.numbers
    kinds, txns, previous, names = (columns.values[name] for name in (b"k", b"t", b"p", b"w"))
    seqs, epochs, changes = numbers[b"s"], numbers[b"e"], numbers[b"i"]
    granted, charged, expired, revoked = numbers[b"g"], numbers[b"c"], numbers[b"x"], numbers[b"v"]
    held = numbers[b"n"]
    draws = (columns.drawn, columns.expired, columns.revoked)
    for at, address in enumerate(columns.values[b"a"]):
        account = accounts.get(address)
        if (
            account is None
            or account.parked
            or seqs[at] != account.seq + 1
            or previous[at] != account.txn
            or account.partition != columns.partitions[at]
            or (existing is not None and (account.no, kinds[at], txns[at]) in existing)
        ):
            doubt = _doubt(columns, at, account, existing)
            if doubt is None:
                fold.repeated += 1
            else:
                fold.dead.append(_dead(columns, at, *doubt))
            continue
        if existing is not None:
            existing[account.no, kinds[at], txns[at]] = columns.digests[at]
        account.seq, account.txn, account.epoch, account.held = seqs[at], kinds[at] + txns[at], epochs[at], held[at]
        account.granted += granted[at]
        account.spent += charged[at]
        account.expired += expired[at]
        account.revoked += revoked[at]
        account.change_no = max(account.change_no, changes[at])
        if kinds[at] != b"S":
            wallets[account.no, names[at]] = len(places)
        places.append(at)
        owners.append(account)
        for which, column in enumerate(draws):
            for grant, amount in column[at]:
                grants.setdefault((account.tenant_id, grant), [0, 0, 0])[which] += amount
    return fold


async def _insert(connection: Any, columns: records.Columns, owners: Sequence[_Account]) -> None:
    values = columns.values
    tenants, places = _tenants(owners)
    inserted = await connection.fetchval(
        _SQL["insert_ledger"],
        _numbers([owner.no for owner in owners]),
        _numbers(places),
        _numbers(columns.txn_ms),
        *(_texts(values[name]) for name in (b"k", b"t", b"p")),
        *(_digits(values[name]) for name in (b"e", b"s", b"at")),
        _numbers(columns.partitions),
        _digits([entry_id for entry_id, _ in columns.entries]),
        _texts(values[b"w"]),
        *(_digits(values[name]) for name in (b"h", b"g", b"c", b"r", b"u", b"x", b"v")),
        *(_texts(values[name]) for name in (b"d", b"y", b"z")),
        *(_digits(values[name]) for name in (b"b", b"o", b"q", b"n", b"i", b"l")),
        [text.decode() for text in values[b"m"]],
        [text.decode() for text in values[b"j"]],
        _texts(values[b"f"]),
        "{" + ",".join(columns.digests) + "}",
        tenants,
    )
    if inserted != len(columns):
        raise _DoubtError


def _tenants(owners: Sequence[_Account]) -> tuple[list[str], list[int]]:
    """The tenants of accounts, and for each account the place (from 1) of its own."""
    places: dict[str, int] = {}
    found = [places.setdefault(owner.tenant_id, len(places) + 1) for owner in owners]
    return list(places), found


def _numbers(values: Sequence[int]) -> str:
    """An array literal."""
    return "{" + ",".join(map(str, values)) + "}"


def _digits(values: Sequence[bytes]) -> str:
    """An array literal of values that need no quotes."""
    return (b"{" + b",".join(values) + b"}").decode()


def _texts(values: Sequence[bytes]) -> str:
    """An array literal of values without quotes and backslashes, as records.decode has made sure."""
    return (b'{"' + b'","'.join(values) + b'"}').decode()


def _rows(status: str) -> int:
    """The number of rows in a command's tag, such as "INSERT 0 5"."""
    return int(status.rpartition(" ")[2])


async def _count(connection: Any, columns: records.Columns, fold: _Fold) -> None:
    """Adds the batch to the counters of accounts, wallets and grants."""
    touched = {owner.no: owner for owner in fold.owners}
    accounts = [touched[no] for no in sorted(touched)]
    sums = ("change_no", "held", "granted", "spent", "expired", "revoked")
    await connection.execute(
        _SQL["count_accounts"],
        *(_numbers([getattr(account, name) for account in accounts]) for name in ("no", "epoch", "seq")),
        _texts([account.txn for account in accounts]),
        *(_numbers([getattr(account, name) for account in accounts]) for name in sums),
    )
    wallets = sorted(fold.wallets.items())
    if wallets:
        tenants, places = _tenants([touched[no] for (no, _), _ in wallets])
        await connection.execute(
            _SQL["set_wallets"],
            tenants,
            _numbers(places),
            _numbers([no for (no, _), _ in wallets]),
            _texts([wallet for (_, wallet), _ in wallets]),
            *(_digits([columns.values[name][at] for _, at in wallets]) for name in (b"o", b"q")),
        )
    if fold.grants:
        await _count_grants(connection, fold)


async def _count_grants(connection: Any, fold: _Fold) -> None:
    grants = sorted(fold.grants.items())
    tenants = sorted({tenant for (tenant, _), _ in grants})
    place = {tenant: at + 1 for at, tenant in enumerate(tenants)}
    status = await connection.execute(
        _SQL["count_grants"],
        tenants,
        _numbers([place[tenant] for (tenant, _), _ in grants]),
        _texts([grant for (_, grant), _ in grants]),
        *(_numbers([delta[which] for _, delta in grants]) for which in range(3)),
    )
    if _rows(status) != len(grants):
        raise _RejectedError("draws from a grant that does not exist")


async def _mark(connection: Any, columns: records.Columns, owners: Sequence[_Account]) -> None:
    """Marks the changes whose records these are as applied."""
    changes = [at for at, number in enumerate(columns.numbers[b"i"]) if number > 0]
    if not changes:
        return
    numbers = [columns.numbers[b"i"][at] for at in changes]
    await connection.execute(_SQL["mark_changes"], [owners[at].no for at in changes], numbers)
    kinds, txns = columns.values[b"k"], columns.values[b"t"]
    grants = [at for at in changes if kinds[at] == b"G"]
    if grants:
        tenants = [owners[at].tenant_id for at in grants]
        status = await connection.execute(_SQL["mark_grants"], tenants, [txns[at].decode() for at in grants])
        if _rows(status) != len(grants):
            raise _RejectedError("adds a grant that does not exist")
    revocations = [at for at in changes if kinds[at] == b"V"]
    if revocations:
        tenants = [owners[at].tenant_id for at in revocations]
        await connection.execute(_SQL["mark_revoked"], tenants, [txns[at].decode() for at in revocations])


async def _bury(connection: Any, dead: Sequence[records.Dead]) -> None:
    if not dead:
        return
    await connection.execute(
        _SQL["insert_dead"],
        [entry.partition for entry in dead],
        [entry.entry_id for entry in dead],
        [records.digest(entry.entry[1].values()) for entry in dead],
        [entry.address for entry in dead],
        [entry.cause for entry in dead],
        [entry.reason for entry in dead],
        [records.pack(entry.entry[1]) for entry in dead],
    )
    await connection.execute(_SQL["park_accounts"], sorted({entry.address for entry in dead}))


async def _move_cursors(connection: Any, slices: Sequence[Slice]) -> dict[int, str]:
    cursors = {part.partition: part.entries[-1][0].decode() if part.entries else part.cursor for part in slices}
    await connection.execute(
        _SQL["move_cursors"],
        list(cursors),
        list(cursors.values()),
        [_last_txn(part) for part in slices],
        [len(part.entries) for part in slices],
        [part.fresh_ms for part in slices],
    )
    return cursors


def _last_txn(part: Slice) -> str:
    if not part.entries:
        return ""
    return records.txn_name(part.entries[-1][1])


async def revive(connection: Any, address: str) -> int:
    """Writes the account's entries that wait in outbox_dead, in order, once their cause is mended; answers how many became rows.

    ValueError or asyncpg.PostgresError where one of them still cannot be written: then nothing was. A repeat finds none waiting.
    """
    async with connection.transaction(isolation="read_committed"):
        waiting = await connection.fetch(_SQL["waiting"], address)
        await connection.execute(_SQL["unpark_account"], address)
        entries = [(row["entry_id"].encode(), records.unpack(row["raw"])) for row in waiting]
        columns, dead = records.decode([row["partition"] for row in waiting], entries)
        fold = _Fold()
        try:
            if not dead and len(columns):
                fold = await _apply(connection, columns, no_failpoint, careful=True, dead=dead)
        except (_DoubtError, _RejectedError) as exc:
            raise ValueError(str(exc)) from exc
        if bad := [*dead, *fold.dead]:
            raise ValueError(f"entry {bad[0].entry_id}: {bad[0].cause}: {bad[0].reason}")
        await connection.execute(_SQL["resolve"], [row["dead_no"] for row in waiting])
    return len(fold.places)


async def dead_counts(connection: Any) -> tuple[int, int]:
    """Unresolved entries in outbox_dead: those that could not be written, and those that wait behind them."""
    row = await connection.fetchrow(_SQL["dead_counts"])
    return row["dead"], row["parked"]
