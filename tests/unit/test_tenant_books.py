"""A tenant's price book: the catalog's prices on top of the server's, sharing its tables."""

from __future__ import annotations

import orjson
import pytest

from meterd.core import errors, pricing, usage
from meterd.pricing import books, catalog_file, document

NOW_MS = 1_795_000_000_000
SOLD = "features: {letter: {credits: 10, wallet: writing}}\nrates: {minute: {credits: 2, wallet: machines}}\n"


def server_book(text: str = "") -> pricing.PriceBook:
    return books.compiled(
        "margins: {default: 1.5, features: {letter: 2}}\nfeatures: {letter: {credits: 12}, map: {credits: 3}}\n" + text
    )


def tenant_book(base: pricing.PriceBook, text: str = SOLD) -> pricing.PriceBook:
    layer = document.layer(catalog_file.parsed(text), base)
    assert layer is not None
    return document.layered(layer, base)


def feature_micros(book: pricing.PriceBook, key: str) -> int:
    return pricing.quote_feature(book, key, 1, NOW_MS).amount_micros


@pytest.fixture(scope="module")
def base() -> pricing.PriceBook:
    return server_book()


@pytest.fixture(scope="module")
def other() -> pricing.PriceBook:
    return server_book("credit_value_usd: 0.002\n")


def test_the_tenants_features_replace_those_of_the_server_one_by_one(base: pricing.PriceBook) -> None:
    book = tenant_book(base)
    # The server's margin on the feature holds on, since the catalog has none.
    assert (feature_micros(book, "letter"), feature_micros(book, "map")) == (20_000_000, 3_000_000)
    assert (feature_micros(base, "letter"), feature_micros(base, "map")) == (24_000_000, 3_000_000)
    quote = pricing.quote_feature(book, "letter", 1, NOW_MS)
    assert (quote.wallet, quote.price_version) == ("writing", book.version)
    assert pricing.quote_rate(book, "minute", "1.5", NOW_MS).wallet == "machines"


def test_the_tenants_margins_replace_those_of_the_server_whole(base: pricing.PriceBook) -> None:
    book = tenant_book(base, "margins: {default: 3}\n" + SOLD)
    counts = usage.Usage(input_tokens=1_000_000)
    charged = [
        pricing.quote_model(one, "openai", "gpt-4o-mini", counts, "", NOW_MS).amount_micros for one in (base, book)
    ]
    assert charged == [225_000_000, 450_000_000]
    assert feature_micros(book, "letter") == 10_000_000


def test_the_value_of_a_credit_is_the_tenants_or_the_servers(base: pricing.PriceBook, other: pricing.PriceBook) -> None:
    assert tenant_book(other).credit_value_usd == "0.002"
    own = tenant_book(base, "credit_value_usd: 0.01\n")
    assert own.credit_value_usd == "0.01"
    # Where reports look for it.
    assert orjson.loads(books.dump(own))["book"]["credit_value_femtos"] == 10**13


def test_the_models_tables_are_shared_and_not_copied(base: pricing.PriceBook) -> None:
    book = tenant_book(base)
    assert book.providers is base.providers
    assert book.overrides is base.overrides
    assert len(books.dump(book)) < 1_000


def test_the_version_names_the_servers_prices_and_the_tenants(
    base: pricing.PriceBook, other: pricing.PriceBook
) -> None:
    versions = {
        tenant_book(base).version,
        tenant_book(other).version,
        tenant_book(base, SOLD.replace("10", "11")).version,
        tenant_book(base, SOLD.replace("2,", "3,")).version,
        base.version,
    }
    assert len(versions) == 5
    assert tenant_book(base).version == tenant_book(base).version
    with_packages = SOLD + "packages: {small: {credits: 1, price: 1, currency: usd}}"
    assert tenant_book(base, with_packages).version == tenant_book(base).version


def test_a_catalog_without_prices_leaves_the_book_as_it_is(base: pricing.PriceBook) -> None:
    assert document.layer(catalog_file.parsed("plans: {free: {price: 0}}"), base) is None


async def test_a_tenants_book_is_loaded_with_its_base(base: pricing.PriceBook, other: pricing.PriceBook) -> None:
    book = tenant_book(base)
    stored = {one.version: books.dump(one) for one in (base, book)}
    asked: list[str] = []

    async def fetch(version: str) -> bytes | None:
        asked.append(version)
        return stored.get(version)

    kept = books.Books(other, fetch=fetch)
    found = await kept.fetch(book.version)
    assert (found, asked) == (book, [book.version, base.version])
    assert feature_micros(found, "letter") == 20_000_000
    assert await kept.fetch(book.version) is found
    assert len(asked) == 2
    altered = orjson.loads(books.dump(book))
    altered["book"]["features"]["letter"][0]["price_micros"] = 1
    stored["000000000000"] = orjson.dumps(altered)
    with pytest.raises(errors.FailedPreconditionError, match="has the content of"):
        await kept.fetch("000000000000")


def test_each_tenant_is_charged_by_its_own_book(base: pricing.PriceBook, other: pricing.PriceBook) -> None:
    kept = books.Books(base)
    mine = tenant_book(base)
    kept.use_for("mine", mine)
    assert (kept.of("mine"), kept.of("yours"), kept.find(mine.version)) == (mine, base, mine)
    # With another book of the server comes another one of the tenant; the old ones stay for open holds.
    moved = tenant_book(other)
    kept.use(other, {"mine": moved})
    assert (kept.of("mine"), kept.of("yours")) == (moved, other)
    assert kept.find(mine.version) is mine
    kept.use_for("mine", other)
    assert kept.of("mine") is other


def test_memory_is_bounded_but_for_what_is_in_force(base: pricing.PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "TENANT_BOOKS_MAX", 2)
    kept = books.Books(base)
    made = [tenant_book(base, SOLD.replace("10", str(number))) for number in range(1, 6)]
    for book in made:
        kept.use_for("mine", book)
    assert [kept.find(book.version) is not None for book in made] == [False, False, True, True, True]
    kept.use_for("yours", tenant_book(base, SOLD.replace("10", "99")))
    assert kept.find(made[-1].version) is not None


def test_the_books_on_a_base_go_with_it(base: pricing.PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "BOOKS_MAX", 2)
    kept = books.Books(base)
    mine = tenant_book(base)
    kept.use_for("mine", mine)
    values = [document.built(orjson.loads(base.content) | {"credit_value_femtos": number}) for number in (1, 2)]
    kept.use(values[0])
    assert kept.find(mine.version) is mine
    kept.use(values[1])
    assert (kept.find(base.version), kept.find(mine.version)) == (None, None)
