"""Outbox entries as columns: many records are decoded at once, because one object a record would cost more than the database does."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Sequence

# An entry as it stands in the stream: its id, and names and values in order.
Entry = tuple[bytes, dict[bytes, bytes]]

# The stream's field names in the order of core.ledger.Record, which is the order in which the scripts write them.
NAMES = tuple(name.encode() for name in "k t p a e s at w h g c r u x v d y z b o q n i f l m j".split())
KINDS = frozenset("CLREHGVXS")
_TEXTS = (0, 1, 2, 3, 7, 15, 16, 17, 23, 25, 26)
_NUMBERS = tuple(at for at in range(len(NAMES)) if at not in _TEXTS)
# Enough to tell records apart, and half the size of the whole.
DIGEST_BYTES = 16
_LENGTH = struct.Struct(">I")

Draws = list[tuple[str, int]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Dead:
    """An entry that cannot become a row, or must wait behind one."""

    partition: int
    entry_id: str
    address: str
    cause: str
    reason: str
    entry: Entry

    @property
    def raw(self) -> bytes:
        return pack(self.entry[1])

    @property
    def digest(self) -> bytes:
        return digest(tuple(self.entry[1].values()))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Decoded entries, one list a field; equal places belong together."""

    partitions: list[int]
    entries: list[Entry]
    entry_ids: list[str]
    kinds: list[str]
    txns: list[str]
    txn_ms: list[int]
    previous: list[str]
    addresses: list[str]
    wallets: list[str]
    numbers: dict[bytes, list[int]]
    # As text for the row, and taken apart for the counters.
    drawn_texts: list[str]
    expired_texts: list[str]
    revoked_texts: list[str]
    drawn: list[Draws]
    expired: list[Draws]
    revoked: list[Draws]
    request_digests: list[str]
    terms: list[str]
    details: list[str]
    digests: list[bytes]

    def __len__(self) -> int:
        return len(self.kinds)

    def kept(self, places: Sequence[int]) -> Columns:
        """The columns at `places` only."""
        parts = {
            field.name: [getattr(self, field.name)[at] for at in places]
            for field in dataclasses.fields(self)
            if field.name != "numbers"
        }
        return Columns(**parts, numbers={name: [column[at] for at in places] for name, column in self.numbers.items()})


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


def digest(values: Sequence[bytes]) -> bytes:
    """What tells two records with the same key apart: SHA-256 over all values, cut to 16 bytes."""
    return hashlib.sha256(b"\0".join(values)).digest()[:DIGEST_BYTES]


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
            address = entry[1].get(b"a", b"").decode("ascii", "replace").replace("\0", "?")
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
    rows: list[tuple[bytes, ...]] = []
    for _, fields in entries:
        if tuple(fields) != NAMES:
            raise ValueError("the entry's fields are not those of a record")
        rows.append(tuple(fields.values()))
    columns: list[Sequence[bytes]] = list(zip(*rows, strict=True)) if rows else [()] * len(NAMES)
    text = {at: [value.decode() for value in columns[at]] for at in _TEXTS}
    if not KINDS.issuperset(text[0]):
        raise ValueError("unknown kind of record")
    if any(len(txn) != 32 for txn in text[1]):
        raise ValueError("a transaction id is not 32 hex digits")
    return Columns(
        partitions=partitions,
        entries=entries,
        entry_ids=[entry_id.decode() for entry_id, _ in entries],
        kinds=text[0],
        txns=text[1],
        txn_ms=[int(txn, 16) >> 80 for txn in text[1]],
        previous=text[2],
        addresses=text[3],
        wallets=text[7],
        numbers={NAMES[at]: list(map(int, columns[at])) for at in _NUMBERS},
        drawn_texts=text[15],
        expired_texts=text[16],
        revoked_texts=text[17],
        drawn=list(map(_draws, text[15])),
        expired=list(map(_draws, text[16])),
        revoked=list(map(_draws, text[17])),
        request_digests=text[23],
        terms=text[25],
        details=text[26],
        digests=list(map(digest, rows)),
    )


_NO_DRAWS: Draws = []


def _draws(text: str) -> Draws:
    if not text:
        return _NO_DRAWS
    found: Draws = []
    for part in text.split(","):
        grant, _, amount = part.partition(":")
        if len(grant) != 32:
            raise ValueError("a grant's id is not 32 hex digits")
        found.append((grant, int(amount)))
    return found
