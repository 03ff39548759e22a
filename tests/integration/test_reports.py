"""Reports on a real Postgres, fed by the real flusher: each figure equals a sum that is made here, apart from it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meterd.core import errors, ids
from meterd.meter import flusher, reports
from meterd.postgres import journal, pool, queries
from meterd.postgres import reports as sums
from meterd.pricing import books
from meterd_client.v1 import reports_pb2
from tests.integration import outbox

UTC = datetime.UTC
DAY = datetime.date(2026, 11, 10)
NOON_MS = int(datetime.datetime(2026, 11, 10, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000
BUNDLED = books.opened(None)
# USD per credit: of the bundled book, which stands in for those that Postgres does not have, and of the two that it has.
VALUES = {"": Decimal("0.001"), "book-1": Decimal("0.001"), "book-2": Decimal("0.0035")}


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[outbox.World]:
    async with outbox.world(database, redis_url) as made:
        for version in ("book-1", "book-2"):
            femtos = int(VALUES[version] * 10**15)
            content = {"version": version, "book": {"credit_value_femtos": femtos}}
            await made.pool.execute("INSERT INTO price_books (version, content) VALUES ($1, $2)", version, content)
        yield made


def service(world: outbox.World, now_ms: int = NOON_MS) -> reports.Reports:
    return reports.Reports(connections=world.pool, books=BUNDLED, clock_ms=lambda: now_ms)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What one settlement adds to the sums."""

    account: str
    at_ms: int
    feature: str = "credits"
    model: str = ""
    user: str = ""
    team: str = ""
    key: str = ""
    wallet: str = "default"
    version: str = "book-1"
    charged: int = 0
    uncollected: int = 0
    tokens: tuple[int, int] = (0, 0)
    cost: Decimal | None = None
    actions: int = 1

    @property
    def day(self) -> str:
        return (datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=self.at_ms)).date().isoformat()

    def terms(self) -> str:
        found = {"item": self.feature, "user": self.user, "team": self.team, "key": self.key, "pv": self.version}
        return json.dumps({name: value for name, value in found.items() if value} | {"op": "op"})

    def detail(self) -> str:
        found: dict[str, Any] = {"us": 1}
        if self.cost is not None:
            found["cost"] = format(self.cost, "f")
        if self.model:
            found["model"] = self.model
        if any(self.tokens):
            found["usage"] = {"input_tokens": self.tokens[0], "output_tokens": self.tokens[1]}
        return json.dumps(found)

    def fields(self) -> dict[str, Any]:
        return {
            "at": self.at_ms, "w": self.wallet, "c": self.charged, "u": self.uncollected, "m": self.terms(), "j": self.detail(),
        }  # fmt: skip


Row = tuple[tuple[str, ...], int, int, int, int, int, Decimal, Decimal]


def row_of(names: tuple[str, ...], facts: Iterable[Fact]) -> Row:
    facts = list(facts)
    # Python rounds to 28 digits unless told otherwise.
    with decimal.localcontext(prec=60) as context:
        context.traps[decimal.Inexact] = True
        cost = sum((fact.cost or Decimal(0) for fact in facts), Decimal(0))
        value = sum((fact.charged * VALUES.get(fact.version, VALUES[""]) for fact in facts), Decimal(0)).scaleb(-6)
        margin = value - cost
    return (
        names,
        sum(fact.actions for fact in facts),
        sum(fact.charged for fact in facts),
        sum(fact.uncollected for fact in facts),
        sum(fact.tokens[0] for fact in facts),
        sum(fact.tokens[1] for fact in facts),
        cost,
        margin,
    )


def expected(facts: Iterable[Fact], group_by: Sequence[str]) -> list[Row]:
    """Days in order, the largest charges first, then by name."""
    groups: dict[tuple[str, ...], list[Fact]] = collections.defaultdict(list)
    for fact in facts:
        groups[tuple(getattr(fact, name) for name in group_by)].append(fact)
    rows = [row_of(names, members) for names, members in groups.items()]
    by_day = group_by.index("day") if "day" in group_by else None
    return sorted(rows, key=lambda row: (row[0][by_day] if by_day is not None else "", -row[2], row[0]))


def answered(row: reports_pb2.UsageRow) -> Row:
    return (
        tuple(row.group), row.actions, row.charged_micros, row.uncollected_micros, row.input_tokens, row.output_tokens,
        Decimal(row.cost_usd), Decimal(row.margin_usd),
    )  # fmt: skip


async def usage(world: outbox.World, *group_by: str, tenant_id: str = "t", **fields: Any) -> reports_pb2.UsageResponse:
    values: dict[str, Any] = {"from_day": "2026-11-01", "to_day": "2026-11-30", "group_by": group_by}
    return await service(world).usage(tenant_id, reports_pb2.UsageRequest(**values | fields))


async def flushed(world: outbox.World) -> None:
    flush = world.flusher()
    await flush.drain()
    await flush.close()


def a_months_facts() -> list[Fact]:
    """Settlements of two accounts with everything that can be grouped by, and charges that never tie."""
    models = ("gpt-4o", "claude", "")
    found: list[Fact] = []
    for at in range(96):
        model = models[at % 3]
        found.append(
            Fact(
                account=("alice", "bob")[at % 2],
                at_ms=NOON_MS + (at % 5 - 2) * DAY_MS + at,
                feature=f"model:x/{model}" if model else ("feature:cv", "rate:vm", "credits")[at % 7 % 3],
                model=model,
                user=f"user-{at % 4}" if at % 6 else "",
                team=("red", "blue")[at // 2 % 2],
                key=f"key-{at % 3}",
                wallet=("default", "leads")[at // 3 % 2],
                version=("book-1", "book-2", "gone")[at % 11 % 3],
                charged=1_000_003 * 2 ** (at % 16) + at * at * 7,
                uncollected=at % 4 * 10,
                tokens=(1_200 + at, 300 + at) if model else (0, 0),
                # More digits than a double, or Python's default context, would keep.
                cost=Decimal(f"0.{at + 1:03d}000000000000000000000000000{at % 9 + 1}") if model else None,
            )
        )
    return found


async def played(world: outbox.World, facts: Iterable[Fact], tenant_id: str = "t") -> dict[str, outbox.Writer]:
    """The facts as commits and direct charges, flushed."""
    writers: dict[str, outbox.Writer] = {}
    for at, fact in enumerate(facts):
        if fact.account not in writers:
            writers[fact.account] = await world.writer(fact.account, 10**15, tenant_id=tenant_id)
        writer = writers[fact.account]
        if at % 5:
            writer.commit(fact.charged, now_ms=fact.at_ms, **fact.fields())
        else:
            (grant_id,) = writer.available
            writer.available[grant_id] -= fact.charged
            writer.spent += fact.charged
            writer.entry("H", ids.uuid7(fact.at_ms), **fact.fields() | {"d": f"{grant_id.hex}:{fact.charged}", "l": 2})
    for writer in writers.values():
        await writer.send(world.client)
    await flushed(world)
    await world.assert_folded(*writers.values())
    return writers


async def assert_proven(world: outbox.World) -> None:
    """What `meterd verify` holds against the sums."""
    async with world.pool.acquire() as connection:
        numbers = [row["account_no"] for row in await connection.fetch("SELECT account_no FROM accounts")]
        assert await queries.broken(connection, "broken_sums", numbers, 10) == []
        for partition in range(outbox.PARTITIONS):
            assert await queries.broken_tenant_sums(connection, partition, 10) == []


GROUPINGS = [
    *((name,) for name in sums.COLUMNS),
    ("day", "feature"),
    ("feature", "day"),
    ("model", "wallet"),
    ("user", "team", "key"),
    ("wallet", "day", "model", "feature"),
    tuple(sums.COLUMNS),
]


async def test_usage_by_all_that_it_can_be_grouped_by_is_the_sum_of_the_settlements(world: outbox.World) -> None:
    facts = a_months_facts()
    await played(world, facts)
    for group_by, account in itertools.product(GROUPINGS, ("", "alice", "bob")):
        found = await usage(world, *group_by, account_id=account)
        wanted = [fact for fact in facts if account in ("", fact.account)]
        assert [answered(row) for row in found.rows] == expected(wanted, group_by), (group_by, account)
        assert answered(found.total) == row_of((), wanted)
        assert not found.has_more
    await assert_proven(world)


async def test_usage_is_by_day_unless_told_otherwise_and_nothing_adds_up_to_nothing(world: outbox.World) -> None:
    facts = a_months_facts()
    await played(world, facts)
    assert [tuple(row.group) for row in (await usage(world)).rows] == [
        (f"2026-11-{day:02d}",) for day in (8, 9, 10, 11, 12)
    ]
    empty = await usage(world, from_day="2025-01-01", to_day="2025-12-31")
    assert list(empty.rows) == []
    assert answered(empty.total) == ((), 0, 0, 0, 0, 0, Decimal(0), Decimal(0))
    assert (empty.total.cost_usd, empty.total.margin_usd) == ("0", "0")


async def test_a_limit_cuts_rows_but_not_the_total(world: outbox.World) -> None:
    facts = a_months_facts()
    await played(world, facts)
    wanted = expected(facts, ("user", "key"))
    cut = await usage(world, "user", "key", limit=3)
    assert [answered(row) for row in cut.rows] == wanted[:3]
    assert (cut.has_more, answered(cut.total)) == (True, row_of((), facts))
    whole = await usage(world, "user", "key", limit=len(wanted))
    assert (len(whole.rows), whole.has_more) == (len(wanted), False)


async def test_a_day_is_utcs_and_begins_at_midnight(world: outbox.World) -> None:
    midnight_ms = NOON_MS // DAY_MS * DAY_MS
    facts = [
        Fact(account="alice", at_ms=midnight_ms + offset, charged=charged)
        for offset, charged in ((-1, 1), (0, 10), (DAY_MS - 1, 100), (DAY_MS, 1_000))
    ]
    await world.pool.execute("ALTER ROLE CURRENT_USER SET timezone = 'Pacific/Kiritimati'")
    try:
        await played(world, facts)
    finally:
        await world.pool.execute("ALTER ROLE CURRENT_USER RESET timezone")
    rows = (await usage(world, "day")).rows
    assert [(row.group[0], row.charged_micros) for row in rows] == [
        ("2026-11-09", 1), ("2026-11-10", 110), ("2026-11-11", 1_000),
    ]  # fmt: skip
    only = await usage(world, "day", from_day="2026-11-10", to_day="2026-11-10")
    assert [row.charged_micros for row in only.rows] == [110]


async def test_a_late_commit_counts_what_it_adds_to_its_holds_expiry(world: outbox.World) -> None:
    """In one batch or in two: the expiry told a part of the usage, the Commit all of it, and it was one action."""
    for name, at_once in (("together", True), ("apart", False)):
        writer = await world.writer(name, 10**9)
        (grant_id,) = writer.available
        hold = ids.uuid7(NOON_MS)
        early = Fact(
            account=name, at_ms=NOON_MS, model="m", charged=100, uncollected=40, tokens=(10, 5), cost=Decimal("0.5")
        )
        late = Fact(
            account=name,
            at_ms=NOON_MS + DAY_MS,
            model="m",
            charged=30,
            uncollected=15,
            tokens=(12, 9),
            cost=Decimal("0.75"),
        )
        writer.entry("E", hold, **early.fields() | {"h": 100, "d": f"{grant_id.hex}:100"})
        if not at_once:
            await writer.send(world.client)
            await flushed(world)
        writer.entry("L", hold, **late.fields() | {"h": 100, "d": f"{grant_id.hex}:30"})
        await writer.send(world.client)
        await flushed(world)
        found = await usage(world, "day", account_id=name)
        assert [answered(row)[:7] for row in found.rows] == [
            (("2026-11-10",), 1, 100, 40, 10, 5, Decimal("0.5")),
            (("2026-11-11",), 0, 30, -25, 2, 4, Decimal("0.25")),
        ]
        assert answered(found.total)[:7] == ((), 1, 130, 15, 12, 9, Decimal("0.75"))
    await assert_proven(world)


async def test_a_late_commit_of_a_hold_that_expired_for_nothing_is_an_action(world: outbox.World) -> None:
    writer = await world.writer("alice", 10**9)
    hold = ids.uuid7(NOON_MS)
    fact = Fact(account="alice", at_ms=NOON_MS, charged=30, tokens=(12, 9), cost=Decimal("0.75"))
    writer.entry("E", hold, at=NOON_MS, h=100, r=100, m=fact.terms())
    writer.entry("R", ids.uuid7(NOON_MS), at=NOON_MS, h=100, r=100, m=fact.terms())
    writer.entry("L", hold, **fact.fields() | {"h": 100})
    await writer.send(world.client)
    await flushed(world)
    found = await usage(world, "day")
    assert [answered(row) for row in found.rows] == expected([fact], ("day",))
    await assert_proven(world)


async def test_what_unlimited_plans_use_is_counted_though_it_charges_nothing(world: outbox.World) -> None:
    fact = Fact(account="alice", at_ms=NOON_MS, model="m", charged=0, tokens=(7, 8), cost=Decimal("0.002"))
    await played(world, [fact])
    total = (await usage(world)).total
    assert (total.actions, total.charged_micros, total.input_tokens, total.output_tokens) == (1, 0, 7, 8)
    assert (total.cost_usd, total.margin_usd) == ("0.002", "-0.002")


async def test_sums_that_no_bigint_holds_are_exact_and_out_of_range_only_for_the_message(world: outbox.World) -> None:
    big = 9_007_199_254_740_991
    facts = [Fact(account="alice", at_ms=NOON_MS, uncollected=big) for _ in range(1_100)]
    await played(world, facts)
    assert await world.pool.fetchval("SELECT sum(uncollected_micros) FROM usage_daily") == big * 1_100
    assert await world.pool.fetchval("SELECT count(*) FROM outbox_dead") == 0
    with pytest.raises(errors.OutOfRangeError, match="uncollected_micros"):
        await usage(world)


async def test_names_of_any_length_and_language_are_kept_apart(world: outbox.World) -> None:
    long = "é" * 64
    names = ["", long, long[:-1] + "e", "a\\b", '"', "', '", '["x"]', "🦊", "null"]
    facts = [
        Fact(account="alice", at_ms=NOON_MS, user=user, team=team, key=long, model="m" * 128, charged=2**at)
        for at, (user, team) in enumerate(itertools.product(names, names))
        if at < 40
    ]
    await played(world, facts)
    found = await usage(world, "user", "team")
    assert [answered(row) for row in found.rows] == expected(facts, ("user", "team"))


@pytest.mark.parametrize("step", flusher.STEPS)
async def test_a_crash_at_any_step_leaves_the_sums_right(world: outbox.World, step: str) -> None:
    facts = [
        dataclasses.replace(fact, account=f"acct{at % 6}", at_ms=NOON_MS + at % 3 * DAY_MS)
        for at, fact in enumerate(a_months_facts())
    ]
    writers = {fact.account: await world.writer(fact.account, 10**15) for fact in facts[:6]}
    for fact in facts:
        writers[fact.account].commit(fact.charged, now_ms=fact.at_ms, **fact.fields())
    for writer in writers.values():
        await writer.send(world.client)
    passes = 0

    async def crash_on_second_pass(reached: str) -> None:
        nonlocal passes
        passes += reached == step
        if reached == step and passes == 2:
            raise _CrashError

    doomed = world.flusher(batch_rows_max=40, trim_interval_s=0.0, failpoint=crash_on_second_pass)
    with pytest.raises(_CrashError):
        for _ in range(10):
            await doomed.step()
    await doomed.close()
    heir = world.flusher(claim_interval_s=0.0)

    async def owns_all() -> bool:
        await heir.step()
        return heir.stats().owned == outbox.PARTITIONS

    await outbox.until(owns_all)
    await heir.drain()
    await heir.close()
    await world.assert_folded(*writers.values())
    for group_by in (("day", "model"), ("user",)):
        assert [answered(row) for row in (await usage(world, *group_by)).rows] == expected(facts, group_by)
    await assert_proven(world)


class _CrashError(BaseException):
    """Stands for the process's death."""


async def test_a_poison_entry_and_its_revival_count_each_settlement_once(world: outbox.World) -> None:
    facts = [Fact(account="alice", at_ms=NOON_MS, charged=10**at, cost=Decimal(at)) for at in range(5)]
    await played(world, facts[:1])
    writer = await world.writer("bob", 10**9)
    await writer.send(world.client)
    await flushed(world)
    await world.pool.execute("CREATE TABLE kept AS SELECT * FROM grants")
    await world.pool.execute("DELETE FROM grants")
    for fact in facts[1:]:
        writer.commit(fact.charged, now_ms=fact.at_ms, **fact.fields())
    await writer.send(world.client)
    await flushed(world)
    assert answered((await usage(world)).total) == row_of((), facts[:1])
    await world.pool.execute("INSERT INTO grants SELECT * FROM kept")
    async with world.pool.acquire() as connection:
        assert await journal.revive(connection, writer.address) == 4
    assert answered((await usage(world)).total) == row_of((), facts)
    await assert_proven(world)


async def test_tampered_sums_are_found(world: outbox.World) -> None:
    await played(world, a_months_facts())
    async with world.pool.acquire() as connection:
        account_no = await connection.fetchval(
            "UPDATE usage_daily SET charged_micros = charged_micros + 1 WHERE (account_no, day, group_id) = "
            "(SELECT account_no, day, group_id FROM usage_daily LIMIT 1) RETURNING account_no"
        )
        (offence,) = await queries.broken(connection, "broken_sums", [account_no], 10)
        assert (offence["account_no"], offence["check_name"]) == (account_no, "charged = Σ ledger")
        assert offence["actual"] - offence["expected"] == 1
        found = [
            row["check_name"]
            for partition in range(outbox.PARTITIONS)
            for row in await queries.broken_tenant_sums(connection, partition, 10)
        ]
        assert found == ["charged = Σ accounts"]


async def test_one_tenant_sees_nothing_of_another(world: outbox.World) -> None:
    await world.catalog.create_tenant("u")
    mine = [fact for fact in a_months_facts() if fact.account == "alice"]
    theirs = [dataclasses.replace(fact, account="carol") for fact in a_months_facts()]
    await played(world, mine)
    await played(world, theirs, tenant_id="u")
    for group_by in (("day",), ("user",)):
        assert answered((await usage(world, *group_by)).total) == row_of((), mine)
        assert answered((await usage(world, *group_by, tenant_id="u")).total) == row_of((), theirs)
    asked = service(world)
    days: dict[str, Any] = {"from_day": "2026-11-01", "to_day": "2026-11-30"}
    assert [row.account_id for row in (await asked.top_accounts("t", reports_pb2.TopAccountsRequest(**days))).rows] == [
        "alice"
    ]
    with pytest.raises(errors.NotFoundError, match="account_id"):
        await usage(world, account_id="carol")
    with pytest.raises(errors.NotFoundError, match="account_id"):
        await asked.burn("t", reports_pb2.BurnRequest(account_id="carol"))
    async with pool.as_tenant(world.pool, "t") as connection:
        for table in ("usage_daily", "usage_tenant_daily"):
            rows = await connection.fetch(f"SELECT DISTINCT tenant_id FROM {table}")
            assert {row[0] for row in rows} <= {"t"}, table
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(f"UPDATE {table} SET tenant_id = 't'")


async def test_top_accounts_come_in_order_of_their_charges(world: outbox.World) -> None:
    facts = [
        Fact(account=f"acct{at}", at_ms=NOON_MS + day * DAY_MS, charged=(at * 7 % 5 + 1) * 100, cost=Decimal(at) / 1000)
        for at in range(5)
        for day in (0, 1)
    ]
    await played(world, facts)
    asked = reports_pb2.TopAccountsRequest(from_day="2026-11-10", to_day="2026-11-11", limit=3)
    found = (await service(world).top_accounts("t", asked)).rows
    wanted = sorted({fact.account: fact for fact in facts}.values(), key=lambda fact: -fact.charged)[:3]
    assert [(row.account_id, row.actions, row.charged_micros, Decimal(row.cost_usd)) for row in found] == [
        (fact.account, 2, 2 * fact.charged, 2 * (fact.cost or 0)) for fact in wanted
    ]
    one_day = reports_pb2.TopAccountsRequest(from_day="2026-11-11", to_day="2026-11-11")
    assert [row.actions for row in (await service(world).top_accounts("t", one_day)).rows] == [1] * 5


async def test_burn_is_averaged_over_the_days_and_tells_when_credits_run_out(world: outbox.World) -> None:
    facts = [
        Fact(account="alice", at_ms=NOON_MS - days_ago * DAY_MS, charged=charged)
        for days_ago, charged in ((7, 10**9), (6, 3_000_000), (3, 4_000_000), (0, 6_000_000))
    ]
    await played(world, facts)
    await world.pool.execute("UPDATE accounts SET created_at = '2026-01-01'")
    await world.pool.execute("UPDATE grants SET effective_at = '2026-01-01', amount_micros = 1064000000")
    answer = await service(world).burn("t", reports_pb2.BurnRequest(account_id="alice"))
    # Six whole days and half of today: 13 credits in 6.5 days. What was spent eight days ago is not in it.
    assert (answer.available_micros, answer.charged_per_day_micros) == (51_000_000, 2_000_000)
    assert answer.days_left == "25.5"
    assert answer.runs_out_at.ToMilliseconds() == NOON_MS + 25 * DAY_MS + DAY_MS // 2
    today = await service(world).burn("t", reports_pb2.BurnRequest(account_id="alice", days=1))
    assert (today.charged_per_day_micros, today.days_left) == (6_000_000, "8.5")


async def test_burn_counts_what_can_be_spent_now_and_only_days_that_the_account_lived(world: outbox.World) -> None:
    writer = await world.writer("alice", 1_000, 20_000, 300_000, 4_000_000, 9_000_000)
    grants = list(writer.available)
    writer.entry("H", ids.uuid7(NOON_MS), at=NOON_MS, c=4_000_000, d=f"{grants[3].hex}:4000000")
    writer.entry("H", ids.uuid7(NOON_MS), at=NOON_MS, n=5, o=7, c=7)
    await writer.send(world.client)
    await flushed(world)
    await world.pool.execute("UPDATE accounts SET created_at = '2026-11-07T12:00Z'")
    await world.pool.execute("UPDATE grants SET effective_at = '2026-11-09'")
    await world.pool.execute("UPDATE grants SET expires_at = '2026-11-10T12:00Z' WHERE grant_id = $1", grants[0])
    await world.pool.execute(
        "UPDATE grants SET effective_at = '2026-11-10T12:00:00.001Z' WHERE grant_id = $1", grants[1]
    )
    await world.pool.execute("UPDATE grants SET revoked = true WHERE grant_id = $1", grants[4])
    answer = await service(world).burn("t", reports_pb2.BurnRequest(account_id="alice", days=30))
    assert answer.available_micros == 300_000 - 7 - 5
    # Three days old, though thirty were asked for; rounded up.
    assert answer.charged_per_day_micros == 1_333_336
    assert answer.days_left == "0.2"


async def test_nothing_burnt_never_runs_out(world: outbox.World) -> None:
    await played(world, [])
    await world.writer("alice")
    answer = await service(world).burn("t", reports_pb2.BurnRequest(account_id="alice"))
    assert (answer.charged_per_day_micros, answer.days_left, answer.HasField("runs_out_at")) == (0, "", False)


BAD_USAGE: list[tuple[str, dict[str, Any]]] = [
    ("from_day", {"from_day": ""}),
    ("from_day", {"from_day": "20261101"}),
    ("from_day", {"from_day": "2026-11-31"}),
    ("from_day", {"from_day": "2026-11-01T00:00"}),
    ("to_day", {"to_day": "2026-1-1"}),
    ("to_day", {"to_day": "٢٠٢٦-11-01"}),
    ("to_day", {"to_day": "2026-10-31"}),
    ("to_day", {"to_day": "2027-11-03"}),
    ("account_id", {"account_id": "x" * 129}),
    ("account_id", {"account_id": "a\nb"}),
    ("group_by", {"group_by": ["day", "charge"]}),
    ("group_by", {"group_by": ["day; DROP TABLE ledger"]}),
    ("group_by", {"group_by": ["day", "user", "day"]}),
    ("limit", {"limit": -1}),
    ("limit", {"limit": 10_001}),
]


@pytest.mark.parametrize(("field", "fields"), BAD_USAGE, ids=[str(fields) for _, fields in BAD_USAGE])
async def test_a_bad_request_is_refused_by_name(world: outbox.World, field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=f"^{field}: "):
        await usage(world, **fields)


async def test_limits_of_the_other_reports_are_refused_by_name(world: outbox.World) -> None:
    asked, days = service(world), {"from_day": "2026-11-01", "to_day": "2026-11-30"}
    for limit in (-1, 1_001):
        with pytest.raises(errors.InvalidArgumentError, match=r"^limit: "):
            await asked.top_accounts("t", reports_pb2.TopAccountsRequest(**days, limit=limit))
    for count in (-1, 91):
        with pytest.raises(errors.InvalidArgumentError, match=r"^days: "):
            await asked.burn("t", reports_pb2.BurnRequest(account_id="alice", days=count))
    with pytest.raises(errors.InvalidArgumentError, match=r"^account_id: "):
        await asked.burn("t", reports_pb2.BurnRequest())
    with pytest.raises(errors.InvalidArgumentError, match=r"^to_day: "):
        await asked.revenue("t", reports_pb2.RevenueRequest(from_day="2026-11-01"))
    # A leap year's 366 days, and one more, since both ends count.
    await usage(world, from_day="2026-11-01", to_day="2027-11-02")


async def test_reports_take_turns_and_a_crowd_is_sent_away(world: outbox.World) -> None:
    asked = service(world)
    days = reports_pb2.UsageRequest(from_day="2026-11-01", to_day="2026-11-30")
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE usage_tenant_daily")
        calls = [asyncio.create_task(asked.usage("t", days)) for _ in range(reports.AT_ONCE_MAX + reports.WAITING_MAX)]
        await outbox.until(lambda: asked.waiting_count == reports.WAITING_MAX)
        with pytest.raises(errors.OverloadedError, match="too many reports"):
            await asked.usage("t", days)
    for call in calls:
        assert list((await call).rows) == []
