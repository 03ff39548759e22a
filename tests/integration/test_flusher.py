"""The flusher on a real Postgres and a real Redis: every record once, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meterd.core import ids
from meterd.meter import flusher
from meterd.postgres import journal, partitions
from meterd.redis import keys
from tests.integration import outbox


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[outbox.World]:
    async with outbox.world(database, redis_url) as made:
        yield made


class Crash(BaseException):
    """Stands for the process's death."""


async def test_a_record_becomes_a_row_with_its_terms_and_detail_taken_apart(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000_000)
    writer.commit(123, now_ms=world.now_ms, q=7, n=9)
    await writer.send(world.client)
    flush = world.flusher()
    assert await flush.drain() == 2
    await world.assert_folded(writer)
    row = await world.pool.fetchrow("SELECT * FROM ledger WHERE kind = 'C'")
    assert (row["charged_micros"], row["returned_micros"], row["held_before_micros"], row["tenant_id"]) == (
        123,
        5,
        128,
        "t",
    )
    assert (row["subject_user"], row["subject_team"], row["subject_key"], row["operation_id"]) == (
        "u1",
        "t1",
        None,
        "op-1",
    )
    assert (row["item"], row["price_version"], row["model"]) == (
        "model:openai/gpt-4o-mini",
        "2026-11-01.1",
        "gpt-4o-mini-2024-07-18",
    )
    assert (row["usage_state"], row["cost_usd"]) == (1, Decimal("0.00012345"))
    assert (row["terms"], row["detail"]) == (outbox.TERMS, outbox.DETAIL)
    assert row["drawn"] == [f"{next(iter(writer.available)).hex}:123"]
    assert (row["expired"], row["revoked"], row["overage"], len(row["digest"])) == ([], [], 2, 16)
    wallet = await world.pool.fetchrow("SELECT * FROM wallets")
    assert (wallet["wallet"], wallet["held_micros"], wallet["debt_micros"]) == ("default", 7, 0)
    assert await world.pool.fetchval("SELECT held_micros FROM accounts") == 9
    await flush.close()


async def test_changes_born_in_postgres_are_marked_as_applied(world: outbox.World) -> None:
    writer = await world.writer("acct", 500, 700)
    first, second = writer.available
    writer.commit(100, now_ms=world.now_ms)
    revocation, _ = await world.catalog.revoke_grant("t", grant_id=second, idempotency_key="rev", reason="mistake")
    writer.revoke(revocation)
    writer.expire_grant(first)
    _, unchanged = await world.catalog.change_settings("t", "acct", frozen=True)
    assert not unchanged
    change = await world.pool.fetchrow("SELECT change_no, change_id FROM account_changes WHERE kind = 'S'")
    writer.entry("S", change["change_id"], w="-", i=change["change_no"])
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    await world.assert_folded(writer)
    assert await world.pool.fetchval("SELECT count(*) FROM account_changes WHERE applied_at IS NULL") == 0
    assert await world.pool.fetchval("SELECT applied_change_no FROM accounts") == 4
    rows = await world.pool.fetch("SELECT revoked, applied_at IS NOT NULL AS applied FROM grants ORDER BY change_no")
    assert [(row["revoked"], row["applied"]) for row in rows] == [(False, True), (True, True)]
    assert await world.pool.fetchval("SELECT count(*) FROM wallets") == 1
    await flush.close()


@pytest.mark.parametrize("step", flusher.STEPS)
async def test_a_crash_at_any_step_loses_and_doubles_nothing(world: outbox.World, step: str) -> None:
    writers = [await world.writer(f"acct{at}", 1_000_000) for at in range(6)]
    for writer in writers:
        for at in range(20):
            writer.commit(10 + at, now_ms=world.now_ms)
        await writer.send(world.client)
    passes = 0

    async def crash_on_second_pass(reached: str) -> None:
        nonlocal passes
        passes += reached == step
        if reached == step and passes == 2:
            raise Crash

    doomed = world.flusher(batch_rows_max=40, trim_interval_s=0.0, failpoint=crash_on_second_pass)
    crashed = False
    for _ in range(10):
        try:
            await doomed.step()
        except Crash:
            crashed = True
            break
    assert crashed
    await doomed.close()
    heir = world.flusher(claim_interval_s=0.0)
    await _until_owned(heir)
    await heir.drain()
    await world.assert_folded(*writers)
    assert await world.pool.fetchval("SELECT count(*) FROM outbox_dead") == 0
    assert (await partitions.positions(world.pool))[0].epoch == 1
    await heir.close()


async def _until_owned(flush: flusher.Flusher) -> None:
    """Steps until the flusher has all partitions; a terminated connection's locks are freed by Postgres, a moment later."""

    async def owns_all() -> bool:
        await flush.step()
        return flush.stats().owned == outbox.PARTITIONS

    await outbox.until(owns_all)


async def test_crashes_at_random_steps_under_load_lose_and_double_nothing(world: outbox.World) -> None:
    chance = random.Random(7)
    writers = [await world.writer(f"acct{at}", 10**9) for at in range(10)]

    async def sometimes(_: str) -> None:
        if chance.random() < 0.05:
            raise OSError("the connection broke")

    flush = world.flusher(batch_rows_max=64, failpoint=sometimes)
    running = asyncio.create_task(flush.run())
    for _ in range(30):
        for writer in writers:
            for _ in range(chance.randrange(4)):
                writer.commit(chance.randrange(1, 1000), now_ms=world.now_ms)
            await writer.send(world.client)
    total = sum(writer.seq for writer in writers)
    await outbox.until(lambda: world.has_rows(total))
    flush.stop()
    await running
    assert flush.stats().errors > 0
    await world.assert_folded(*writers)


# What asyncpg makes of a connection that has just gone depends on the moment.
@pytest.mark.parametrize(
    "fault", [ConnectionResetError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError]
)
async def test_a_commit_whose_answer_was_lost_is_not_repeated(world: outbox.World, fault: type[Exception]) -> None:
    writer = await world.writer("acct", 1_000)
    writer.commit(10, now_ms=world.now_ms)
    await writer.send(world.client)

    async def cut(step: str) -> None:
        if step == "committed" and not cuts:
            cuts.append(
                await world.pool.fetchval(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'meterd flusher' AND datname = current_database()"
                )
            )
            raise fault("connection lost at COMMIT")

    cuts: list[bool] = []
    flush = world.flusher(failpoint=cut)
    running = asyncio.create_task(flush.run())
    await outbox.until(lambda: bool(cuts) and flush.stats().owned == outbox.PARTITIONS)
    flush.stop()
    await running
    assert cuts == [True]
    await world.assert_folded(writer)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_serialization_failure_is_retried(world: outbox.World, sqlstate: str) -> None:
    writer = await world.writer("acct", 1_000)
    await world.pool.execute(f"""
        CREATE SEQUENCE attempts;
        CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') <= 2 THEN RAISE EXCEPTION 'try again' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER fail_twice AFTER UPDATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION fail_twice();
    """)
    writer.commit(10, now_ms=world.now_ms)
    await writer.send(world.client)
    flush = world.flusher()
    running = asyncio.create_task(flush.run())
    await outbox.until(lambda: flush.stats().flushed == 2)
    flush.stop()
    await running
    assert flush.stats().errors == 2
    await world.assert_folded(writer)


async def test_two_flushers_share_the_partitions_and_write_each_record_once(world: outbox.World) -> None:
    writers = [await world.writer(f"acct{at}", 10**9) for at in range(8)]
    flushers = [world.flusher(batch_rows_max=32) for _ in range(2)]
    running = [asyncio.create_task(flush.run()) for flush in flushers]
    for writer in writers:
        for at in range(50):
            writer.commit(1 + at, now_ms=world.now_ms)
        await writer.send(world.client)
    total = sum(writer.seq for writer in writers)
    await outbox.until(lambda: world.has_rows(total))
    assert sum(flush.stats().owned for flush in flushers) == outbox.PARTITIONS
    for flush in flushers:
        flush.stop()
    await asyncio.gather(*running)
    assert sum(flush.stats().flushed for flush in flushers) == total
    await world.assert_folded(*writers)


async def test_a_flusher_whose_cursor_was_overtaken_writes_nothing(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    await writer.send(world.client)
    found = journal.Slice(
        partition=writer.partition,
        epoch=1,
        cursor="0-0",
        entries=await world.client.xrange(keys.outbox(writer.partition)),
        fresh_ms=0,
    )
    connection = await asyncpg.connect(world.dsn)
    await journal.write(connection, [found])
    with pytest.raises(journal.MovedError):
        await journal.write(connection, [found])
    await partitions.begin_epoch(world.pool, writer.partition, 1, "other")
    with pytest.raises(journal.MovedError):
        await journal.write(connection, [found])
    await world.assert_folded(writer)
    await connection.close()


async def test_entries_of_another_redis_are_left_alone_until_it_is_armed(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    await writer.send(world.client)
    await world.client.set(keys.sentinel(writer.partition), "1:stranger")
    flush = world.flusher()
    assert await flush.drain() == 0
    assert flush.stats().fenced == 1
    await world.client.set(keys.sentinel(writer.partition), "1:test")
    assert await flush.drain() == 1
    assert flush.stats().fenced == 0
    await flush.close()


POISON: list[dict[str, Any]] = [
    {"c": "12x"},
    {"c": "-"},
    {"c": "1,2"},
    {"e": "{"},
    {"r": "9223372036854775808"},
    {"k": "Q"},
    {"t": "nothex"},
    {"d": "abc:1"},
    {"d": f"{'f' * 32}:5"},
    {"m": b"not json"},
    {"m": b'{"user":"\\u0000"}'},
    {"m": b"\xff\xfe"},
    {"j": b'{"cost":"abc"}'},
    {"j": b'{"us":"99999"}'},
    {"m": b"[" * 20_000 + b"]" * 20_000},
    {"a": "unknown-account-addres"},
    {"w": 'a"b'},
    {"s": "77"},
    {"p": "C" + "0" * 32},
]


@pytest.mark.parametrize("fields", POISON, ids=[str(fields)[:40] for fields in POISON])
async def test_a_poison_entry_is_set_aside_and_blocks_its_account_only(
    world: outbox.World, fields: dict[str, Any]
) -> None:
    causes = ("undecodable", "rejected", "unknown_account", "broken_chain")
    # What names another account, or a wrong number, is noticed at the next entry, which does not follow on the last good one.
    after = "broken_chain" if "a" in fields else "parked"
    bad, good = await world.writer("bad", 1_000), await world.writer("good", 1_000)
    # Both in one stream.
    await world.pool.execute("UPDATE accounts SET partition = 0")
    bad.partition = good.partition = 0
    bad.commit(1, now_ms=world.now_ms)
    good.commit(2, now_ms=world.now_ms)
    before = (bad.seq, bad.txn)
    bad.commit(3, now_ms=world.now_ms, **fields)
    bad.commit(4, now_ms=world.now_ms)
    raw = bad.entries[-2]
    good.commit(5, now_ms=world.now_ms)
    for writer in (bad, good):
        await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    await world.assert_folded(good)
    account = await world.pool.fetchrow("SELECT * FROM accounts WHERE account_id = 'bad'")
    assert (account["last_seq"], account["last_txn"], account["spent_micros"]) == (*before, 1)
    dead = await world.pool.fetch("SELECT * FROM outbox_dead ORDER BY dead_no")
    assert len(dead) == 2
    assert (dead[0]["cause"] in causes, dead[1]["cause"]) == (True, after)
    assert journal.records.unpack(dead[0]["raw"]) == raw
    assert flush.stats().dead == 2
    assert await flush.drain() == 0
    await flush.close()


async def test_later_entries_of_a_parked_account_wait_in_order_and_are_revived(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    # Its grant is not there: as if the record had overtaken Postgres after a restore.
    await world.pool.execute("CREATE TABLE kept AS SELECT * FROM grants")
    await world.pool.execute("DELETE FROM grants")
    for amount in (1, 2, 3):
        writer.commit(amount, now_ms=world.now_ms)
        await writer.send(world.client)
        await flush.drain()
    causes = await world.pool.fetch("SELECT cause FROM outbox_dead ORDER BY dead_no")
    assert [row["cause"] for row in causes] == ["rejected", "parked", "parked"]
    async with world.pool.acquire() as connection:
        with pytest.raises(ValueError, match="grant that does not exist"):
            await journal.revive(connection, writer.address)
        assert await journal.dead_counts(connection) == (1, 2)
        await connection.execute("INSERT INTO grants SELECT * FROM kept")
        assert await journal.revive(connection, writer.address) == 3
        assert await journal.revive(connection, writer.address) == 0
        assert await journal.dead_counts(connection) == (0, 0)
    await world.assert_folded(writer)
    writer.commit(4, now_ms=world.now_ms)
    await writer.send(world.client)
    await flush.drain()
    await world.assert_folded(writer)
    await flush.close()


async def test_the_same_record_again_is_skipped_and_another_with_its_key_is_quarantined(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    writer.commit(10, now_ms=world.now_ms)
    entries = list(writer.entries)
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    # A recovery drains what survived once more.
    writer.entries = entries
    await writer.send(world.client)
    await flush.drain()
    assert flush.stats().repeated == 2
    await world.assert_folded(writer)
    altered = dict(entries[1])
    altered[b"j"] = json.dumps({"us": 2}).encode()
    writer.entries = [altered]
    await writer.send(world.client)
    await flush.drain()
    await world.assert_folded(writer)
    assert [row["cause"] for row in await world.pool.fetch("SELECT cause FROM outbox_dead")] == ["conflict"]
    await flush.close()


async def test_a_second_effect_under_a_used_id_is_quarantined(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    writer.commit(10, now_ms=world.now_ms)
    kind, txn = writer.txn[0], writer.txn[1:]
    before = writer.spent
    writer.commit(20, now_ms=world.now_ms, k=kind, t=txn)
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    assert await world.pool.fetchval("SELECT spent_micros FROM accounts") == before
    assert [row["cause"] for row in await world.pool.fetch("SELECT cause FROM outbox_dead")] == ["conflict"]
    await flush.close()


async def test_only_flushed_entries_older_than_the_retention_are_trimmed(world: outbox.World) -> None:
    writer = await world.writer("acct", 10**6)
    for _ in range(1_500):
        writer.commit(1, now_ms=world.now_ms)
    await writer.send(world.client)
    name = keys.outbox(writer.partition)
    keeps = world.flusher()
    await keeps.drain()
    assert await world.client.xlen(name) == 1_501
    await keeps.close()
    forgets = world.flusher(retention_ms=-1_000, claim_interval_s=0.0, trim_interval_s=0.0)
    await _until_owned(forgets)

    async def is_trimmed() -> bool:
        await forgets.step()
        # Whole nodes of 100 leave; the entry at the cursor stays in any case.
        return await world.client.xlen(name) <= 200

    await outbox.until(is_trimmed)
    cursor = (await partitions.positions(world.pool))[writer.partition].cursor
    assert [entry_id.decode() for entry_id, _ in await world.client.xrevrange(name, count=1)] == [cursor]
    await forgets.close()


async def test_lag_is_the_age_of_the_oldest_unflushed_entry_and_freshness_is_recorded(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    await writer.send(world.client)
    ((entry_id, _),) = await world.client.xrange(keys.outbox(writer.partition))
    now_ms = int(entry_id.split(b"-")[0]) + 700
    lags: list[tuple[int, int]] = []

    async def fail(step: str) -> None:
        if step == "begun" and failing:
            raise OSError("Postgres is away")

    failing = True
    flush = world.flusher(
        claim_interval_s=0.0,
        failpoint=fail,
        clock_ms=lambda: now_ms,
        on_flush=lambda rows, lag: lags.append((rows, lag)),
    )
    with pytest.raises(OSError, match="away"):
        await flush.step()
    assert flush.lag_ms() == 700
    await flush.close()
    failing = False
    await _until_owned(flush)
    assert lags == [(1, 700)]
    assert flush.lag_ms() == 0
    assert {position.fresh_ms for position in await partitions.positions(world.pool)} == {now_ms}
    await flush.close()


async def test_any_uuid_has_a_place_in_the_ledger(world: outbox.World) -> None:
    writer = await world.writer("acct", 1_000)
    for millis in (0, 1_000, world.now_ms, 2**48 - 1):
        writer.commit(1, now_ms=millis, at=world.now_ms)
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    await world.assert_folded(writer)
    found = await world.pool.fetchval("SELECT bool_and(txn_at = meterd_uuid_time(txn)) FROM ledger")
    assert found is True
    assert ids.uuid7_ms(ids.uuid7(2**48 - 1)) == 2**48 - 1
    await flush.close()


async def _flusher_connections(world: outbox.World) -> int:
    return await world.pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'meterd flusher' AND datname = current_database()"
    )


async def test_lanes_share_the_partitions_and_write_each_record_once(world: outbox.World) -> None:
    writers = [await world.writer(f"acct{at}", 1_000_000) for at in range(8)]
    for writer in writers:
        for at in range(30):
            writer.commit(at, now_ms=world.now_ms)
        await writer.send(world.client)
    both = world.lanes(batch_rows_max=20)
    assert await both.drain() == 8 * 31
    assert await _flusher_connections(world) == 2
    first, second = (set(one.owned()) for one in both.flushers)
    assert first and second and not first & second
    assert sorted(both.owned()) == list(range(outbox.PARTITIONS))
    found = both.stats()
    assert (found.flushed, found.owned, found.dead, found.errors) == (8 * 31, outbox.PARTITIONS, 0, 0)
    assert all(one.stats().flushed for one in both.flushers)
    await world.assert_folded(*writers)
    await both.close()
    await outbox.until(lambda: _no_flusher(world))
    assert both.owned() == []


async def _no_flusher(world: outbox.World) -> bool:
    return await _flusher_connections(world) == 0


async def test_lanes_run_until_they_are_stopped_and_go_on_when_one_has_lost_its_connection(world: outbox.World) -> None:
    writers = [await world.writer(f"acct{at}", 1_000_000) for at in range(8)]
    both = world.lanes(claim_interval_s=0.05)
    running = asyncio.ensure_future(both.run())
    await outbox.until(lambda: len(both.owned()) == outbox.PARTITIONS)
    await world.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meterd flusher' "
        "AND datname = current_database() LIMIT 1"
    )
    for writer in writers:
        writer.commit(7, now_ms=world.now_ms)
        await writer.send(world.client)
    await outbox.until(lambda: world.has_rows(16))
    await world.assert_folded(*writers)
    assert both.stats().errors == 1
    both.stop()
    await asyncio.wait_for(running, 5)
    assert both.owned() == []


async def test_a_programming_error_in_one_lane_ends_all(world: outbox.World) -> None:
    reached = asyncio.Event()

    async def bug(step: str) -> None:
        if step == "read" and reached.is_set():
            raise KeyError("a bug")
        reached.set()

    both = world.lanes(failpoint=bug)
    with pytest.raises(ExceptionGroup) as fault:
        await asyncio.wait_for(both.run(), 10)
    assert isinstance(fault.value.exceptions[0], KeyError)
    assert both.owned() == []
