"""Prices of models against genai-prices' own Decimal arithmetic, over the whole catalogue; and of features and rates."""

from __future__ import annotations

import datetime
import functools
import random
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

import genai_prices
import hypothesis
import pytest
from genai_prices import data, data_snapshot
from genai_prices import types as source
from hypothesis import strategies

from meterd.core import errors, money, pricing, ratecards, usage
from meterd.pricing import books

# What genai-prices calls the classes that meterd names otherwise.
_THEIRS = {"reasoning_tokens": "output_reasoning_tokens", "citation_tokens": "output_citation_tokens"}
# A tier's context in the price data.
_CONTEXTS = {
    "": {},
    "default": {"service_tier": "default"},
    "batch": {"service_tier": "batch", "processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "search_type=web": {"search_type": "web"},
    "route=mistral/eu": {"route": "mistral/eu"},
}
# Prices that their publisher computed in floats are rounded to a femto-dollar a token, by at most this part.
_ROUNDED_PART = Decimal("1.25e-8")
NOW = datetime.datetime(2026, 11, 21, 7, tzinfo=datetime.UTC)


def ms(at: datetime.datetime) -> int:
    return int(at.timestamp()) * 1000


NOW_MS = ms(NOW)


@functools.cache
def bundled() -> pricing.PriceBook:
    return books.compiled()


@functools.cache
def catalogue_names() -> list[tuple[str, str]]:
    """A provider and a name for every model that has one in genai-prices by which its provider finds a model."""
    return [
        (provider.id, model.id)
        for provider in data.providers
        for model in provider.models
        if provider.find_model(model.id.lower(), all_providers=data.providers) is not None
    ]


def reference(
    provider: str, model: str, counts: dict[str, int], at: datetime.datetime, context: dict[str, str] | None = None
) -> source.PriceCalculation:
    """What genai-prices says; it wants to be told that what lies in two classes is 0."""
    counts = {"cache_audio_read_tokens": 0, "cache_image_read_tokens": 0, **counts}
    theirs = source.Usage(**{_THEIRS.get(name, name): count for name, count in counts.items()})
    return genai_prices.calc_price(
        theirs, model, provider_id=provider, genai_request_timestamp=at, price_context=context
    )


def random_counts(rnd: random.Random) -> dict[str, int]:
    """Counts that a call could have: classes within their totals."""

    def part(of: int) -> int:
        return rnd.choice((0, rnd.randint(0, of)))

    given = rnd.randint(0, rnd.choice((0, 100, 50_000, 150_000, 300_000, 1_500_000)))
    read = part(given)
    written = part(given - read)
    made = rnd.randint(0, rnd.choice((0, 100, 20_000)))
    counts = {
        "input_tokens": given,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": part(written),
        "output_tokens": made,
        "reasoning_tokens": part(made),
        "web_searches": part(5),
    }
    if rnd.random() < 0.3:
        sound = part(given)
        counts |= {
            "input_audio_tokens": sound,
            "cache_audio_read_tokens": min(read, part(sound)),
            "output_audio_tokens": part(made),
        }
    return {name: count for name, count in counts.items() if count}


def checked_against_reference(
    provider: str, model: str, counts: dict[str, int], at: datetime.datetime, tier: str = ""
) -> str:
    """Asserts that both agree, and says on what."""
    context = _CONTEXTS[tier] or None
    try:
        theirs = reference(provider, model, counts, at, context)
    except ValueError:
        # Classes that overlap in more than there is.
        with pytest.raises(errors.InvalidArgumentError):
            pricing.quote_model(bundled(), provider, model, usage.Usage(**counts), tier, ms(at))
        return "overlap"
    if not any(value is not None for value in vars(theirs.model_price).values()):
        return checked_unpriced(provider, model, tier, at)
    try:
        quote = pricing.quote_model(bundled(), provider, model, usage.checked(counts), tier, ms(at))
    except errors.NotFoundError:
        assert not any(ratecards.BY_PRICE_KEY.get(key) for key, value in vars(theirs.model_price).items() if value)
        return "not counted"
    assert quote.item == f"model:{theirs.provider.id}/{theirs.model.id}" or quote.item.endswith(f"/{theirs.model.id}")
    assert quote.cost_femtos is not None
    ours = money.usd_from_femtos(quote.cost_femtos)
    if ours == theirs.total_price:
        return "equal"
    assert abs(ours - theirs.total_price) <= theirs.total_price * _ROUNDED_PART, (provider, model, counts)
    return "rounded"


def checked_unpriced(provider: str, model: str, tier: str, at: datetime.datetime) -> str:
    """A model without prices costs nothing there, and nothing may cost nothing here unless it is known to be free."""
    try:
        quote = pricing.quote_model(bundled(), provider, model, usage.Usage(input_tokens=10), tier, ms(at))
    except errors.NotFoundError:
        return "no price"
    assert (quote.cost_femtos, quote.item.endswith(":free")) == (0, True)
    return "free"


# ---- the whole catalogue


def test_every_model_of_the_catalogue_costs_what_genai_prices_says() -> None:
    rnd = random.Random(20261121)
    found: dict[str, int] = {}
    for provider, model in catalogue_names():
        for counts in (random_counts(rnd), random_counts(rnd)):
            agreed = checked_against_reference(provider, model, counts, NOW)
            found[agreed] = found.get(agreed, 0) + 1
    assert len(catalogue_names()) > 2_200
    # Few enough others that a fault in the arithmetic could not hide among them.
    assert found["equal"] > 4_000
    assert found["free"] < 350
    assert found["rounded"] < 30
    assert found["overlap"] < 10
    assert found["no price"] + found["not counted"] < 100


def dated_or_tiered() -> Iterator[tuple[str, str]]:
    for provider, model in catalogue_names():
        info = data_snapshot.get_snapshot().find_provider_model(model, None, provider, None)[1]
        if not isinstance(info.prices, source.ModelPrice) or info.price_variants:
            yield provider, model


def test_every_dated_price_and_tier_holds_when_and_for_whom_genai_prices_says() -> None:
    rnd = random.Random(5)
    times = [
        datetime.datetime(year, month, day, hour, minute, tzinfo=datetime.UTC)
        for year, month, day in (
            (2024, 1, 1),
            (2025, 6, 9),
            (2025, 6, 10),
            (2026, 10, 12),
            (2026, 10, 14),
            (2027, 1, 1),
        )
        for hour, minute in ((0, 29), (0, 30), (3, 59), (9, 59), (16, 30))
    ]
    names = list(dated_or_tiered())
    assert len(names) > 100
    equal = 0
    for provider, model in names:
        for tier in _CONTEXTS:
            for at in rnd.sample(times, 3):
                equal += checked_against_reference(provider, model, random_counts(rnd), at, tier) == "equal"
    assert equal > len(names) * len(_CONTEXTS) * 2


@hypothesis.settings(derandomize=True, max_examples=100, deadline=None, database=None)
@hypothesis.given(
    name=strategies.integers(min_value=0, max_value=10**6),
    seed=strategies.integers(min_value=0, max_value=10**9),
    tier=strategies.sampled_from(sorted(_CONTEXTS)),
    at_s=strategies.integers(min_value=1_600_000_000, max_value=1_900_000_000),
)
def test_any_call_costs_what_genai_prices_says(name: int, seed: int, tier: str, at_s: int) -> None:
    provider, model = catalogue_names()[name % len(catalogue_names())]
    at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    checked_against_reference(provider, model, random_counts(random.Random(seed)), at, tier)


@hypothesis.settings(derandomize=True, max_examples=100, deadline=None, database=None)
@hypothesis.given(
    name=strategies.integers(min_value=0, max_value=10**6),
    seed=strategies.integers(min_value=0, max_value=10**9),
    margin=strategies.sampled_from(["1", "1.3", "0.333333", "17.5"]),
    credit_value=strategies.sampled_from(["0.001", "0.01", "1", "0.0007"]),
)
def test_an_amount_is_the_exact_cost_with_margin_rounded_up_once_and_its_lines_sum_up(
    name: int, seed: int, margin: str, credit_value: str
) -> None:
    provider, model = catalogue_names()[name % len(catalogue_names())]
    book = with_margin(margin, credit_value)
    counts = usage.checked(random_counts(random.Random(seed)))
    try:
        quote = pricing.quote_model(book, provider, model, counts, "", NOW_MS)
    except (errors.NotFoundError, errors.InvalidArgumentError):
        return
    assert quote.cost_femtos is not None
    exact = Fraction(quote.cost_femtos, 10**15) * Fraction(margin) / Fraction(credit_value) * 1_000_000
    assert exact <= quote.amount_micros < exact + 1
    assert Fraction(quote.exact_numerator, quote.basis.denominator) == exact
    assert Fraction(quote.exact_string()) == exact
    lines = pricing.explain(quote)
    assert sum(line.cost_femtos or 0 for line in lines) == quote.cost_femtos
    assert all(
        Fraction(line.quantity) * Fraction(line.unit_price) == Fraction(line.cost_femtos or 0, 10**15) for line in lines
    )


@functools.cache
def with_margin(margin: str, credit_value: str) -> pricing.PriceBook:
    return books.compiled(f"credit_value_usd: {credit_value}\nmargins: {{default: {margin}}}\n")


@hypothesis.settings(derandomize=True, max_examples=100, deadline=None, database=None)
@hypothesis.given(
    name=strategies.integers(min_value=0, max_value=10**6),
    seed=strategies.integers(min_value=0, max_value=10**9),
    budget=strategies.integers(min_value=0, max_value=10**10),
)
def test_affordable_output_is_the_last_that_the_budget_covers(name: int, seed: int, budget: int) -> None:
    provider, model = catalogue_names()[name % len(catalogue_names())]
    book = with_margin("1.3", "0.0007")
    base = usage.with_counts(usage.checked(random_counts(random.Random(seed))), web_searches=0)
    least = usage.output_tokens_min(base)
    try:
        most = pricing.affordable_output_tokens(book, provider, model, base, "", NOW_MS, budget)
    except (errors.NotFoundError, errors.InvalidArgumentError):
        return

    def amount(output_tokens: int) -> int:
        counts = usage.with_counts(base, output_tokens=output_tokens)
        return pricing.quote_model(book, provider, model, counts, "", NOW_MS).amount_micros

    if most >= least and (most or amount(least) <= budget):
        assert amount(most) <= budget
        assert most == usage.COUNT_MAX or amount(most + 1) > budget
    else:
        assert amount(least) > budget


# ---- exact numbers, as on a bill


def test_a_call_of_gpt_4o_mini_to_the_micro_credit() -> None:
    # 0.15 USD per million input tokens, 0.075 cached, 0.60 output: 800 × 0.15 + 200 × 0.075 + 100 × 0.60 = 195 millionths of a USD.
    counts = usage.checked({"input_tokens": 1000, "cache_read_tokens": 200, "output_tokens": 100})
    quote = pricing.quote_model(bundled(), "openai", "gpt-4o-mini", counts, "", NOW_MS)
    assert (quote.item, quote.amount_micros, quote.cost_femtos) == (
        "model:openai/gpt-4o-mini",
        195_000,
        195_000_000_000,
    )
    assert [(line.usage_class, line.quantity, line.unit_price) for line in pricing.explain(quote)] == [
        ("input", "800", "0.00000015"),
        ("cache_read", "200", "0.000000075"),
        ("output", "100", "0.0000006"),
    ]


def test_cache_writes_of_five_minutes_and_of_an_hour_have_their_own_prices() -> None:
    # claude-sonnet-4-5: input 3, write 3.75, write for an hour 6, read 0.30, output 15 USD per million.
    counts = usage.checked(
        {
            "input_tokens": 1000,
            "cache_read_tokens": 500,
            "cache_write_tokens": 400,
            "cache_write_1h_tokens": 100,
            "output_tokens": 10,
        }
    )
    quote = pricing.quote_model(bundled(), "anthropic", "claude-sonnet-4-5", counts, "", NOW_MS)
    assert [(line.usage_class, line.quantity, line.unit_price) for line in pricing.explain(quote)] == [
        ("input", "100", "0.000003"),
        ("cache_read", "500", "0.0000003"),
        ("cache_write", "300", "0.00000375"),
        ("cache_write_1h", "100", "0.000006"),
        ("output", "10", "0.000015"),
    ]
    assert money.usd_string(quote.cost_femtos or 0) == "0.002325"


def test_a_tier_of_input_changes_the_price_of_all_tokens_above_it_and_not_at_it() -> None:
    def cost(input_tokens: int) -> str:
        counts = usage.Usage(input_tokens=input_tokens, output_tokens=1000)
        return money.usd_string(
            pricing.quote_model(bundled(), "anthropic", "claude-sonnet-4-5", counts, "", NOW_MS).cost_femtos or 0
        )

    assert (cost(200_000), cost(200_001)) == ("0.615", "1.222506")


def test_a_price_changes_at_its_date() -> None:
    def price(at: datetime.datetime) -> str:
        quote = pricing.quote_model(bundled(), "openai", "o3", usage.Usage(input_tokens=1_000_000), "", ms(at))
        return money.usd_string(quote.cost_femtos or 0)

    change = datetime.datetime(2025, 6, 10, tzinfo=datetime.UTC)
    assert (price(change - datetime.timedelta(seconds=1)), price(change)) == ("10", "2")


def test_a_service_tier_has_its_price_and_an_unknown_one_the_standard_price() -> None:
    def price(tier: str) -> str:
        quote = pricing.quote_model(bundled(), "openai", "gpt-4o-mini", usage.Usage(input_tokens=10**6), tier, NOW_MS)
        return money.usd_string(quote.cost_femtos or 0)

    assert [price(tier) for tier in ("", "priority", "PRIORITY", "batch", "gold")] == [
        "0.15",
        "0.25",
        "0.25",
        "0.075",
        "0.15",
    ]


@pytest.mark.parametrize("tier", ["x" * 65, "pri\0ority", "prio;rity", "größe", "{}"])
def test_a_malformed_tier_is_refused_by_name(tier: str) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        pricing.quote_model(bundled(), "openai", "gpt-4o-mini", usage.Usage(input_tokens=1), tier, NOW_MS)
    assert caught.value.field == "service_tier"


def test_one_token_is_rounded_up_to_a_micro_credit_and_none_costs_nothing() -> None:
    book = books.compiled("models: [{provider: acme, model: tiny, prices: {input_mtok: 0.000000001, output_mtok: 0}}]")
    one = pricing.quote_model(book, "acme", "tiny", usage.Usage(input_tokens=1), "", NOW_MS)
    none = pricing.quote_model(book, "acme", "tiny", usage.Usage(), "", NOW_MS)
    assert (one.cost_femtos, one.amount_micros, one.exact_string()) == (1, 1, "0.000001")
    assert (none.cost_femtos, none.amount_micros) == (0, 0)


def test_an_amount_above_the_range_is_refused() -> None:
    book = books.compiled("models: [{provider: acme, model: gold, prices: {input_mtok: 1000000000, output_mtok: 0}}]")
    with pytest.raises(errors.OutOfRangeError) as caught:
        pricing.quote_model(book, "acme", "gold", usage.Usage(input_tokens=10**12), "", NOW_MS)
    assert caught.value.field == "amount_micros"


def test_an_unknown_model_is_never_free() -> None:
    with pytest.raises(errors.NotFoundError, match="model: no price for 'openai/gpt-nonsense' in the price book"):
        pricing.quote_model(bundled(), "openai", "gpt-nonsense", usage.Usage(input_tokens=1), "", NOW_MS)
    with pytest.raises(errors.NotFoundError, match="model: no price for 'nonsense' in the price book"):
        pricing.quote_model(bundled(), "", "nonsense", usage.Usage(input_tokens=1), "", NOW_MS)


@pytest.mark.parametrize("name", ["{}:", "nul\0", "😀", "x" * 1024, ""])
def test_an_odd_name_is_refused_or_not_found_and_forgotten_in_bounded_memory(name: str) -> None:
    with pytest.raises((errors.NotFoundError, errors.InvalidArgumentError)):
        pricing.quote_model(bundled(), "openai", name, usage.Usage(input_tokens=1), "", NOW_MS)


def test_the_memo_of_names_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "RESOLVED_MAX", 50)
    book = books.compiled("unknown_model: {policy: fallback_rate, prices: {input_mtok: 1, output_mtok: 1}}")
    for index in range(60):
        pricing.quote_model(book, "acme", f"model-{index}", usage.Usage(input_tokens=1), "", NOW_MS)
    assert len(book.resolved) == 10


@pytest.mark.parametrize(("policy", "quarantined"), [(pricing.FALLBACK_RATE, False), (pricing.QUARANTINE, True)])
def test_an_unknown_model_has_the_rate_that_the_operator_set(policy: str, quarantined: bool) -> None:
    book = books.compiled(f"unknown_model: {{policy: {policy}, prices: {{input_mtok: 40, output_mtok: 80}}}}")
    quote = pricing.quote_model(book, "acme", "new", usage.Usage(input_tokens=1, output_tokens=1), "", NOW_MS)
    assert (quote.item, quote.amount_micros, quote.quarantined) == ("model:acme/new", 120_000, quarantined)


# ---- counts


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"input_tokens": -1}, "usage.input_tokens: must be from 0 to 1000000000000"),
        ({"input_tokens": 10**12 + 1}, "usage.input_tokens: must be from 0 to 1000000000000"),
        ({"input_tokens": True}, "usage.input_tokens: must be an integer"),
        ({"input_tokens": 1.0}, "usage.input_tokens: must be an integer"),
        ({"tokens": 1}, "usage.tokens: unknown class"),
        (
            {"input_tokens": 5, "cache_read_tokens": 3, "cache_write_tokens": 3},
            "usage.cache_read_tokens: cache_read_tokens + cache_write_tokens is 6, more than input_tokens, "
            "which includes it and is 5",
        ),
        (
            {"output_tokens": 5, "reasoning_tokens": 6},
            "usage.reasoning_tokens: reasoning_tokens is 6, more than output_tokens, which includes it and is 5",
        ),
        (
            {"cache_write_1h_tokens": 1},
            "usage.cache_write_1h_tokens: cache_write_1h_tokens is 1, more than cache_write_tokens, "
            "which includes it and is 0",
        ),
    ],
)
def test_counts_that_cannot_be_are_refused_by_name(counts: dict[str, int], message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        usage.checked(counts)
    assert str(caught.value) == message


# ---- features and rates

FIXED = """
margins: {features: {letter: 1.5}}
features:
  letter: {credits: 12}
  cheap: {credits: 0.000001}
  gone: {credits: 1, active: false}
  dated:
    - {credits: 1, until: 2026-01-01}
    - {credits: 2, from: 2026-06-01}
rates:
  minute: {credits: 0.5, unit: minute}
  image: {credits: 3, fractional: false}
  dust: {credits: 0.000000000000001}
"""


@functools.cache
def fixed() -> pricing.PriceBook:
    return books.compiled(FIXED)


def test_a_feature_costs_its_credits_times_actions_and_margin() -> None:
    quote = pricing.quote_feature(fixed(), "letter", 3, NOW_MS)
    assert (quote.item, quote.amount_micros, quote.margin) == ("feature:letter", 54_000_000, "1.5")
    assert quote.cost_femtos is None
    assert pricing.explain(quote) == (
        pricing.Line(usage_class="feature", quantity="3", unit_price="12", cost_femtos=None),
    )
    assert pricing.quote_feature(fixed(), "cheap", 1, NOW_MS).amount_micros == 1


@pytest.mark.parametrize(
    ("quantity", "amount_micros"),
    [("1", 500_000), ("0.5", 250_000), ("1.000000001", 500_001), ("0.000000001", 1), ("2.50", 1_250_000)],
)
def test_a_rate_costs_its_credits_times_quantity_rounded_up(quantity: str, amount_micros: int) -> None:
    quote = pricing.quote_rate(fixed(), "minute", quantity, NOW_MS)
    assert (quote.item, quote.amount_micros) == ("rate:minute", amount_micros)


def test_a_rate_finer_than_a_micro_credit_is_exact_before_it_is_rounded() -> None:
    quote = pricing.quote_rate(fixed(), "dust", "1000000000.5", NOW_MS)
    assert (quote.amount_micros, quote.exact_string()) == (2, "1.0000000005")


@pytest.mark.parametrize(
    "quantity",
    [
        "",
        "0",
        "0.0",
        "-1",
        "+1",
        "1e3",
        "NaN",
        "inf",
        "0x10",
        " 1",
        "1 ",
        "1\n",
        "1.",
        ".5",
        "1,5",
        "1.0000000001",
        "٣",
        "1" * 16,
    ],
)
def test_a_quantity_that_is_no_positive_decimal_is_refused_by_name(quantity: str) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        pricing.quote_rate(fixed(), "minute", quantity, NOW_MS)
    assert caught.value.field == "rate.quantity"


def test_a_rate_in_whole_units_refuses_a_part_of_one() -> None:
    assert pricing.quote_rate(fixed(), "image", "2.000", NOW_MS).amount_micros == 6_000_000
    with pytest.raises(errors.InvalidArgumentError, match=r"rate\.quantity: image is charged in whole units"):
        pricing.quote_rate(fixed(), "image", "2.5", NOW_MS)


@pytest.mark.parametrize("quantity", [0, -1, 10**9 + 1])
def test_a_feature_is_charged_in_a_sensible_number_of_actions(quantity: int) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        pricing.quote_feature(fixed(), "letter", quantity, NOW_MS)
    assert caught.value.field == "feature.quantity"


def test_a_feature_or_rate_without_a_price_is_not_found() -> None:
    between = ms(datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC))
    with pytest.raises(errors.NotFoundError, match="feature: no feature 'nothing' in the price book"):
        pricing.quote_feature(fixed(), "nothing", 1, NOW_MS)
    with pytest.raises(errors.NotFoundError, match="feature: gone is not active"):
        pricing.quote_feature(fixed(), "gone", 1, NOW_MS)
    with pytest.raises(errors.NotFoundError, match="feature: dated has no price in force at that time"):
        pricing.quote_feature(fixed(), "dated", 1, between)
    with pytest.raises(errors.NotFoundError, match="rate: no rate 'nothing' in the price book"):
        pricing.quote_rate(fixed(), "nothing", "1", NOW_MS)


def test_a_feature_changes_its_price_at_its_date() -> None:
    until = ms(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    since = ms(datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC))
    assert pricing.quote_feature(fixed(), "dated", 1, until - 1).amount_micros == 1_000_000
    assert pricing.quote_feature(fixed(), "dated", 1, since).amount_micros == 2_000_000
