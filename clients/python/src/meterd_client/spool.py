"""Ends of holds and late charges that are not known to be delivered, in a SQLite file that outlives the process.

Each entry is a request as it was or would have been sent, so with its id: meterd takes it once, however often it arrives. It is written
before the first try and removed by the answer. Processes of one tenant may share the file. A write survives the death of the process, and
that of the machine once the first try has failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Self, TypeVar

from meterd_client import errors

T = TypeVar("T")
_log = logging.getLogger(__name__)

# Some hundred bytes each, and some kilobytes where they carry a provider's usage.
ENTRIES_MAX = 10_000
# What was refused is kept for a person to look at; the oldest leave first.
REFUSED_MAX = 1_000
# How long a writer waits for another process's.
BUSY_TIMEOUT_S = 5.0
# Others leave a fresh entry alone for so long: its process is still trying.
LEASE_MS = 30_000
DELAY_FIRST_MS = 500
DELAY_MAX_MS = 60_000
BATCH_MAX = 100

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id TEXT PRIMARY KEY,
  method TEXT NOT NULL,
  request BLOB NOT NULL,
  created_ms INTEGER NOT NULL,
  due_ms INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_due ON entries (due_ms);
CREATE TABLE IF NOT EXISTS refused (
  id TEXT PRIMARY KEY,
  method TEXT NOT NULL,
  request BLOB NOT NULL,
  created_ms INTEGER NOT NULL,
  refused_ms INTEGER NOT NULL,
  reason TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """`method` is the RPC's name, `request` its serialized message, `id` its hold's id or idempotency key."""

    id: str
    method: str
    request: bytes
    attempts: int = 0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Spool:
    """The file. Its methods may be called from any thread; a process makes its own after a fork."""

    def __init__(self, path: pathlib.Path | str, *, entries_max: int = ENTRIES_MAX) -> None:
        """Opens or makes the file; OSError or sqlite3.Error if that is not possible. Its folder must be there."""
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        pathlib.Path(path).chmod(0o600)
        self._set_wal()
        # A commit waits for no disk; see `keep`.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)

    def _set_wal(self) -> None:
        """Readers and a writer do not wait for each other. SQLite does not wait for its timeout here when processes open a new file."""
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def put(self, entry: Entry) -> None:
        """Writes an entry that is about to be sent. One with the same id stays as it was: the first end of a hold is its end.

        SpoolFullError: there are too many.
        """
        with self._writing() as database:
            (count,) = database.execute("SELECT count(*) FROM entries").fetchone()
            if count >= self._entries_max:
                raise errors.SpoolFullError(f"{count} calls wait for delivery")
            at_ms = now_ms()
            database.execute(
                "INSERT INTO entries (id, method, request, created_ms, due_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (entry.id, entry.method, entry.request, at_ms, at_ms + LEASE_MS),
            )

    def remove(self, id: str) -> None:
        """Forgets an entry that was answered. A repeat does nothing."""
        with self._writing() as database:
            database.execute("DELETE FROM entries WHERE id = ?", (id,))

    def keep(self, id: str) -> None:
        """Marks an entry as not delivered: it is due again after a while, longer from try to try. On disk when this returns."""
        with self._lock:
            self._database.execute("PRAGMA synchronous = FULL")
            try:
                row = self._database.execute("SELECT attempts FROM entries WHERE id = ?", (id,)).fetchone()
                if row is not None:
                    delay_ms = min(DELAY_MAX_MS, DELAY_FIRST_MS * 2 ** min(row[0], 16))
                    self._database.execute(
                        "UPDATE entries SET attempts = attempts + 1, due_ms = ? WHERE id = ?", (now_ms() + delay_ms, id)
                    )
            finally:
                self._database.execute("PRAGMA synchronous = NORMAL")

    def refuse(self, entry: Entry, reason: str) -> None:
        """Puts aside an entry that meterd will never take; see `refused`."""
        _log.error("meterd refused a spooled %s of %s: %s", entry.method, entry.id, reason)
        with self._writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO refused SELECT id, method, request, created_ms, ?, ? FROM entries WHERE id = ?",
                (now_ms(), reason, entry.id),
            )
            database.execute("DELETE FROM entries WHERE id = ?", (entry.id,))
            database.execute(
                "DELETE FROM refused WHERE id IN (SELECT id FROM refused ORDER BY refused_ms DESC LIMIT -1 OFFSET ?)",
                (REFUSED_MAX,),
            )

    def due(self, *, all_entries: bool = False) -> Sequence[Entry]:
        """Entries to send now, oldest first, which others leave alone for a while.

        `all_entries`: at a start, those too whose process may still be trying; it may also be dead, and a second arrival does no harm.
        """
        at_ms = now_ms()
        with self._writing() as database:
            rows = database.execute(
                "SELECT id, method, request, attempts FROM entries WHERE due_ms <= ? ORDER BY created_ms, id LIMIT ?",
                (1 << 62 if all_entries else at_ms, -1 if all_entries else BATCH_MAX),
            ).fetchall()
            database.executemany(
                "UPDATE entries SET due_ms = ? WHERE id = ?", [(at_ms + LEASE_MS, row[0]) for row in rows]
            )
        return [Entry(id=row[0], method=row[1], request=row[2], attempts=row[3]) for row in rows]

    def defer(self, entries: Sequence[Entry]) -> None:
        """Makes entries that were not tried due again in a moment."""
        with self._writing() as database:
            due_ms = now_ms() + DELAY_FIRST_MS
            database.executemany("UPDATE entries SET due_ms = ? WHERE id = ?", [(due_ms, one.id) for one in entries])

    def count(self) -> int:
        """Entries that are not known to be delivered."""
        return self._read(lambda database: database.execute("SELECT count(*) FROM entries").fetchone()[0])

    def refused(self) -> Sequence[tuple[Entry, str]]:
        """What meterd refused, oldest first, and why: each is a call that was used and not charged."""
        rows: list[Any] = self._read(
            lambda database: database.execute(
                "SELECT id, method, request, reason FROM refused ORDER BY refused_ms, id"
            ).fetchall()
        )
        return [(Entry(id=row[0], method=row[1], request=row[2]), row[3]) for row in rows]

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            return read(self._database)

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction that has the file for itself from its beginning: it never fails half-way for another process."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
