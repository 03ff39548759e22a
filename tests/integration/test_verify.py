"""The proof on real stores: it passes on what meterd did, and names the row of whatever was tampered with."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import ids, ledger
from meterd.meter import verification
from meterd.postgres import pool
from meterd.redis import keys
from meterd.redis import ledger as redis_ledger
from tests.integration import outbox, stores

WALLET_DEBT, WALLET_HELD = 0, 1
ACCOUNT_SPENT, ACCOUNT_WORTH, ACCOUNT_SEQ = 8, 6, 3


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        await opened.account()
        await opened.grant("first", 1_000)
        await opened.grant("second", 500)
        await opened.projector.project(opened.address)
        yield opened


async def verified(both: stores.Stores) -> verification.Verdict:
    connection = await pool.connect(both.world.dsn)
    try:
        store = redis_ledger.RedisLedger(both.run, partitions=outbox.PARTITIONS)
        return await verification.Verification(connection=connection, run=both.run, store=store).verify()
    finally:
        await connection.close()


async def found(both: stores.Stores) -> set[tuple[str, str]]:
    """Subject and check of every finding."""
    return {(one.subject, one.check) for one in (await verified(both)).findings}


async def flushed(both: stores.Stores) -> None:
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()


async def settled(both: stores.Stores) -> ledger.Held:
    """Some life: one hold committed, one released, one open."""
    committed = await both.reserve(300)
    await both.commit(committed, 120)
    released = await both.reserve(50)
    await both.store.release(ledger.Release(tenant_id="t", address=both.address, hold=released.hold, detail=b""))
    await both.reserve(70)
    return committed


async def tamper(both: stores.Stores, statement: str, *values: Any) -> None:
    """As a superuser who knows how to get past the trigger."""
    async with both.world.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        status: str = await connection.execute(statement, *values)
        assert not status.endswith(" 0"), "the tampering must hit a row"


async def tamper_packed(both: stores.Stores, field: str, place: int, by: int) -> None:
    """Adds to a number of the account's hash in Redis."""
    partition = ids.partition_of(both.address, outbox.PARTITIONS)
    # As the prelude packs them; a wallet's first two numbers are doubles.
    text = (
        "local s, i, by = redis.call('HGET', KEYS[1], ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) "
        "if ARGV[1] == 'c' then local a = {struct.unpack('<Hc0Hc0Hc0ddddddddIBdBBdBdII', s)} a[i] = a[i] + by "
        "s = struct.pack('<Hc0Hc0Hc0ddddddddIBdBBdBdII', #a[1], a[1], #a[2], a[2], #a[3], a[3], unpack(a, 4, 21)) "
        "else s = string.sub(s, 1, 8 * i - 8) .. struct.pack('<d', struct.unpack('<d', s, 8 * i - 7) + by) .. string.sub(s, 8 * i + 1) end "
        "redis.call('HSET', KEYS[1], ARGV[1], s)"
    )
    name = keys.account(partition, both.address)
    await both.run.command(("EVAL", text, "1", name, field, str(place + 1), str(by)))


async def test_an_untouched_installation_is_proven_with_and_without_a_backlog(both: stores.Stores) -> None:
    await settled(both)
    before = await verified(both)
    assert before.is_proven, before.findings
    assert (before.accounts, before.records, before.records_unflushed, before.holds_open) == (1, 0, 4, 1)
    await flushed(both)
    after = await verified(both)
    assert after.is_proven, after.findings
    assert (after.accounts, after.records, after.records_unflushed, after.holds_open) == (1, 4, 0, 1)


async def test_it_is_proven_half_flushed(both: stores.Stores) -> None:
    await settled(both)
    await flushed(both)
    await both.commit(await both.reserve(10), 10)
    await both.grant("third", 5)
    verdict = await verified(both)
    assert verdict.is_proven, verdict.findings
    assert (verdict.records, verdict.records_unflushed) == (4, 1)


async def test_an_account_that_redis_does_not_have_is_proven(both: stores.Stores) -> None:
    await both.commit(await both.reserve(10), 10)
    await flushed(both)
    await both.lose_redis()
    verdict = await verified(both)
    assert {one.check for one in verdict.findings} == {"Redis is the one that Postgres knows"}
    # Only the partition that has lost records is found: its cursor says so.
    assert {one.partition for one in verdict.findings} == {ids.partition_of(both.address, outbox.PARTITIONS)}


async def test_a_missing_sentinel_is_found(both: stores.Stores) -> None:
    await both.world.client.delete(keys.sentinel(1))
    verdict = await verified(both)
    assert [(one.partition, one.check) for one in verdict.findings] == [(1, "Redis is the one that Postgres knows")]
    assert verdict.findings[0].actual == "Redis has no sentinel: it is empty, or was flushed"


@pytest.mark.parametrize(
    ("field", "place", "check"),
    [
        ("c", ACCOUNT_SPENT, "Redis = Postgres + outbox: spent"),
        ("c", ACCOUNT_WORTH, "worth = Σ available − debt"),
        ("c", ACCOUNT_SEQ, "outbox has every record after Postgres: last seq"),
        ("w:default", WALLET_DEBT, "Redis = Postgres + outbox: debt"),
        ("w:default", WALLET_HELD, "held = Σ open holds"),
    ],
)
async def test_a_tampered_field_in_redis_is_found(both: stores.Stores, field: str, place: int, check: str) -> None:
    await settled(both)
    await flushed(both)
    await tamper_packed(both, field, place, 1)
    assert check in {one[1] for one in await found(both)}


async def test_a_hold_whose_key_is_gone_is_named(both: stores.Stores) -> None:
    held = await both.reserve(70)
    partition = ids.partition_of(both.address, outbox.PARTITIONS)
    await both.world.client.delete(keys.hold(partition, both.address, held.hold))
    assert (f"Redis hold {held.hold}", "a hold with a deadline is open or has ended") in await found(both)


async def test_a_hold_without_deadline_is_found(both: stores.Stores) -> None:
    await both.reserve(70)
    await both.world.client.delete(keys.deadlines(ids.partition_of(both.address, outbox.PARTITIONS)))
    assert ("Redis account", "held = Σ open holds") in await found(both)


async def test_an_account_that_vanished_with_records_behind_the_cursor_is_found(both: stores.Stores) -> None:
    await settled(both)
    await both.world.client.delete(keys.account(ids.partition_of(both.address, outbox.PARTITIONS), both.address))
    checks = {one[1] for one in await found(both)}
    assert checks == {
        "an account with records behind the cursor is in Redis",
        "an account with open holds is in Redis",
    }


async def test_a_lost_outbox_entry_is_named(both: stores.Stores) -> None:
    await settled(both)
    stream = keys.outbox(ids.partition_of(both.address, outbox.PARTITIONS))
    entries = await both.world.client.xrange(stream)
    await both.world.client.xdel(stream, entries[2][0])
    verdict = await verified(both)
    assert [(one.check, one.expected, one.actual) for one in verdict.findings] == [
        ("outbox has every record after Postgres: seq", "3", "4")
    ]
    assert verdict.findings[0].account_id == "acct"


@pytest.mark.parametrize("counter", ["granted_micros", "spent_micros", "expired_micros", "revoked_micros"])
async def test_a_tampered_counter_of_an_account_is_found(both: stores.Stores, counter: str) -> None:
    await settled(both)
    await flushed(both)
    await tamper(both, f"UPDATE accounts SET {counter} = {counter} + 1")
    name = counter.removesuffix("_micros")
    assert {
        ("account", f"{name} = Σ ledger"),
        ("account", "granted = available + held + spent + expired + revoked"),
        ("Redis account", f"Redis = Postgres + outbox: {name}"),
    } <= await found(both)


async def test_a_tampered_counter_of_a_grant_is_named(both: stores.Stores) -> None:
    await settled(both)
    await flushed(both)
    grant_id = await both.world.pool.fetchval("SELECT grant_id FROM grants WHERE idempotency_key = 'first'")
    await tamper(both, "UPDATE grants SET spent_micros = spent_micros + 1 WHERE grant_id = $1", grant_id)
    subjects = await found(both)
    assert (f"grant {grant_id}", "spent = Σ drawn") in subjects
    assert (f"Redis grant {grant_id} of wallet default", "Redis = Postgres + outbox: left of the grant") in subjects


async def test_a_tampered_wallet_is_named(both: stores.Stores) -> None:
    await settled(both)
    await flushed(both)
    await tamper(both, "UPDATE wallets SET debt_micros = 5")
    assert ("wallet default", "debt = that of its last ledger row") in await found(both)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("charged_micros = charged_micros - 1", "hold = charged + returned + expired + revoked"),
        ("returned_micros = returned_micros + 1", "hold = charged + returned + expired + revoked"),
        ("seq = seq + 7", "follows the row before it: seq"),
        ("prev_txn = 'G00'", "follows the row before it: prev_txn"),
        ("balance_after_micros = 1", "wallet = granted − charged − expired − revoked so far"),
        ("epoch = 0", "epoch never falls"),
        ("expired = ARRAY['00000000000000000000000000000000:4']", "expired = Σ expired by grant"),
        ("uncollected_micros = -1", "micro-credits are ≥ 0"),
    ],
)
async def test_a_tampered_ledger_row_is_named(both: stores.Stores, change: str, check: str) -> None:
    committed = await settled(both)
    await flushed(both)
    await tamper(both, f"UPDATE ledger SET {change} WHERE kind = 'C'")
    seq = 10 if change.startswith("seq") else 3
    assert (f"ledger C{committed.hold.hex} seq {seq}", check) in await found(both)


@pytest.mark.parametrize("column", ["actions", "charged_micros", "uncollected_micros", "input_tokens", "cost_usd"])
async def test_daily_sums_that_are_not_the_ledgers_are_found(both: stores.Stores, column: str) -> None:
    await settled(both)
    await flushed(both)
    assert await found(both) == set()
    today = await both.world.pool.fetchval("SELECT max(day) FROM usage_daily")
    name = column.removesuffix("_micros")
    await tamper(both, f"UPDATE usage_tenant_daily SET {column} = {column} + 1")
    item = await both.world.pool.fetchval("SELECT item FROM usage_tenant_daily")
    assert await found(both) == {(f"usage of {today}, {item}", f"{name} = Σ accounts")}
    await tamper(both, f"UPDATE usage_daily SET {column} = {column} + 1")
    assert await found(both) == {(f"usage of {today}", f"{name} = Σ ledger")}
    await tamper(both, "DELETE FROM usage_daily")
    assert (f"usage of {today}", "charged = Σ ledger") in await found(both)


async def test_a_deleted_ledger_row_is_found(both: stores.Stores) -> None:
    await settled(both)
    await flushed(both)
    await tamper(both, "DELETE FROM ledger WHERE kind = 'C'")
    subjects = await found(both)
    assert ("account", "last_seq = number of ledger rows") in subjects
    assert ("account", "spent = Σ ledger") in subjects


async def test_a_hold_that_ended_twice_is_named(both: stores.Stores) -> None:
    committed = await settled(both)
    await flushed(both)
    await tamper(
        both,
        "INSERT INTO ledger SELECT account_no, tenant_id, txn_at, 'R', txn, prev_txn, epoch, 99, recorded_at, flushed_at, partition, "
        "entry_id, wallet, held_before_micros, granted_micros, 0, held_before_micros, uncollected_micros, expired_micros, revoked_micros, "
        "'{}', expired, revoked, balance_after_micros, debt_after_micros, wallet_held_after_micros, held_after_micros, change_no, overage, "
        "subject_user, subject_team, subject_key, operation_id, item, price_version, model, usage_state, cost_usd, terms, detail, "
        "request_digest, digest FROM ledger WHERE kind = 'C'",
    )
    verdict = await verified(both)
    double = [one for one in verdict.findings if one.subject == f"hold {committed.hold}"]
    assert [(one.check, one.actual) for one in double] == [("ends once (C, R, E, or E then L)", "CR")]


async def test_a_late_commit_after_an_expiry_is_no_double_ending(both: stores.Stores) -> None:
    command = ledger.Reserve(
        tenant_id="t",
        address=both.address,
        hold=ids.uuid7(both.world.now_ms),
        wallet="default",
        amount_micros=40,
        amount_min_micros=40,
        digest=b"12345678",
        ttl_ms=1,
        overage=ledger.Overage.ACCOUNT,
        expiry=ledger.Expiry.RELEASE,
        terms=b'{"item":"credits"}',
    )
    held = await both.store.reserve(command)
    assert isinstance(held, ledger.Held)

    async def ended() -> bool:
        return await both.store.expire(both.address, held.hold) is not None

    await outbox.until(ended)
    await both.commit(held, 33)
    await flushed(both)
    kinds = await both.world.pool.fetch("SELECT kind FROM ledger WHERE txn = $1 ORDER BY seq", held.hold)
    assert [row["kind"] for row in kinds] == ["E", "L"]
    verdict = await verified(both)
    assert verdict.is_proven, verdict.findings


async def test_a_dead_letter_is_found_with_its_reason(both: stores.Stores) -> None:
    stream = keys.outbox(ids.partition_of(both.address, outbox.PARTITIONS))
    await both.world.client.xadd(stream, {"r": "nonsense"})
    assert any(subject.startswith("outbox ") and check == "is a record" for subject, check in await found(both))
    await flushed(both)
    assert any(subject.startswith("outbox_dead ") for subject, _ in await found(both))


async def test_an_outbox_entry_of_an_unknown_account_is_found(both: stores.Stores) -> None:
    stranger = outbox.Writer(address=ids.account_address("t", "stranger"), partition=0)
    stranger.partition = ids.partition_of(stranger.address, outbox.PARTITIONS)
    stranger.available[uuid.uuid4()] = 5
    stranger.commit(1, now_ms=both.world.now_ms)
    await stranger.send(both.world.client)
    assert any(check == "its account exists" for _, check in await found(both))


async def test_a_tampered_setting_is_found_and_a_pending_one_is_not(both: stores.Stores) -> None:
    await both.world.catalog.change_settings("t", "acct", frozen=True)
    assert (await verified(both)).is_proven
    await both.projector.project(both.address)
    assert (await verified(both)).is_proven
    await flushed(both)
    await tamper(both, "UPDATE accounts SET frozen = false")
    assert await found(both) == {("Redis account", "settings: frozen")}


async def test_many_accounts_are_proven_in_batches(both: stores.Stores) -> None:
    for number in range(verification.BATCH_ACCOUNTS_MAX // outbox.PARTITIONS * outbox.PARTITIONS + 50):
        writer = await both.world.writer(f"batch-{number}", 100)
        await both.projector.project(writer.address)
    verdict = await verified(both)
    assert verdict.is_proven, verdict.findings
    assert verdict.accounts == verification.BATCH_ACCOUNTS_MAX // outbox.PARTITIONS * outbox.PARTITIONS + 51


async def test_traffic_and_flushing_during_the_proof_make_no_findings(both: stores.Stores) -> None:
    await both.grant("plenty", 10**9)
    await both.projector.project(both.address)
    flush = both.world.flusher()
    flushing = asyncio.create_task(flush.run())
    stop = asyncio.Event()
    ended = 0

    async def life() -> None:
        nonlocal ended
        while not stop.is_set():
            held = await both.reserve(1_000)
            if ended % 5 == 0:
                command = ledger.Extend(
                    tenant_id="t", address=both.address, hold=held.hold, ttl_ms=90_000, amount_micros=1_500
                )
                await both.store.extend(command)
            await both.commit(held, 400)
            ended += 1

    lives = [asyncio.create_task(life()) for _ in range(8)]
    try:
        for _ in range(10):
            verdict = await verified(both)
            assert verdict.is_proven, verdict.findings
    finally:
        stop.set()
        await asyncio.gather(*lives)
        flush.stop()
        await flushing
    assert ended > 100
    await flushed(both)
    verdict = await verified(both)
    assert verdict.is_proven, verdict.findings
    assert verdict.records == ended + 3
