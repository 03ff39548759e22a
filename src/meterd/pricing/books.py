"""The price books of a running server: the one in force, and those that open holds were reserved by."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Awaitable, Callable, Iterable, Mapping

import orjson

from meterd.core import errors, pricing
from meterd.pricing import bundled, document, overrides, yaml_file

# Each book takes some MB; an older one than these is loaded again when a Commit asks for it.
BOOKS_MAX = 8
# Books of tenants share the tables of their base and take some KB each. These are kept besides those in force.
TENANT_BOOKS_MAX = 1_000
# A larger file of prices is a mistake.
FILE_BYTES_MAX = 4 * 1024 * 1024

# Asks the durable store for the bytes of a version; None if it never was kept.
Fetch = Callable[[str], Awaitable[bytes | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reload:
    """What became of looking at the price file. `error` says why the book in force was kept."""

    book: pricing.PriceBook
    changed: bool
    error: str = ""


def compiled(text: str = "", source: str = "prices") -> pricing.PriceBook:
    """The bundled prices with the operator's YAML on top; yaml_file.FileError names what is wrong and where."""
    parsed = overrides.parsed(text, source)
    return document.built({"format": document.FORMAT, "providers": bundled.load(bundled.PROVIDERS), **parsed})


def compiled_file(path: pathlib.Path | None) -> pricing.PriceBook:
    """As `compiled`, from a file; None is the bundled prices alone."""
    return bundled_book() if path is None else compiled(_read(path), str(path))


@functools.cache
def bundled_book() -> pricing.PriceBook:
    """The bundled prices alone."""
    return compiled()


def dump(book: pricing.PriceBook) -> bytes:
    """The book as JSON, from which any server can load it: a tenant's without its base, which is kept by itself."""
    return b'{"version":"' + book.version.encode() + b'","book":' + book.content + b"}"


def load(data: bytes) -> pricing.PriceBook:
    """The whole book in `data`. FailedPreconditionError if it is not one, or if its content is not what its version names."""
    return _built(*_parsed(data), None)


async def load_any(data: bytes, find_base: Callable[[str], Awaitable[pricing.PriceBook]]) -> pricing.PriceBook:
    """As `load`, for a tenant's book too: `find_base` answers the book of a version on which it lies."""
    version, content = _parsed(data)
    base = await find_base(content["base"]) if content.get("base") else None
    return _built(version, content, base)


def _parsed(data: bytes) -> tuple[str, document.Document]:
    try:
        value = orjson.loads(data)
        version, content = value["version"], value["book"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise errors.FailedPreconditionError(f"price book: cannot be read: {exc}") from exc
    if not isinstance(version, str) or not isinstance(content, dict):
        raise errors.FailedPreconditionError("price book: cannot be read: it has no version or no content")
    return version, content


def _built(version: str, content: document.Document, base: pricing.PriceBook | None) -> pricing.PriceBook:
    try:
        book = document.built(content) if base is None else document.layered(content, base)
    except (KeyError, TypeError, AttributeError) as exc:
        raise errors.FailedPreconditionError(f"price book: cannot be read: {exc}") from exc
    if book.version != version:
        raise errors.FailedPreconditionError(f"price book: {version} has the content of {book.version}")
    return book


def _read(path: pathlib.Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > FILE_BYTES_MAX:
            raise yaml_file.FileError(str(path), 0, "", f"larger than {FILE_BYTES_MAX} bytes")
        return data.decode()
    except OSError as exc:
        raise yaml_file.FileError(str(path), 0, "", f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise yaml_file.FileError(str(path), 0, "", f"not UTF-8: byte {exc.start}") from exc


class Books:
    """The book in force, those of tenants that lie on it, and the latest others.

    A book must be kept durably before it is put in force: see `look` and `use`.
    """

    def __init__(
        self, current: pricing.PriceBook, *, path: pathlib.Path | None = None, fetch: Fetch | None = None
    ) -> None:
        self.current = current
        self._tenants: dict[str, pricing.PriceBook] = {}
        self._books: collections.OrderedDict[str, pricing.PriceBook] = collections.OrderedDict()
        self._path = path
        self._fetch = fetch
        self._seen = _stamp(path)
        self.use(current)

    def of(self, tenant_id: str) -> pricing.PriceBook:
        """The book in force for a tenant: its own, or the one of all."""
        return self._tenants.get(tenant_id, self.current)

    def find(self, version: str) -> pricing.PriceBook | None:
        """The book of that version, if it is in memory."""
        return self._books.get(version)

    async def fetch(self, version: str) -> pricing.PriceBook:
        """The book of that version, from the durable store if need be. FailedPreconditionError if it is nowhere."""
        found = self._books.get(version)
        if found is not None:
            return found
        data = await self._fetch(version) if self._fetch is not None else None
        if data is None:
            raise errors.FailedPreconditionError(f"price_version: no price book {version}")
        book = await load_any(data, self.fetch)
        if book.version != version:
            raise errors.FailedPreconditionError(f"price_version: asked for {version}, the store has {book.version}")
        self._remember((book,))
        return book

    def use(self, book: pricing.PriceBook, tenants: Mapping[str, pricing.PriceBook] | None = None) -> None:
        """Puts a book in force, and with it those of tenants, which lie on it. Open holds keep theirs."""
        self.current = book
        self._tenants = dict(tenants or {})
        self._remember((book, *self._tenants.values()))

    def use_for(self, tenant_id: str, book: pricing.PriceBook) -> None:
        """Puts a book in force for one tenant. Open holds keep theirs."""
        assert self.current.version in (book.version, book.base)
        if book is self.current:
            self._tenants.pop(tenant_id, None)
            return
        self._tenants[tenant_id] = book
        self._remember((book,))

    def look(self) -> Reload:
        """What the price file says now, without putting it in force; unchanged if the file was not touched since the last look.

        Takes about 0.2 s where it was: not for the event loop. With an error in the file, the book in force stays.
        """
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return Reload(book=self.current, changed=False)
        try:
            book = compiled_file(self._path)
        except yaml_file.FileError as exc:
            self._seen = stamp
            return Reload(book=self.current, changed=False, error=str(exc))
        self._seen = stamp
        return Reload(book=book, changed=book.version != self.current.version)

    def reload(self) -> Reload:
        """`look`, and the found book put in force: for a server that keeps no books durably."""
        found = self.look()
        if found.changed:
            self.use(found.book)
        return found

    def _remember(self, books: Iterable[pricing.PriceBook]) -> None:
        for book in books:
            self._books[book.version] = book
            self._books.move_to_end(book.version)
        in_force = {self.current.version, *(book.version for book in self._tenants.values())}
        bases = [version for version, book in self._books.items() if not book.base and version not in in_force]
        gone = set(bases[: max(0, len(bases) + 1 - BOOKS_MAX)])
        others = [book for version, book in self._books.items() if book.base and version not in in_force]
        # A book that stayed would hold on to its base's tables.
        gone |= {book.version for book in others if book.base in gone or book.base not in self._books}
        gone |= {book.version for book in others[: max(0, len(others) - TENANT_BOOKS_MAX)]}
        for version in gone:
            del self._books[version]


def opened(path: pathlib.Path | None, *, fetch: Fetch | None = None) -> Books:
    """The books of a server that starts with this price file. yaml_file.FileError if it has errors."""
    return Books(compiled_file(path), path=path, fetch=fetch)


def _stamp(path: pathlib.Path | None) -> tuple[int, int, int] | None:
    """Changes whenever the file is written or replaced; None while it is not there."""
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
