"""The hot path's use cases on the exact ledger in memory, with the bundled prices."""

from __future__ import annotations

import json
import uuid

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger, memory
from meterd.meter import holds, metering
from meterd.pricing import books
from meterd_client.v1 import metering_pb2 as pb
from meterd_client.v1 import types_pb2 as types
from tests import ledgers

NOW_MS = ledgers.START_MS
PRICES = """
features:
  cover_letter: {credits: 12}
rates:
  vm_minute: {credits: 0.5}
"""
# gpt-4o-mini: 0.15 USD per million input tokens, 0.60 per million output tokens; 1 credit is 0.001 USD.
INPUT_MICROS, OUTPUT_MICROS = 150, 600


async def count_words(model: str, text: str) -> int:
    return len(text.split())


class NoPostgres:
    """An account that Redis does not have is nowhere, and no id is old."""

    async def hydrate(self, tenant_id: str, address: str) -> None:
        raise errors.NotFoundError("account_id: no such account")

    async def settled(self, tenant_id: str, address: str, txn: uuid.UUID) -> holds.Durable | None:
        return None


class Meter:
    def __init__(self) -> None:
        self.ledger = memory.MemoryLedger(NOW_MS)
        self.now_ms = NOW_MS
        self.metering = metering.Metering(
            self.ledger,
            books.Books(books.compiled(PRICES)),
            hydration=NoPostgres(),
            durable=NoPostgres(),
            count_tokens=count_words,
            clock_ms=lambda: self.now_ms,
            tombstone_ttl_ms=3_600_000,
        )

    @classmethod
    async def with_grant(cls, granted_micros: int) -> Meter:
        made = cls()
        await made.ledger.load(ledgers.account_state())
        await made.ledger.apply(ids.account_address("t", "acct"), ledgers.grant_change(1, granted_micros))
        return made

    def advance(self, millis: int) -> None:
        self.now_ms += millis
        self.ledger.now_ms = self.now_ms


@pytest_asyncio.fixture
async def meter() -> Meter:
    return await Meter.with_grant(100_000_000)


def model(**changes: object) -> types.ModelCharge:
    return types.ModelCharge(**{"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 500} | changes)  # type: ignore[arg-type]


def reserve_request(**changes: object) -> pb.ReserveRequest:
    values: dict[str, object] = {"hold_id": str(ids.uuid7(NOW_MS)), "account_id": "acct"}
    if not any(name in changes for name in ("model", "feature", "rate", "credits")):
        values["model"] = model()
    return pb.ReserveRequest(**values | changes)  # type: ignore[arg-type]


async def held(meter: Meter, **changes: object) -> types.Hold:
    response = await meter.metering.reserve("t", reserve_request(**changes))
    assert response.WhichOneof("outcome") == "hold"
    return response.hold


async def test_a_model_hold_covers_input_and_most_output(meter: Meter) -> None:
    hold = await held(meter)
    assert hold.amount_micros == 1_000 * INPUT_MICROS + 500 * OUTPUT_MICROS
    assert (hold.cost_estimate_usd, hold.max_output_tokens) == ("0.00045", 500)


async def test_a_commit_charges_the_reported_usage_by_class(meter: Meter) -> None:
    hold = await held(meter)
    usage = pb.ReportedUsage(usage=types.Usage(input_tokens=1_000, cache_read_tokens=400, output_tokens=100))
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, usage=usage))
    settlement = response.settlement
    # 600 × 0.15 + 400 × 0.075 + 100 × 0.60 USD per million
    assert settlement.cost_usd == "0.00018"
    assert settlement.charged_micros == 180_000
    assert settlement.returned_micros == hold.amount_micros - 180_000
    assert sorted(line.cost_usd for line in settlement.breakdown) == ["0.00003", "0.00006", "0.00009"]
    assert settlement.usage_state == types.USAGE_STATE_REPORTED
    assert response.balance.available_micros == 100_000_000 - 180_000


async def test_a_commit_reads_the_providers_own_response(meter: Meter) -> None:
    hold = await held(meter)
    body = {
        "model": "gpt-4o-mini-2024-07-18",
        "usage": {"prompt_tokens": 1_000, "completion_tokens": 10, "total_tokens": 1_010},
    }
    raw = pb.ProviderResponse(provider="openai", json=json.dumps(body).encode())
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, provider_response=raw))
    assert response.settlement.charged_micros == 1_000 * INPUT_MICROS + 10 * OUTPUT_MICROS


async def test_a_prompt_is_counted(meter: Meter) -> None:
    charge = types.ModelCharge(model="gpt-4o-mini", prompt="one two three", max_output_tokens=1)
    hold = await held(meter, model=charge)
    assert hold.amount_micros == 3 * INPUT_MICROS + OUTPUT_MICROS


async def test_a_denial_says_how_many_output_tokens_are_affordable() -> None:
    meter = await Meter.with_grant(200_000)
    response = await meter.metering.reserve("t", reserve_request())
    assert response.denial.required_micros == 450_000
    assert response.denial.available_micros == 200_000
    assert response.denial.affordable_output_tokens == (200_000 - 150_000) // OUTPUT_MICROS
    assert response.denial.reasons[0].scope == "wallet:default"


async def test_a_smaller_hold_says_what_it_covers() -> None:
    meter = await Meter.with_grant(200_000)
    hold = await held(meter, model=model(min_output_tokens=50))
    assert (hold.amount_micros, hold.max_output_tokens) == (200_000, 83)


async def test_a_feature_costs_its_price_and_commits_without_usage(meter: Meter) -> None:
    hold = await held(meter, feature=types.FeatureCharge(feature="cover_letter", quantity=2))
    assert hold.amount_micros == 24_000_000
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id))
    assert response.settlement.charged_micros == 24_000_000


async def test_a_rate_is_charged_for_the_real_quantity(meter: Meter) -> None:
    hold = await held(meter, rate=types.RateCharge(rate="vm_minute", quantity="10"))
    assert hold.amount_micros == 5_000_000
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, quantity="2.5"))
    assert response.settlement.charged_micros == 1_250_000


async def test_absent_usage_charges_the_whole_hold_and_never_nothing(meter: Meter) -> None:
    hold = await held(meter)
    absent = pb.ReportedUsage(usage_state=types.USAGE_STATE_ABSENT)
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, usage=absent))
    assert response.settlement.charged_micros == hold.amount_micros
    assert response.settlement.usage_state == types.USAGE_STATE_ABSENT


async def test_absent_usage_charges_what_was_reported(meter: Meter) -> None:
    hold = await held(meter)
    so_far = types.Usage(input_tokens=1_000, output_tokens=20)
    await meter.metering.report("t", pb.ReportRequest(hold_id=hold.hold_id, usage=so_far))
    absent = pb.ReportedUsage(usage_state=types.USAGE_STATE_ABSENT)
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, usage=absent))
    assert response.settlement.charged_micros == 1_000 * INPUT_MICROS + 20 * OUTPUT_MICROS


async def test_an_explicit_zero_is_zero(meter: Meter) -> None:
    hold = await held(meter)
    zero = pb.ReportedUsage(usage=types.Usage())
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, usage=zero))
    assert response.settlement.charged_micros == 0


@pytest.mark.parametrize(
    ("granted_micros", "output_tokens", "advice"),
    [
        (10_000_000, 100, pb.ReportResponse.ADVICE_CONTINUE),
        (450_000, 100, pb.ReportResponse.ADVICE_CONTINUE),
        (450_000, 500, pb.ReportResponse.ADVICE_STOP),
    ],
)
async def test_a_report_tells_whether_to_go_on(granted_micros: int, output_tokens: int, advice: int) -> None:
    meter = await Meter.with_grant(granted_micros)
    hold = await held(meter)
    usage = types.Usage(input_tokens=1_000, output_tokens=output_tokens)
    response = await meter.metering.report("t", pb.ReportRequest(hold_id=hold.hold_id, usage=usage))
    assert response.advice == advice
    assert response.used_micros == 1_000 * INPUT_MICROS + output_tokens * OUTPUT_MICROS


async def test_a_report_above_the_expected_input_shrinks_the_output() -> None:
    meter = await Meter.with_grant(450_000)
    hold = await held(meter)
    usage = types.Usage(input_tokens=2_000, output_tokens=100)
    response = await meter.metering.report("t", pb.ReportRequest(hold_id=hold.hold_id, usage=usage))
    assert response.advice == pb.ReportResponse.ADVICE_SHRINK
    assert response.affordable_output_tokens == (450_000 - 2_000 * INPUT_MICROS) // OUTPUT_MICROS - 100


async def test_an_estimate_touches_nothing(meter: Meter) -> None:
    request = pb.EstimateRequest(account_id="acct", model=model())
    response = await meter.metering.estimate("t", request)
    assert response.amount_micros == 450_000
    assert not response.HasField("denial")
    assert response.balance.available_micros == 100_000_000
    assert meter.ledger.kinds == [(ids.account_address("t", "acct"), ledger.Kind.GRANT, uuid.UUID(int=1))]


async def test_a_direct_charge_of_known_usage(meter: Meter) -> None:
    usage = pb.ReportedUsage(usage=types.Usage(input_tokens=100, output_tokens=10))
    request = pb.ChargeRequest(
        idempotency_key=str(ids.uuid7(NOW_MS)),
        account_id="acct",
        model_usage=pb.ModelUsage(model="gpt-4o-mini", usage=usage),
    )
    first = await meter.metering.charge("t", request)
    again = await meter.metering.charge("t", request)
    assert first.settlement.charged_micros == 100 * INPUT_MICROS + 10 * OUTPUT_MICROS
    assert again.replayed and again.settlement.charged_micros == first.settlement.charged_micros


async def test_a_conflicting_reserve_names_what_differs(meter: Meter) -> None:
    request = reserve_request()
    await meter.metering.reserve("t", request)
    request.model.max_output_tokens = 501
    with pytest.raises(errors.AlreadyExistsError, match="hold_id: used before with another max_output_tokens"):
        await meter.metering.reserve("t", request)


BAD: list[tuple[str, dict[str, object], type[errors.MeterdError]]] = [
    ("account_id", {"account_id": ""}, errors.InvalidArgumentError),
    ("account_id", {"account_id": "a" * 1_024}, errors.InvalidArgumentError),
    ("account_id", {"account_id": "a\0b"}, errors.InvalidArgumentError),
    ("account_id", {"account_id": "unknown"}, errors.NotFoundError),
    ("hold_id", {"hold_id": "not-a-uuid"}, errors.InvalidArgumentError),
    ("hold_id", {"hold_id": str(uuid.uuid4())}, errors.InvalidArgumentError),
    ("hold_id", {"hold_id": str(ids.uuid7(NOW_MS + 6 * 60_000))}, errors.InvalidArgumentError),
    ("wallet", {"wallet": "{x}:y"}, errors.InvalidArgumentError),
    ("wallet", {"wallet": "other"}, errors.NotFoundError),
    ("ttl_ms", {"ttl_ms": -1}, errors.InvalidArgumentError),
    ("ttl_ms", {"ttl_ms": 999}, errors.InvalidArgumentError),
    ("ttl_ms", {"ttl_ms": 24 * 3_600_000 + 1}, errors.InvalidArgumentError),
    ("charge", {"model": None}, errors.InvalidArgumentError),
    ("model.input_tokens", {"model": model(input_tokens=-1)}, errors.InvalidArgumentError),
    ("model.max_output_tokens", {"model": model(max_output_tokens=-1)}, errors.InvalidArgumentError),
    ("model.min_output_tokens", {"model": model(min_output_tokens=501)}, errors.InvalidArgumentError),
    ("model", {"model": model(model="no-such-model")}, errors.NotFoundError),
    ("model", {"model": model(model="")}, errors.MeterdError),
    ("feature", {"feature": types.FeatureCharge(feature="nothing")}, errors.NotFoundError),
    (
        "feature.quantity",
        {"feature": types.FeatureCharge(feature="cover_letter", quantity=-1)},
        errors.InvalidArgumentError,
    ),
    ("rate", {"rate": types.RateCharge(rate="nothing", quantity="1")}, errors.NotFoundError),
    ("rate.quantity", {"rate": types.RateCharge(rate="vm_minute", quantity="0")}, errors.InvalidArgumentError),
    ("rate.quantity", {"rate": types.RateCharge(rate="vm_minute", quantity="nan")}, errors.InvalidArgumentError),
    ("rate.quantity", {"rate": types.RateCharge(rate="vm_minute", quantity="1e3")}, errors.InvalidArgumentError),
    ("credits.amount_micros", {"credits": types.CreditsCharge(amount_micros=0)}, errors.InvalidArgumentError),
    ("credits.amount_micros", {"credits": types.CreditsCharge(amount_micros=-1)}, errors.InvalidArgumentError),
    ("credits.amount_micros", {"credits": types.CreditsCharge(amount_micros=2**53)}, errors.OutOfRangeError),
    ("metadata", {"metadata": {"k": "v" * 4_096}}, errors.InvalidArgumentError),
    ("metadata", {"metadata": {"": "v"}}, errors.InvalidArgumentError),
    ("subject.user", {"subject": types.Subject(user="u" * 129)}, errors.InvalidArgumentError),
    ("subject.labels", {"subject": types.Subject(labels={str(n): "" for n in range(17)})}, errors.InvalidArgumentError),
]


@pytest.mark.parametrize(("field", "changes", "error"), BAD)
async def test_a_bad_reserve_names_the_field_and_writes_nothing(
    meter: Meter, field: str, changes: dict[str, object], error: type[errors.MeterdError]
) -> None:
    before = await meter.ledger.account(ids.account_address("t", "acct"))
    with pytest.raises(error, match=rf"^{field}\b"):
        await meter.metering.reserve("t", reserve_request(**changes))
    assert await meter.ledger.account(ids.account_address("t", "acct")) == before


@pytest.mark.parametrize("account_id", ["a{b}:c", "日本語", "🦊" * 20, "a b\u202ec", "é", "é"])
async def test_any_opaque_account_id_has_its_own_credits(meter: Meter, account_id: str) -> None:
    await meter.ledger.load(ledgers.account_state(account_id))
    address = ids.account_address("t", account_id)
    await meter.ledger.apply(address, ledgers.grant_change(1, 1_000))
    hold = await held(meter, account_id=account_id, credits=types.CreditsCharge(amount_micros=400))
    assert hold.account_id == account_id
    other = await meter.ledger.account(ids.account_address("t", "acct"))
    assert other is not None and other.held_micros == 0


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        ("provider_response", b"not json"),
        ("provider_response", b"{}"),
        ("provider_response", b'{"usage": null}'),
        ("provider_response", b'{"usage": {"prompt_tokens": -1, "completion_tokens": 1}}'),
        ("provider_response", b'{"usage": {"prompt_tokens": NaN, "completion_tokens": 1}}'),
        ("provider_response", b'{"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}'),
        ("provider_response", b"[" * 100_000),
        ("provider_response", b"x" * (256 * 1024 + 1)),
    ],
)
async def test_a_bad_provider_response_leaves_the_hold_open(meter: Meter, field: str, raw: bytes) -> None:
    hold = await held(meter)
    response = pb.ProviderResponse(provider="openai", json=raw)
    with pytest.raises(errors.InvalidArgumentError, match=rf"^{field}"):
        await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, provider_response=response))
    assert len(await meter.ledger.holds(ids.account_address("t", "acct"))) == 1


@pytest.mark.parametrize(
    "hold_id",
    ["", "x", str(uuid.UUID(int=1)), str(ids.uuid7(NOW_MS)) + ".", str(ids.uuid7(NOW_MS)) + ".a{m:00}:e"],
    # The same in every worker: the values are not.
    ids=["empty", "word", "version", "dot", "key"],
)
async def test_a_malformed_hold_id_is_named(meter: Meter, hold_id: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"^hold_id"):
        await meter.metering.commit("t", pb.CommitRequest(hold_id=hold_id))


async def test_a_hold_of_another_tenant_is_not_found(meter: Meter) -> None:
    hold = await held(meter)
    commit = pb.CommitRequest(hold_id=hold.hold_id, amount_micros=1)
    with pytest.raises(errors.NotFoundError, match=r"^hold_id: no such hold"):
        await meter.metering.commit("thief", commit)
    with pytest.raises(errors.NotFoundError, match=r"^hold_id: no such hold"):
        await meter.metering.release("thief", pb.ReleaseRequest(hold_id=hold.hold_id))


async def test_a_late_commit_is_priced_from_the_terms_of_its_hold(meter: Meter) -> None:
    hold = await held(meter, ttl_ms=1_000)
    meter.advance(1_000)
    parsed = ids.parse_hold_id(hold.hold_id)
    await meter.ledger.expire(parsed.address, parsed.uuid)
    usage = pb.ReportedUsage(usage=types.Usage(input_tokens=1_000, output_tokens=1))
    response = await meter.metering.commit("t", pb.CommitRequest(hold_id=hold.hold_id, usage=usage))
    assert response.settlement.state == types.HOLD_STATE_COMMITTED_LATE
    assert response.settlement.charged_micros == 1_000 * INPUT_MICROS + OUTPUT_MICROS
