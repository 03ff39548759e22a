"""Price books: versions that mean the same everywhere, reload that keeps what open holds need, and bundled data that is the package's."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import orjson
import pytest

from meterd.core import errors, pricing, usage
from meterd.pricing import books, bundled, compile, document, overrides, yaml_file

ONE = "margins: {default: 1.5}\nfeatures: {letter: {credits: 12}}\n"
TWO = "margins: {default: 2}\nfeatures: {letter: {credits: 15}}\n"
NOW_MS = 1_795_000_000_000


def written(path: pathlib.Path, text: str) -> pathlib.Path:
    """Replaced as an editor or a config map does it, so that the file is another one even within a clock tick."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
    return path


# ---- versions


def test_the_version_names_the_content_and_nothing_else() -> None:
    first, again, other = books.compiled(ONE), books.compiled(f"# comment\n{ONE}"), books.compiled(TWO)
    assert first.version == again.version
    assert first.content == again.content
    assert first.version != other.version
    assert first.version == document.version_of(first.content)
    assert len(first.version) == document.VERSION_CHARS


def test_the_version_is_the_same_in_every_process(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    program = "import pathlib, sys; from meterd.pricing import books; print(books.compiled_file(pathlib.Path(sys.argv[1])).version)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {books.compiled(ONE).version}


def test_a_dumped_book_loads_as_itself_and_charges_the_same() -> None:
    book = books.compiled(ONE)
    loaded = books.load(books.dump(book))
    assert loaded == book
    counts = usage.Usage(input_tokens=1000, output_tokens=100)
    quotes = [pricing.quote_model(each, "openai", "gpt-4o", counts, "", NOW_MS) for each in (book, loaded)]
    assert quotes[0].basis == quotes[1].basis
    assert pricing.explain(quotes[0]) == pricing.explain(quotes[1])


def test_a_book_keeps_its_version_through_a_store_that_reorders_keys() -> None:
    book = books.compiled(ONE)
    shuffled = orjson.loads(books.dump(book))
    shuffled["book"] = dict(reversed(shuffled["book"].items()))
    assert books.load(orjson.dumps(shuffled)).version == book.version


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", b'{"version": "x"}', b'{"version": "x", "book": 7}', b"\xff"]
)
def test_what_is_no_book_cannot_be_loaded(data: bytes) -> None:
    with pytest.raises(errors.FailedPreconditionError, match="price book: "):
        books.load(data)


def test_a_book_whose_content_was_changed_cannot_be_loaded() -> None:
    data = orjson.loads(books.dump(books.compiled(ONE)))
    data["book"]["margins"]["default"] = "0.1"
    with pytest.raises(errors.FailedPreconditionError, match="has the content of"):
        books.load(orjson.dumps(data))


def test_a_book_of_another_format_cannot_be_loaded() -> None:
    data = orjson.loads(books.dump(books.compiled(ONE)))
    data["book"]["format"] = document.FORMAT + 1
    with pytest.raises(errors.FailedPreconditionError, match="format 2, expected 1"):
        books.load(orjson.dumps(data))


# ---- reload


def test_a_changed_file_is_put_in_force_and_the_old_book_stays_findable(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    kept = books.opened(path)
    before = kept.current
    assert kept.look() == books.Reload(book=before, changed=False)
    written(path, TWO)
    assert kept.reload().changed
    assert kept.current.version == books.compiled(TWO).version
    assert kept.find(before.version) is before
    assert pricing.quote_feature(before, "letter", 1, NOW_MS).amount_micros == 12_000_000
    assert pricing.quote_feature(kept.current, "letter", 1, NOW_MS).amount_micros == 15_000_000


def test_looking_does_not_put_in_force(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    kept = books.opened(path)
    written(path, TWO)
    found = kept.look()
    assert (found.changed, kept.current.version) == (True, books.compiled(ONE).version)
    assert kept.find(found.book.version) is None


def test_a_file_with_an_error_changes_nothing_and_is_told_once(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    kept = books.opened(path)
    before = kept.current
    written(path, "margins:\n  default: none\n")
    found = kept.reload()
    assert found.error == f"{path}:2: margins.default: 'none' is not a plain decimal number"
    assert (found.changed, kept.current) == (False, before)
    assert kept.reload() == books.Reload(book=before, changed=False)
    written(path, TWO)
    assert kept.reload().changed


def test_a_file_that_is_gone_changes_nothing(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    kept = books.opened(path)
    path.unlink()
    assert kept.reload().error == f"{path}: cannot be read: No such file or directory"
    assert kept.current.version == books.compiled(ONE).version
    written(path, TWO)
    assert kept.reload().changed


def test_a_file_that_was_only_touched_is_no_change(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "prices.yaml", ONE)
    kept = books.opened(path)
    written(path, f"{ONE}# comment\n")
    assert kept.reload() == books.Reload(book=kept.current, changed=False)


def test_a_server_does_not_start_with_a_bad_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(yaml_file.FileError, match="No such file"):
        books.opened(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"features: {\xe9: {credits: 1}}")
    with pytest.raises(yaml_file.FileError, match="not UTF-8: byte 11"):
        books.opened(tmp_path / "latin.yaml")
    written(tmp_path / "large.yaml", "# " + "x" * books.FILE_BYTES_MAX)
    with pytest.raises(yaml_file.FileError, match="larger than 4194304 bytes"):
        books.opened(tmp_path / "large.yaml")


def small_book(credits_each: int) -> pricing.PriceBook:
    parsed = overrides.parsed(f"features: {{letter: {{credits: {credits_each}}}}}")
    return document.built({"format": document.FORMAT, "providers": [], **parsed})


async def test_a_version_that_is_not_in_memory_comes_from_the_store_once() -> None:
    old = small_book(1)
    asked: list[str] = []

    async def fetch(version: str) -> bytes | None:
        asked.append(version)
        return books.dump(old) if version == old.version else None

    kept = books.Books(small_book(2), fetch=fetch)
    assert kept.find(old.version) is None
    assert await kept.fetch(old.version) == old
    assert await kept.fetch(old.version) == old
    assert asked == [old.version]
    assert kept.current == small_book(2)
    with pytest.raises(errors.FailedPreconditionError, match="price_version: no price book 000000000000"):
        await kept.fetch("000000000000")


async def test_a_store_that_answers_with_another_book_is_not_believed() -> None:
    async def fetch(version: str) -> bytes | None:
        return books.dump(small_book(3))

    kept = books.Books(small_book(2), fetch=fetch)
    with pytest.raises(errors.FailedPreconditionError, match="asked for 000000000000, the store has"):
        await kept.fetch("000000000000")


def test_memory_holds_the_latest_books_and_always_the_one_in_force() -> None:
    kept = books.Books(small_book(0))
    made = [small_book(number) for number in range(1, books.BOOKS_MAX + 3)]
    for book in made:
        kept.use(book)
    found = [kept.find(book.version) is not None for book in made]
    assert found == [False, False] + [True] * books.BOOKS_MAX
    assert kept.current == made[-1]


# ---- the bundled data


def test_the_bundled_prices_are_those_of_the_installed_package() -> None:
    assert document.canonical({"": bundled.load(bundled.PROVIDERS)}) == document.canonical({"": compile.providers()})


def test_the_bundled_extractors_are_those_of_the_installed_package() -> None:
    assert document.canonical({"": bundled.load(bundled.EXTRACTORS)}) == document.canonical({"": compile.extractors()})


def test_pricing_does_not_import_the_package_that_the_data_comes_from() -> None:
    program = (
        "import sys; from meterd.pricing import books, extract, listing, tokens; books.compiled(); "
        "print('genai_prices' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
