"""Requests that no server may take: for each method a good one, and what can be wrong with it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import ids
from meterd_client.v1 import accounts_pb2, metering_pb2, reports_pb2, types_pb2
from tests.integration import serving

BAD = grpc.StatusCode.INVALID_ARGUMENT
RANGE = grpc.StatusCode.OUT_OF_RANGE
MISSING = grpc.StatusCode.NOT_FOUND
EXISTS = grpc.StatusCode.ALREADY_EXISTS
STATE = grpc.StatusCode.FAILED_PRECONDITION

BIG = 2**53
HUGE = 2**63 - 1
DAY_MS = 86_400_000


@dataclasses.dataclass
class World:
    """One account of tenant "acme" in which everything has happened once, and what tenant "other" has."""

    client: serving.Client
    account_id: str
    grant_id: str = ""
    grant_key: str = ""
    revocation_key: str = ""
    # Open holds by what they are for.
    open: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    committed: str = ""
    released: str = ""
    charge_key: str = ""
    foreign_hold: str = ""
    foreign_grant: str = ""
    webhook_id: str = ""
    foreign_webhook: str = ""


async def made_world(client: serving.Client, other: serving.Client, account_id: str) -> World:
    world = World(client=client, account_id=account_id)
    await client.fund(account_id, 10**12)
    grant = serving.grant_request(account_id, 1_000_000)
    world.grant_key = grant.idempotency_key
    world.grant_id = (await client.call("Grant", grant)).grant.grant_id
    world.revocation_key = serving.new_id()
    revoked = (await client.call("Grant", serving.grant_request(account_id, 5))).grant.grant_id
    await client.call("RevokeGrant", revocation(world.revocation_key, revoked))
    for name, charge in CHARGES.items():
        answer = await client.call(
            "Reserve", metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id=account_id, **{name: charge})
        )
        world.open[name] = answer.hold.hold_id
    world.committed = (await client.reserve(account_id, 10)).hold_id
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=world.committed, amount_micros=7))
    world.released = (await client.reserve(account_id, 10)).hold_id
    await client.call("Release", metering_pb2.ReleaseRequest(hold_id=world.released))
    world.charge_key = serving.new_id()
    charge = metering_pb2.ChargeRequest(idempotency_key=world.charge_key, account_id=account_id, credits=credits(3))
    await client.call("Charge", charge)
    await other.fund("theirs", 1_000)
    world.foreign_hold = (await other.reserve("theirs", 10)).hold_id
    theirs = await other.call("Grant", serving.grant_request("theirs", 1))
    world.foreign_grant = theirs.grant.grant_id
    return world


def revocation(key: str, grant_id: str, **fields: Any) -> accounts_pb2.RevokeGrantRequest:
    return accounts_pb2.RevokeGrantRequest(idempotency_key=key, grant_id=grant_id, **fields)


def credits(amount_micros: int) -> types_pb2.CreditsCharge:
    return types_pb2.CreditsCharge(amount_micros=amount_micros)


def model(**changes: Any) -> types_pb2.ModelCharge:
    values: dict[str, Any] = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 500}
    return types_pb2.ModelCharge(**values | changes)


def prompted(prompt: str) -> types_pb2.ModelCharge:
    return types_pb2.ModelCharge(model="gpt-4o-mini", prompt=prompt, max_output_tokens=1)


def feature(name: str, quantity: int = 1) -> types_pb2.FeatureCharge:
    return types_pb2.FeatureCharge(feature=name, quantity=quantity)


def rate(name: str, quantity: str) -> types_pb2.RateCharge:
    return types_pb2.RateCharge(rate=name, quantity=quantity)


def used(**counts: int) -> metering_pb2.ReportedUsage:
    return metering_pb2.ReportedUsage(usage=types_pb2.Usage(**counts))


def raw(json: bytes) -> metering_pb2.ProviderResponse:
    return metering_pb2.ProviderResponse(provider="openai", json=json)


CHARGES: dict[str, Any] = {
    "credits": credits(1_000),
    "model": model(),
    "feature": feature("cover_letter"),
    "rate": rate("vm_minute", "10"),
}
# A request of each method that is answered: the cases below spoil one field of it.
GOOD: dict[str, Callable[[World], dict[str, Any]]] = {
    "Reserve": lambda w: {"hold_id": serving.new_id(), "account_id": w.account_id, "credits": credits(1)},
    "Commit": lambda w: {"hold_id": w.open["credits"], "amount_micros": 1},
    "Release": lambda w: {"hold_id": w.open["feature"]},
    "Extend": lambda w: {"hold_id": w.open["credits"], "ttl_ms": 60_000},
    "Report": lambda w: {"hold_id": w.open["model"], "usage": types_pb2.Usage(input_tokens=1)},
    "Charge": lambda w: {"idempotency_key": serving.new_id(), "account_id": w.account_id, "credits": credits(1)},
    "Estimate": lambda w: {"account_id": w.account_id, "credits": credits(1)},
    "CreateAccount": lambda _: {"account_id": serving.new_id()},
    "GetAccount": lambda w: {"account_id": w.account_id},
    "Grant": lambda w: {
        "idempotency_key": serving.new_id(),
        "account_id": w.account_id,
        "amount_micros": 1,
        "category": 1,
    },
    "RevokeGrant": lambda w: {"idempotency_key": serving.new_id(), "grant_id": w.grant_id},
    "GetBalance": lambda w: {"account_id": w.account_id},
    "ListHolds": lambda w: {"account_id": w.account_id},
    "ListTransactions": lambda w: {"account_id": w.account_id},
    "ExplainSettlement": lambda w: {"account_id": w.account_id, "id": w.committed.partition(".")[0]},
    "Usage": lambda w: {"from_day": "2026-01-01", "to_day": "2026-12-31", "account_id": w.account_id},
    "Revenue": lambda _: {"from_day": "2026-01-01", "to_day": "2026-12-31"},
    "Burn": lambda w: {"account_id": w.account_id},
    "TopAccounts": lambda _: {"from_day": "2026-01-01", "to_day": "2026-12-31"},
}
# Extend, Report and Estimate first: they need the holds that the others end.
ORDER = sorted(GOOD, key=lambda name: name in ("Commit", "Release"))
ONEOFS = {
    "credits",
    "model",
    "feature",
    "rate",
    "model_usage",
    "amount_micros",
    "usage",
    "provider_response",
    "quantity",
}
REQUESTS = {
    name: getattr(module, f"{name}Request")
    for name in GOOD
    for module in (metering_pb2, accounts_pb2, reports_pb2)
    if hasattr(module, f"{name}Request")
}

Changes = dict[str, Any] | Callable[[World], dict[str, Any]]


def request_of(name: str, world: World, changes: Changes) -> Any:
    """The method's good request with these fields instead. A value None leaves the field out."""
    made = changes(world) if callable(changes) else changes
    values = GOOD[name](world)
    if name in ("Reserve", "Charge", "Estimate", "Commit") and ONEOFS & made.keys():
        values = {field: value for field, value in values.items() if field not in ONEOFS}
    return REQUESTS[name](**{field: value for field, value in (values | made).items() if value is not None})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    method: str
    label: str
    code: grpc.StatusCode
    # What the message starts with.
    field: str
    changes: Changes


def cases(method: str, *rows: tuple[str, grpc.StatusCode, str, Changes]) -> list[Case]:
    return [
        Case(method=method, label=label, code=code, field=field, changes=changes)
        for label, code, field, changes in rows
    ]


def text_cases(method: str, field: str, bytes_max: int, *, required: bool) -> list[Case]:
    """An opaque text: only emptiness, length and control characters can be wrong with it."""
    rows: list[tuple[str, Any]] = [
        ("1 KiB", "a" * 1_024),
        ("one byte too long", "a" * (bytes_max + 1)),
        ("emoji too long", "🦊" * (bytes_max // 4 + 1)),
        ("NUL", "a\0b"),
        ("newline", "a\nb"),
        ("C1 control", "a\x85b"),
        *([("empty", "")] if required else []),
    ]
    return cases(method, *((f"{field} {label}", BAD, f"{field}: ", {field: value}) for label, value in rows))


def account_cases(method: str, *, exists: bool = True) -> list[Case]:
    unknown = ("nobody", "a{b}:c", "{m:00}:e", "🦊", "*", "acct ", "ACCT", "a'; DROP TABLE accounts; --")
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        (f"account_id {name!r}", MISSING, "account_id: no such account", {"account_id": name}) for name in unknown
    ]
    theirs: Changes = {"account_id": "theirs"}
    rows.append(("account_id of another tenant", MISSING, "account_id: no such account", theirs))
    return text_cases(method, "account_id", 128, required=method != "Estimate") + (
        cases(method, *rows) if exists else []
    )


def wallet_cases(method: str, *, exists: bool = True) -> list[Case]:
    rows = [("{x}:y", BAD), ("UPPER", BAD), ("w" * 65, BAD), ("w" * 1_024, BAD), ("a\0b", BAD), ("🦊", BAD), (" ", BAD)]
    named = [(f"wallet {name[:8]!r} {len(name)}", code, "wallet: ", {"wallet": name}) for name, code in rows]
    if exists:
        named.append(("unknown wallet", MISSING, "wallet: no such wallet", {"wallet": "other"}))
    return cases(method, *named)


def id_cases(method: str, field: str, *, required: bool) -> list[Case]:
    """An id that the client makes."""
    good = str(uuid.UUID("01890a5d-ac96-7b2c-8f3a-0123456789ab"))
    bad = (
        "x",
        str(uuid.UUID(int=5)),
        "8f14e45f-ceea-467f-9575-1f0ce5b6a5b3",
        good.upper(),
        "{" + good + "}",
        good + " ",
    )
    bad += ("urn:uuid:" + good, good.replace("-", ""), "🦊", "a\0b", "7" * 1_024, *([""] if required else []))
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        (f"{field} {value[:40]!r} {len(value)}", BAD, f"{field}: ", {field: value}) for value in bad
    ]
    rows.append((f"{field} too far ahead", BAD, f"{field}: ", lambda _: {field: serving.new_id(6 * 60_000)}))
    return cases(method, *rows)


def hold_cases(method: str) -> list[Case]:
    bare = "01890a5d-ac96-7b2c-8f3a-0123456789ab"
    bad = ("", "x", bare, bare + ".", bare + ".{m:00}:e", bare + "." + "a" * 21, bare + "." + "a" * 22 + "\n")
    bad += (
        bare.upper() + "." + "a" * 22,
        "8f14e45f-ceea-467f-9575-1f0ce5b6a5b3." + "a" * 22,
        "h" * 1_024,
        "🦊",
        "a\0b",
    )
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        (f"hold_id {value[:60]!r} {len(value)}", BAD, "hold_id: ", {"hold_id": value}) for value in bad
    ]
    address = ids.account_address("acme", "acct")
    rows += [
        ("hold_id of nobody", MISSING, "hold_id: no such hold", lambda _: {"hold_id": f"{serving.new_id()}.{address}"}),
        ("hold_id of an unknown account", MISSING, "", lambda _: {"hold_id": f"{serving.new_id()}.{'a' * 22}"}),
        ("hold_id of another tenant", MISSING, "hold_id: no such hold", lambda w: {"hold_id": w.foreign_hold}),
        ("a charge's id", MISSING, "hold_id: ", lambda w: {"hold_id": f"{w.charge_key}.{address}"}),
    ]
    return cases(method, *rows)


def labelled(**fields: Any) -> types_pb2.Subject:
    return types_pb2.Subject(**fields)


def attribute_cases(method: str) -> list[Case]:
    """Subject, metadata and policies."""
    many = {str(n): "" for n in range(17)}
    subjects = [
        ("user", labelled(user="u" * 129)),
        ("user", labelled(user="a\0b")),
        ("team", labelled(team="🦊" * 33)),
        ("key", labelled(key="k\n")),
        ("operation_id", labelled(operation_id="o" * 1_024)),
        ("labels", labelled(labels=many)),
        ("labels", labelled(labels={"": "v"})),
        ("labels", labelled(labels={"k": "\0"})),
        ("labels", labelled(labels={"k": "v" * 4_096})),
    ]
    metadata = [
        ("4 KiB and 1", {"k": "v" * 4_096}),
        ("many", {f"{n:04d}": "v" for n in range(820)}),
        ("empty key", {"": "v"}),
        ("NUL", {"k": "\0"}),
        ("NUL in key", {"\0": "v"}),
        ("1 MiB", {"k": "🦊" * 262_144}),
    ]
    return cases(
        method,
        *(
            (f"subject.{field} {n}", BAD, f"subject.{field}: ", {"subject": value})
            for n, (field, value) in enumerate(subjects)
        ),
        *((f"metadata {label}", BAD, "metadata: ", {"metadata": value}) for label, value in metadata),
        ("overage_policy", BAD, "overage_policy: ", {"overage_policy": 4}),
        ("overage_policy negative", BAD, "overage_policy: ", {"overage_policy": -1}),
    )


def plain_charge_cases(method: str) -> list[Case]:
    amounts = [(0, BAD), (-1, BAD), (-HUGE - 1, BAD), (BIG, RANGE), (HUGE, RANGE)]
    quantities = ("", "0", "-1", "nan", "inf", "1e3", "0x10", "1,5", " 1", "1.0000000001", "9" * 1_024, "🦊", "1\0")
    return cases(
        method,
        ("no charge", BAD, "charge: ", {"credits": None}),
        *((f"credits {n}", code, "credits.amount_micros: ", {"credits": credits(n)}) for n, code in amounts),
        ("feature empty", BAD, "feature: ", {"feature": feature("")}),
        ("feature unknown", MISSING, "feature", {"feature": feature("{m:00}:e")}),
        ("feature 1 KiB", BAD, "feature: ", {"feature": feature("f" * 1_024)}),
        *(
            (f"feature quantity {n}", BAD, "feature.quantity: ", {"feature": feature("cover_letter", n)})
            for n in (-1, 10**9 + 1, HUGE)
        ),
        ("rate empty", BAD, "rate: ", {"rate": rate("", "1")}),
        ("rate unknown", MISSING, "rate", {"rate": rate("🦊", "1")}),
        *((f"rate quantity {q[:12]!r}", BAD, "rate.quantity: ", {"rate": rate("vm_minute", q)}) for q in quantities),
        ("rate price", RANGE, "amount_micros: ", {"rate": rate("vm_minute", "1000000000000")}),
    )


def model_charge_cases(method: str) -> list[Case]:
    extra = types_pb2.Usage
    spoilt: list[tuple[str, grpc.StatusCode, str, types_pb2.ModelCharge]] = [
        ("unknown", MISSING, "model", model(model="no-such-model")),
        ("empty", BAD, "model", model(model="")),
        ("1 KiB", BAD, "model: ", model(model="m" * 1_024)),
        ("NUL", BAD, "model: ", model(model="gpt\0")),
        ("provider unknown", MISSING, "model: no price for 'nobody/", model(provider="nobody")),
        ("input negative", BAD, "model.input_tokens: ", model(input_tokens=-1)),
        ("input huge", BAD, "model.input_tokens: ", model(input_tokens=10**12 + 1)),
        ("input int64", BAD, "model.input_tokens: ", model(input_tokens=HUGE)),
        ("output negative", BAD, "model.max_output_tokens: ", model(max_output_tokens=-1)),
        ("output huge", BAD, "model.max_output_tokens: ", model(max_output_tokens=BIG)),
        ("least negative", BAD, "model.min_output_tokens: ", model(min_output_tokens=-1)),
        ("least above most", BAD, "model.min_output_tokens: ", model(min_output_tokens=501)),
        ("nothing", BAD, "model: ", model(input_tokens=0, max_output_tokens=0)),
        ("extra negative", BAD, "model.extra.web_searches: ", model(extra=extra(web_searches=-1))),
        ("extra huge", BAD, "model.extra.output_tokens: ", model(extra=extra(output_tokens=BIG))),
        ("extra sums", BAD, "model.extra.cache_read_tokens: ", model(extra=extra(cache_read_tokens=1))),
        ("prompt too long", BAD, "model.prompt: ", prompted("a" * (1_048_576 + 1))),
        ("price", RANGE, "amount_micros: ", model(model="gpt-4", max_output_tokens=10**12)),
    ]
    return cases(method, *((f"model {label}", code, field, {"model": value}) for label, code, field, value in spoilt))


RAW: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("word", b"not json"),
    ("no UTF-8", b'{"usage": "\xff"}'),
    ("no usage", b"{}"),
    ("list", b"[]"),
    ("null usage", b'{"usage": null}'),
    ("text usage", b'{"usage": "none"}'),
    ("negative", b'{"usage": {"prompt_tokens": -1, "completion_tokens": 1}}'),
    ("NaN", b'{"usage": {"prompt_tokens": NaN, "completion_tokens": 1}}'),
    ("infinite", b'{"usage": {"prompt_tokens": 1e999, "completion_tokens": 1}}'),
    ("fraction", b'{"usage": {"prompt_tokens": 1.5, "completion_tokens": 1}}'),
    ("text count", b'{"usage": {"prompt_tokens": "1", "completion_tokens": 1}}'),
    ("above 2^53", b'{"usage": {"prompt_tokens": 9007199254740992, "completion_tokens": 1}}'),
    ("500 digits", b'{"usage": {"prompt_tokens": ' + b"9" * 500 + b', "completion_tokens": 1}}'),
    ("nested", b"[" * 100_000),
    ("too long", b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}, "x": "' + b"x" * 262_144 + b'"}'),
]
USAGES: list[tuple[str, str, metering_pb2.ReportedUsage]] = [
    ("unset", "usage", metering_pb2.ReportedUsage()),
    ("negative", "usage.input_tokens: ", used(input_tokens=-1)),
    ("huge", "usage.output_tokens: ", used(output_tokens=10**12 + 1)),
    ("int64", "usage.requests: ", used(requests=HUGE)),
    ("parts above the whole", "usage.cache_read_tokens: ", used(input_tokens=1, cache_read_tokens=2)),
    ("unknown state", "usage_state: ", metering_pb2.ReportedUsage(usage_state=9)),  # type: ignore[arg-type]
    ("negative state", "usage_state: ", metering_pb2.ReportedUsage(usage_state=-1)),  # type: ignore[arg-type]
]


def commit_cases() -> list[Case]:
    on_model: Callable[..., Changes] = lambda **fields: lambda w: {"hold_id": w.open["model"]} | fields  # noqa: E731
    absent = metering_pb2.ReportedUsage(usage_state=types_pb2.USAGE_STATE_ABSENT, usage=types_pb2.Usage(input_tokens=1))
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        ("amount negative", BAD, "amount_micros: ", {"amount_micros": -1}),
        ("amount int64 min", BAD, "amount_micros: ", {"amount_micros": -HUGE - 1}),
        ("amount 2^53", RANGE, "amount_micros: ", {"amount_micros": BIG}),
        ("amount int64", RANGE, "amount_micros: ", {"amount_micros": HUGE}),
        ("usage of credits", BAD, "usage: ", {"usage": used(input_tokens=1)}),
        ("response of credits", BAD, "provider_response: ", {"provider_response": raw(b"{}")}),
        ("quantity of credits", BAD, "quantity: ", {"quantity": "1"}),
        ("quantity of a model", BAD, "quantity: ", on_model(quantity="1")),
        ("model without usage", BAD, "actual: ", on_model(amount_micros=None)),
        ("absent with usage", BAD, "usage.usage: ", on_model(usage=absent)),
        ("unknown model", MISSING, "model", on_model(usage=used(input_tokens=1), model="no-such-model")),
        (
            "unknown provider",
            MISSING,
            "model: no price for 'nobody/",
            on_model(usage=used(input_tokens=1), provider="nobody"),
        ),
        (
            "other amount",
            EXISTS,
            "hold_id: committed before with other usage",
            lambda w: {"hold_id": w.committed, "amount_micros": 8},
        ),
        ("after release", STATE, "hold_id: the hold has ended as released", lambda w: {"hold_id": w.released}),
    ]
    rows += [(f"usage {label}", BAD, f"usage.{field}", on_model(usage=value)) for label, field, value in USAGES]
    rows += [(f"raw {label}", BAD, "provider_response", on_model(provider_response=raw(value))) for label, value in RAW]
    for quantity in ("0", "-1", "nan", "1e3", "1.0000000001", "", "9" * 1_024):
        asked: Changes = lambda w, q=quantity: {"hold_id": w.open["rate"], "quantity": q}  # noqa: E731
        rows.append((f"quantity {quantity[:12]!r}", BAD, "", asked))
    return hold_cases("Commit") + cases("Commit", *rows)


def settling_cases() -> list[Case]:
    ended: list[tuple[str, Callable[[World], dict[str, Any]]]] = [
        ("committed", lambda w: {"hold_id": w.committed}),
        ("released", lambda w: {"hold_id": w.released}),
    ]
    extends: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        *((f"ttl {n}", BAD, "ttl_ms: ", {"ttl_ms": n}) for n in (0, -1, 999, DAY_MS + 1, HUGE)),
        ("amount negative", BAD, "amount_micros: ", {"amount_micros": -1}),
        ("amount 2^53", RANGE, "amount_micros: ", {"amount_micros": BIG}),
        *((label, STATE, f"hold_id: the hold has ended as {label}", changes) for label, changes in ended),
    ]
    reports: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        ("negative", BAD, "usage.input_tokens: ", {"usage": types_pb2.Usage(input_tokens=-1)}),
        ("huge", BAD, "usage.output_tokens: ", {"usage": types_pb2.Usage(output_tokens=BIG)}),
        ("parts", BAD, "usage.reasoning_tokens: ", {"usage": types_pb2.Usage(reasoning_tokens=1)}),
        ("unknown model", MISSING, "model", {"model": "no-such-model"}),
        ("of credits", STATE, "hold_id: ", lambda w: {"hold_id": w.open["credits"]}),
        *((label, STATE, "hold_id: the hold has ended", changes) for label, changes in ended),
    ]
    after_commit: Changes = lambda w: {"hold_id": w.committed}  # noqa: E731
    return [
        *hold_cases("Release"),
        *text_cases("Release", "reason", 256, required=False)[1:],
        *cases("Release", ("after commit", STATE, "hold_id: the hold has ended as committed", after_commit)),
        *hold_cases("Extend"),
        *cases("Extend", *extends),
        *hold_cases("Report"),
        *cases("Report", *reports),
    ]


def reserve_cases() -> list[Case]:
    same: Changes = lambda w: {"hold_id": w.open["credits"].partition(".")[0], "credits": credits(2)}  # noqa: E731
    return [
        *id_cases("Reserve", "hold_id", required=False),
        *account_cases("Reserve"),
        *wallet_cases("Reserve"),
        *attribute_cases("Reserve"),
        *plain_charge_cases("Reserve"),
        *model_charge_cases("Reserve"),
        *cases(
            "Reserve",
            *((f"ttl {n}", BAD, "ttl_ms: ", {"ttl_ms": n}) for n in (-1, 1, 999, DAY_MS + 1, HUGE)),
            ("expiry_policy", BAD, "expiry_policy: ", {"expiry_policy": 4}),
            ("expiry_policy negative", BAD, "expiry_policy: ", {"expiry_policy": -1}),
            ("hold_id with another amount", EXISTS, "hold_id: used before with another amount_micros", same),
        ),
    ]


def charge_cases() -> list[Case]:
    usage: Callable[..., Changes] = lambda **fields: {"model_usage": metering_pb2.ModelUsage(**fields)}  # noqa: E731
    mini = {"model": "gpt-4o-mini"}
    absent = metering_pb2.ReportedUsage(usage_state=types_pb2.USAGE_STATE_ABSENT)
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        ("no usage", BAD, "model_usage.actual: ", usage(**mini)),
        ("absent usage", BAD, "model_usage.usage.usage_state: ", usage(**mini, usage=absent)),
        ("unknown model", MISSING, "model", usage(model="no-such-model", usage=used(input_tokens=1))),
        ("no model", BAD, "model", usage(usage=used(input_tokens=1))),
        (
            "key with another amount",
            EXISTS,
            "idempotency_key: used before",
            lambda w: {"idempotency_key": w.charge_key, "credits": credits(4)},
        ),
    ]
    rows += [(f"usage {label}", BAD, f"usage.{field}", usage(**mini, usage=value)) for label, field, value in USAGES]
    rows += [
        (f"raw {label}", BAD, "provider_response", usage(**mini, provider_response=raw(value))) for label, value in RAW
    ]
    return [
        *id_cases("Charge", "idempotency_key", required=True),
        *account_cases("Charge"),
        *wallet_cases("Charge"),
        *attribute_cases("Charge"),
        *plain_charge_cases("Charge"),
        *cases("Charge", *rows),
    ]


def estimate_cases() -> list[Case]:
    return [
        *account_cases("Estimate"),
        *wallet_cases("Estimate"),
        *plain_charge_cases("Estimate"),
        *model_charge_cases("Estimate"),
    ]


def at(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


def grant_cases() -> list[Case]:
    amounts = [(0, BAD), (-1, BAD), (BIG, RANGE), (HUGE, RANGE)]
    rows: list[tuple[str, grpc.StatusCode, str, Changes]] = [
        *((f"amount {n}", code, "amount_micros: ", {"amount_micros": n}) for n, code in amounts),
        ("total", RANGE, "amount_micros: ", {"amount_micros": BIG - 1}),
        *((f"category {n}", BAD, "category: ", {"category": n}) for n in (0, 8, -1)),
        *((f"priority {n}", BAD, "priority: ", {"priority": n}) for n in (1001, -1001, -(2**31), 2**31 - 1)),
        ("effective before 1970", BAD, "effective_at: ", {"effective_at": at(-1)}),
        ("effective nanos", BAD, "effective_at: ", {"effective_at": at(1, 1_000_000_000)}),
        ("effective far", BAD, "effective_at: ", {"effective_at": at(253_402_300_800)}),
        ("expires int64", BAD, "expires_at: ", {"expires_at": at(HUGE)}),
        ("expires at 1970", BAD, "expires_at: ", {"expires_at": at(0)}),
        ("expires before now", BAD, "expires_at: ", {"expires_at": at(1_000)}),
        (
            "expires when effective",
            BAD,
            "expires_at: ",
            {"expires_at": at(2_000_000_000), "effective_at": at(2_000_000_000)},
        ),
        ("key with another amount", EXISTS, "idempotency_key: ", lambda w: {"idempotency_key": w.grant_key}),
    ]
    return [
        *text_cases("Grant", "idempotency_key", 128, required=True),
        *account_cases("Grant"),
        *wallet_cases("Grant", exists=False),
        *text_cases("Grant", "source_id", 128, required=False),
        *cases("Grant", *rows),
    ]


def account_service_cases() -> list[Case]:
    reused: Changes = lambda w: {"idempotency_key": w.revocation_key}  # noqa: E731
    grants = ("", "x", "8F14E45F-CEEA-467F-9575-1F0CE5B6A5B3", "🦊", "a\0b", "g" * 1_024)
    conflict: Changes = lambda w: {"account_id": w.account_id, "overdraft_limit_micros": 5}  # noqa: E731
    found = [
        *account_cases("CreateAccount", exists=False),
        *cases(
            "CreateAccount",
            ("limit negative", BAD, "overdraft_limit_micros: ", {"overdraft_limit_micros": -1}),
            ("limit 2^53", RANGE, "overdraft_limit_micros: ", {"overdraft_limit_micros": BIG}),
            ("policy", BAD, "overage_policy: ", {"overage_policy": 4}),
            ("policy negative", BAD, "overage_policy: ", {"overage_policy": -1}),
            ("other settings", EXISTS, "account_id: the account exists with another overdraft_limit_micros", conflict),
        ),
        *text_cases("RevokeGrant", "idempotency_key", 128, required=True),
        *text_cases("RevokeGrant", "reason", 256, required=False)[1:],
        *cases(
            "RevokeGrant",
            *((f"grant_id {value[:20]!r}", BAD, "grant_id: ", {"grant_id": value}) for value in grants),
            ("grant_id of nobody", MISSING, "grant_id: ", lambda _: {"grant_id": str(uuid.uuid4())}),
            ("grant_id of another tenant", MISSING, "grant_id: ", lambda w: {"grant_id": w.foreign_grant}),
            ("key of another revocation", EXISTS, "idempotency_key: ", reused),
        ),
        *account_cases("GetAccount"),
        *account_cases("GetBalance"),
        *account_cases("ExplainSettlement"),
        *text_cases("ExplainSettlement", "id", 128, required=True),
        *cases(
            "ExplainSettlement",
            *((f"id {value[:20]!r}", BAD, "id: ", {"id": value}) for value in ("x", "Z" + str(uuid.UUID(int=7)), "🦊")),
            ("id of nobody", MISSING, "id: ", lambda _: {"id": serving.new_id()}),
            ("id of an open hold", MISSING, "id: ", lambda w: {"id": w.open["credits"]}),
            ("id of another tenant", MISSING, "id: ", lambda w: {"id": w.foreign_hold}),
        ),
    ]
    for name in ("ListHolds", "ListTransactions"):
        sizes = [(f"page_size {n}", BAD, "page_size: ", {"page_size": n}) for n in (-1, 1_001, 2**31 - 1)]
        tokens = [
            (f"page_token {t[:9]!r}", BAD, "page_token: ", {"page_token": t}) for t in ("x", "🦊", "AAAA", "t" * 4_096)
        ]
        found += account_cases(name) + cases(name, *sizes, *tokens)
    return found


CASES = [
    *reserve_cases(),
    *commit_cases(),
    *settling_cases(),
    *charge_cases(),
    *estimate_cases(),
    *grant_cases(),
    *account_service_cases(),
]
