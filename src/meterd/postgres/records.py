"""Outbox entries as columns: many records are decoded at once, because one object a record would cost more than the database does."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any

# An entry as it stands in the stream: its id, and names and values in order.
Entry = tuple[bytes, dict[bytes, bytes]]

# An entry's fields: the record's core, the terms and the detail.
FIELDS = (b"r", b"m", b"j")
# What stands in the core, between spaces, and then the other two; core.ledger.Record explains the names. "-" is an empty text.
NAMES = (
    *(b"k", b"t", b"p", b"a", b"e", b"s", b"at", b"w", b"h", b"g", b"c", b"r", b"u", b"x", b"v"),
    *(b"d", b"y", b"z", b"b", b"o", b"q", b"n", b"i", b"f", b"l", b"m", b"j"),
)
EMPTY = b"-"
_PLACE = {name: at for at, name in enumerate(NAMES)}
KINDS = frozenset((b"C", b"L", b"R", b"E", b"H", b"G", b"V", b"X", b"S", b"B"))
# The columns that the counters need as numbers; Postgres reads the others itself.
_COUNTED = (b"e", b"s", b"g", b"c", b"x", b"v", b"n", b"i")
# Enough to tell records apart, and half the size of the whole.
DIGEST_BYTES = 16
TXN_CHARS = 32
_LENGTH = struct.Struct(">I")

# Grant (32 hex digits) and micros.
Draws = list[tuple[bytes, int]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Dead:
    """An entry that cannot become a row, or must wait behind one."""

    partition: int
    entry_id: str
    address: str
    cause: str
    reason: str
    entry: Entry


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Decoded entries, one list a field; equal places belong together."""

    partitions: list[int]
    entries: list[Entry]
    # By field name: all of them as they stood in the stream, and some as numbers.
    values: dict[bytes, Sequence[bytes]]
    numbers: dict[bytes, list[int]]
    txn_ms: list[int]
    drawn: list[Draws]
    expired: list[Draws]
    revoked: list[Draws]
    # 32 hex digits.
    digests: list[str]

    def __len__(self) -> int:
        return len(self.entries)

    def kept(self, places: Sequence[int]) -> Columns:
        """The columns at `places` only."""

        def at_places(column: Sequence[Any]) -> list[Any]:
            return [column[at] for at in places]

        return Columns(
            partitions=at_places(self.partitions),
            entries=at_places(self.entries),
            values={name: at_places(column) for name, column in self.values.items()},
            numbers={name: at_places(column) for name, column in self.numbers.items()},
            txn_ms=at_places(self.txn_ms),
            drawn=at_places(self.drawn),
            expired=at_places(self.expired),
            revoked=at_places(self.revoked),
            digests=at_places(self.digests),
        )


def pack(fields: dict[bytes, bytes]) -> bytes:
    """Names and values as one value: each a length and its bytes."""
    return b"".join(_LENGTH.pack(len(part)) + part for pair in fields.items() for part in pair)


def unpack(raw: bytes) -> dict[bytes, bytes]:
    """What `pack` was given."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        parts.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return dict(zip(parts[::2], parts[1::2], strict=True))


def digest(values: Iterable[bytes]) -> str:
    """What tells two records with the same key apart: SHA-256 over all values, cut to 16 bytes, in hex."""
    return hashlib.sha256(b"\0".join(values)).hexdigest()[: 2 * DIGEST_BYTES]


def value(fields: dict[bytes, bytes], name: bytes) -> bytes:
    """One value of an entry that may be no record; b"" where it has none."""
    parts = fields.get(b"r", b"").split(b" ")
    return parts[_PLACE[name]] if len(parts) > _PLACE[name] else b""


def txn_name(fields: dict[bytes, bytes]) -> str:
    """Kind letter and hex UUID of an entry, as partitions.last_txn has them; something shorter for one that is no record."""
    return (value(fields, b"k")[:1] + value(fields, b"t")[:32]).decode("ascii", "replace").replace("\0", "?")


def decode(partitions: list[int], entries: list[Entry]) -> tuple[Columns, list[Dead]]:
    """The entries as columns, and those that are no records. `partitions` and `entries` go together, in stream order."""
    try:
        return _decode_all(partitions, entries), []
    except ValueError:
        return _decode_each(partitions, entries)


def _decode_each(partitions: list[int], entries: list[Entry]) -> tuple[Columns, list[Dead]]:
    """As decode, one by one: only for a batch that holds a bad entry."""
    good: list[int] = []
    dead: list[Dead] = []
    for at, entry in enumerate(entries):
        try:
            _decode_all([partitions[at]], [entry])
        except ValueError as exc:
            address = value(entry[1], b"a").decode("ascii", "replace").replace("\0", "?")
            reason = f"{type(exc).__name__}: {exc}".replace("\0", "?")[:500]
            dead.append(
                Dead(
                    partition=partitions[at],
                    entry_id=entry[0].decode(),
                    address=address,
                    cause="undecodable",
                    reason=reason,
                    entry=entry,
                )
            )
        else:
            good.append(at)
    return _decode_all([partitions[at] for at in good], [entries[at] for at in good]), dead


def _decode_all(partitions: list[int], entries: list[Entry]) -> Columns:
    rows: list[list[bytes]] = []
    for _, fields in entries:
        if tuple(fields) != FIELDS:
            raise ValueError("the entry's fields are not those of a record")
        core, terms, detail = fields.values()
        rows.append([*core.split(b" "), terms, detail])
        # Values go to Postgres inside quoted array literals.
        if len(rows[-1]) != len(NAMES) or b'"' in core or b"\\" in core or not core.isascii():
            raise ValueError("the entry's core is not that of a record")
    columns: list[Sequence[bytes]] = list(zip(*rows, strict=True)) if rows else [()] * len(NAMES)
    values = dict(zip(NAMES, columns, strict=True))
    if not KINDS.issuperset(values[b"k"]):
        raise ValueError("unknown kind of record")
    if any(len(txn) != TXN_CHARS for txn in values[b"t"]):
        raise ValueError("a transaction id is not 32 hex digits")
    return Columns(
        partitions=partitions,
        entries=entries,
        values=values,
        numbers={name: list(map(int, values[name])) for name in _COUNTED},
        txn_ms=[int(txn[:12], 16) for txn in values[b"t"]],
        drawn=list(map(_draws, values[b"d"])),
        expired=list(map(_draws, values[b"y"])),
        revoked=list(map(_draws, values[b"z"])),
        digests=[digest(fields.values()) for _, fields in entries],
    )


_NO_DRAWS: Draws = []


def _draws(text: bytes) -> Draws:
    if text == EMPTY:
        return _NO_DRAWS
    found: Draws = []
    for part in text.split(b","):
        grant, _, amount = part.partition(b":")
        if len(grant) != TXN_CHARS:
            raise ValueError("a grant's id is not 32 hex digits")
        found.append((grant, int(amount)))
    return found
