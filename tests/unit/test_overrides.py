"""The operator's price file: what it changes, and what is wrong with one, by line and field."""

from __future__ import annotations

import datetime
import pathlib
import re

import pytest

from meterd.core import errors, money, pricing, usage
from meterd.pricing import books, overrides, yaml_file

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "PRICES.md"
MILLION = usage.Usage(input_tokens=1_000_000)


def at(*date: int) -> int:
    return int(datetime.datetime(*date, tzinfo=datetime.UTC).timestamp()) * 1000  # type: ignore[arg-type]


NOW_MS = at(2026, 11, 21)


def usd(
    book: pricing.PriceBook,
    provider: str,
    model: str,
    counts: usage.Usage = MILLION,
    tier: str = "",
    at_ms: int = NOW_MS,
) -> str:
    quote = pricing.quote_model(book, provider, model, counts, tier, at_ms)
    return money.usd_string(quote.cost_femtos or 0)


def problem(text: str) -> yaml_file.FileError:
    with pytest.raises(yaml_file.FileError) as caught:
        books.compiled(text, "prices.yaml")
    return caught.value


# ---- what a file changes


@pytest.mark.parametrize("text", ["", "   \n", "# nothing\n", "null\n", "{}\n", "---\n"])
def test_an_empty_file_is_the_bundled_prices(text: str) -> None:
    assert books.compiled(text).version == books.compiled().version


def test_an_own_price_replaces_the_catalogues_whole() -> None:
    book = books.compiled(
        "models: [{provider: openai, model: gpt-4o-mini, prices: {input_mtok: 0.10, output_mtok: 0.40}}]"
    )
    assert usd(book, "openai", "gpt-4o-mini") == "0.1"
    assert usd(book, "", "gpt-4o-mini-2024-07-18") == "0.1"
    # The file has no price for cached input: it costs what input costs.
    cached = usage.Usage(input_tokens=1_000_000, cache_read_tokens=1_000_000)
    assert usd(book, "openai", "gpt-4o-mini", cached) == "0.1"
    assert usd(book, "openai", "gpt-4o") == usd(books.compiled(), "openai", "gpt-4o")


def test_a_new_model_is_found_by_its_names_in_any_case() -> None:
    text = """
models:
  - provider: Acme
    model: Sonar-9
    aliases: [sonar, "sonar:latest"]
    prices: {input_mtok: 1, output_mtok: 2}
"""
    book = books.compiled(text)
    for provider, model in (("acme", "sonar-9"), ("ACME", "SONAR"), ("", "sonar:latest")):
        quote = pricing.quote_model(book, provider, model, MILLION, "", NOW_MS)
        assert (quote.item, quote.amount_micros) == ("model:acme/Sonar-9", 1_000_000_000)
    with pytest.raises(errors.NotFoundError):
        pricing.quote_model(book, "other", "sonar", MILLION, "", NOW_MS)


def test_the_last_dated_price_that_holds_counts_and_before_all_the_catalogue() -> None:
    text = """
models:
  - provider: openai
    model: gpt-4o-mini
    prices:
      - {from: 2026-01-01, input_mtok: 1, output_mtok: 1}
      - {from: 2026-03-01T12:00:00+02:00, until: 2026-04-01, input_mtok: 2, output_mtok: 2}
"""
    book = books.compiled(text)
    times = (at(2025, 12, 31), at(2026, 1, 1), at(2026, 3, 1, 9, 59), at(2026, 3, 1, 10), at(2026, 4, 1))
    assert [usd(book, "openai", "gpt-4o-mini", at_ms=time) for time in times] == ["0.15", "1", "1", "2", "1"]


def test_a_service_tier_changes_some_prices_and_leaves_the_others() -> None:
    text = """
models:
  - provider: acme
    model: nine
    prices:
      input_mtok: 10
      output_mtok: 40
      service_tiers: {batch: {input_mtok: 5}, priority: {output_mtok: 80}}
"""
    book = books.compiled(text)
    both = usage.Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert [usd(book, "acme", "nine", both, tier) for tier in ("", "batch", "priority", "flex")] == [
        "50",
        "45",
        "90",
        "50",
    ]


def test_a_price_may_rise_with_the_input() -> None:
    text = """
models:
  - provider: acme
    model: long
    prices:
      input_mtok: {base: 1, tiers: [{above: 100, price: 2}, {above: 200, price: 4}]}
      output_mtok: 0
"""
    book = books.compiled(text)
    costs = [usd(book, "acme", "long", usage.Usage(input_tokens=count)) for count in (100, 101, 200, 201)]
    assert costs == ["0.0001", "0.000202", "0.0004", "0.000804"]


def test_a_price_per_request_is_charged_once_a_call() -> None:
    text = "models: [{provider: acme, model: r, prices: {input_mtok: 0, output_mtok: 0, requests_kcount: 5}}]"
    book = books.compiled(text)
    assert usd(book, "acme", "r", usage.Usage()) == "0.005"
    assert usd(book, "acme", "r", usage.Usage(requests=3)) == "0.015"


def test_the_most_specific_margin_counts() -> None:
    text = """
margins:
  default: 1.1
  providers: {OpenAI: 1.2}
  models: {openai/gpt-4o-mini: 1.3}
"""
    book = books.compiled(text)
    found = [
        pricing.quote_model(book, "", model, MILLION, "", NOW_MS).margin
        for model in ("claude-sonnet-4-5", "gpt-4o", "gpt-4o-mini-2024-07-18")
    ]
    assert found == ["1.1", "1.2", "1.3"]
    quote = pricing.quote_model(book, "openai", "gpt-4o-mini", MILLION, "", NOW_MS)
    assert (quote.amount_micros, money.usd_string(quote.cost_femtos or 0)) == (195_000_000, "0.15")


def test_the_value_of_a_credit_sets_how_many_a_call_takes() -> None:
    book = books.compiled("credit_value_usd: 0.01")
    quote = pricing.quote_model(book, "openai", "gpt-4o-mini", MILLION, "", NOW_MS)
    assert (quote.amount_micros, quote.credit_value_usd) == (15_000_000, "0.01")


def test_numbers_never_pass_through_a_float() -> None:
    text = "models: [{provider: a, model: b, prices: {input_mtok: 0.123456789, output_mtok: 12345678.123456789}}]"
    book = books.compiled(text)
    one = usage.Usage(input_tokens=1, output_tokens=1)
    assert usd(book, "a", "b", one) == "12.345678246913578"


# ---- what is wrong with a file

_MODEL = "models:\n  - provider: acme\n    model: m\n    prices:\n"


@pytest.mark.parametrize(
    ("text", "line", "place", "reason"),
    [
        ("a: [", 1, "", "not YAML"),
        ("a: b: c", 1, "", "not YAML"),
        ("- 1", 1, "", "must be a mapping"),
        ("model: []", 1, "model", "unknown field; known are credit_value_usd, margins"),
        ("rates: {}\nrates: {}", 2, "rates", "stands here twice"),
        ("credit_value_usd: 0", 1, "credit_value_usd", "must be greater than 0"),
        ("credit_value_usd: -1", 1, "credit_value_usd", "must not be negative"),
        ("credit_value_usd: 1e-3", 1, "credit_value_usd", "'1e-3' is not a plain decimal number"),
        ("credit_value_usd: .inf", 1, "credit_value_usd", "'.inf' is not a plain decimal number"),
        ("credit_value_usd: NaN", 1, "credit_value_usd", "'NaN' is not a plain decimal number"),
        ("credit_value_usd: 0x10", 1, "credit_value_usd", "'0x10' is not a plain decimal number"),
        ("credit_value_usd: 1_000", 1, "credit_value_usd", "'1_000' is not a plain decimal number"),
        ("credit_value_usd: 0.0000000000000001", 1, "credit_value_usd", "with at most 15 decimals"),
        ("credit_value_usd: [1]", 1, "credit_value_usd", "must be a single value"),
        ("margins:\n  default: 0", 2, "margins.default", "must be a factor greater than 0 and at most 1000"),
        ("margins:\n  default: 1001", 2, "margins.default", "must be a factor"),
        ("margins:\n  default: 1.0000001", 2, "margins.default", "with at most 6 decimals"),
        ("margins:\n  models: {gpt-4o: 2}", 2, "margins.models.gpt-4o", 'must be written "provider/model"'),
        ("unknown_model: {policy: free}", 1, "unknown_model.policy", "'free' is not one of deny, fallback_rate, quarantine"),
        ("unknown_model: {policy: fallback_rate}", 1, "unknown_model", "fallback_rate needs prices"),
        (
            "unknown_model:\n  policy: quarantine\n  prices: {input_mtok: 0, output_mtok: 0}",
            2,
            "unknown_model.prices",
            "an unknown model must not be free",
        ),
        ("models: {}", 1, "models", "must be a list"),
        ("models:\n  - model: m", 2, "models[0].provider", "is missing"),
        ("models:\n  - provider: acme\n    model: m", 2, "models[0].prices", "is missing"),
        (_MODEL + "      input_mtok: -1\n", 5, "models[0].prices.input_mtok", "must not be negative"),
        (_MODEL + "      input_mtok: 1,5\n", 5, "models[0].prices.input_mtok", "'1,5' is not a plain decimal number"),
        (_MODEL + "      input_mtok: 1000000001\n", 5, "models[0].prices.input_mtok", "must be at most 1000000000"),
        (_MODEL + "      input_mtok: 0.0000000001\n", 5, "models[0].prices.input_mtok", "at most 9 decimals"),
        (_MODEL + "      input_tokens: 1\n", 5, "models[0].prices.input_tokens", "unknown field"),
        (_MODEL + "      {}\n", 5, "models[0].prices", "has no price"),
        (_MODEL + "      []\n", 5, "models[0].prices", "must not be empty"),
        (_MODEL + "      cache_read_mtok: 1\n", 5, "models[0].prices", "cache_read_mtok needs input_mtok"),
        (
            _MODEL + "      - {input_mtok: 1, output_mtok: 1}\n      - {input_mtok: 1, from: 2026-13-01}\n",
            6,
            "models[0].prices[1].from",
            "must be a date",
        ),
        (
            _MODEL + "      - {input_mtok: 1, from: 2026-01-01T00:00:00}\n",
            5,
            "models[0].prices[0].from",
            "a time needs its zone",
        ),
        (
            _MODEL + "      input_mtok: 1\n      from: 2026-02-01\n      until: 2026-02-01\n",
            7,
            "models[0].prices.until",
            "must be after from",
        ),
        (
            _MODEL + "      input_mtok: {base: 1, tiers: [{above: 5, price: 1}, {above: 5, price: 2}]}\n",
            5,
            "models[0].prices.input_mtok.tiers[1].above",
            "larger than the one before",
        ),
        (
            _MODEL + "      input_mtok: 1\n      service_tiers: {batch: {cache_write_1h_mtok: 1}}\n",
            6,
            "models[0].prices.service_tiers.batch",
            "cache_write_1h_mtok needs cache_write_mtok",
        ),
        (
            "models:\n  - {provider: a, model: m, prices: {input_mtok: 1}}\n  - {provider: A, model: M, prices: {input_mtok: 1}}",
            3,
            "models[1]",
            "A/M stands in models[0] too",
        ),
        ("features:\n  letter: {price: 12}", 2, "features.letter.price", "unknown field; known are credits"),
        ("features:\n  letter: {}", 2, "features.letter.credits", "is missing"),
        ("features:\n  letter: {credits: 0.0000001}", 2, "features.letter.credits", "at most 6 decimals"),
        ("features:\n  letter: {credits: 1, active: yes}", 2, "features.letter.active", "'yes' is not one of true, false"),
        ("features:\n  letter: {credits: 1, wallet: Big One}", 2, "features.letter.wallet", "must be 1 to 64 of a-z"),
        ("features:\n  'a b': {credits: 1}", 2, "features.a b", "must be 1 to 64 letters, digits"),
        ("features:\n  '{m:1}': {credits: 1}", 2, "features.{m:1}", "must be 1 to 64 letters, digits"),
        ("rates:\n  minute: {credits: 0.0000000000000001}", 2, "rates.minute.credits", "at most 15 decimals"),
        ("rates: {minute: 5}", 1, "rates.minute", "must be a mapping"),
        ("a: &x 1\nb: *x", 2, "*x", "aliases are not supported"),
        ("a: !!python/object:os.system {}", 1, "a", "unknown field"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_field(text: str, line: int, place: str, reason: str) -> None:
    found = problem(text)
    assert (found.line, found.place) == (line, place)
    assert reason in found.reason
    assert str(found).startswith(f"prices.yaml:{line}: ")


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    for nested in (
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "\n".join(" " * depth + "a:" for depth in range(100)),
    ):
        assert problem(nested).reason == "nested more than 32 deep"


def test_a_file_with_too_many_entries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "ENTRIES_MAX", 3)
    assert "more than 3 entries" in str(
        problem("features: {a: {credits: 1}, b: {credits: 1}, c: {credits: 1}, d: {credits: 1}}")
    )


# ---- the documentation


def test_the_example_of_the_documentation_is_a_price_file_and_charges_what_it_says() -> None:
    text = DOCUMENT.read_text()
    [example] = re.findall(r"```yaml\n(# prices\.yaml.*?)```", text, re.DOTALL)
    book = books.compiled(example)
    counts = usage.checked({"input_tokens": 1000, "cache_read_tokens": 200, "output_tokens": 100})
    quote = pricing.quote_model(book, "openai", "gpt-4o-mini", counts, "", NOW_MS)
    assert (money.usd_string(quote.cost_femtos or 0), quote.margin, quote.amount_micros) == ("0.000195", "1.5", 292_500)
    assert pricing.quote_feature(book, "cover_letter", 1, NOW_MS).amount_micros == 12_000_000
    assert pricing.quote_rate(book, "vm_minute", "2.5", NOW_MS).amount_micros == 1_250_000
    unknown = pricing.quote_model(book, "acme", "brand-new", usage.Usage(input_tokens=1000), "", NOW_MS)
    assert (unknown.quarantined, unknown.amount_micros) == (True, 45_000_000)
    own = pricing.quote_model(book, "acme", "llama-70b", usage.Usage(input_tokens=1_000_000), "batch", NOW_MS)
    assert money.usd_string(own.cost_femtos or 0) == "0.3"


def test_the_documentation_names_every_field_of_the_file() -> None:
    text = DOCUMENT.read_text()
    for key in (
        "credit_value_usd",
        "margins",
        "unknown_model",
        "models",
        "features",
        "rates",
        "aliases",
        "service_tiers",
    ):
        assert f"`{key}`" in text, key
    for unit in overrides.PRICE_KEYS:
        assert f"`{unit}`" in text, unit
