"""What a plan does to the ledger: unlimited calls, actions a day, blocked wallets; and claw-backs. On both ledgers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger
from tests import ledgers

ADDRESS = ids.account_address("t", "acct")
HOLDS = [ids.uuid7(ledgers.START_MS) for _ in range(5)]
MINUTE_MS = 60_000
MIDNIGHT_MS = (ledgers.START_MS // ledger.DAY_MS + 1) * ledger.DAY_MS


@pytest_asyncio.fixture(params=["memory", "redis"])
async def clocked(request: pytest.FixtureRequest) -> AsyncIterator[ledgers.Clocked]:
    if request.param == "memory":
        found = await ledgers.in_memory()
    else:
        found = await ledgers.on_redis(request.getfixturevalue("redis_url"))
    await found.book.load(ledgers.account_state())
    await found.book.apply(ADDRESS, ledgers.grant_change(1, 1_000))
    yield found
    await found.close()


async def on_plan(clocked: ledgers.Clocked, change_no: int = 2, **rule: object) -> None:
    """Puts the account on a plan that ends in an hour, unless `until_ms` says otherwise."""
    values = {"until_ms": clocked.now_ms + 60 * MINUTE_MS, **rule}
    change = ledger.SettingsChange(
        change_no=change_no,
        change_id=uuid.UUID(int=500 + change_no),
        overage=ledger.Overage.DRAW,
        overdraft_limit_micros=0,
        strict_expiry=False,
        frozen=False,
        plan=ledger.PlanRule(**values),  # pyright: ignore[reportArgumentType]
    )
    await clocked.book.apply(ADDRESS, change)


async def state(clocked: ledgers.Clocked) -> ledger.AccountState:
    found = await clocked.book.account(ADDRESS)
    assert found is not None
    worth = sum(sum(g.available_micros for g in w.grants) - w.debt_micros for w in found.wallets)
    ended = found.spent_micros + found.expired_micros + found.revoked_micros
    assert found.granted_micros == worth + found.held_micros + ended
    return found


async def test_an_unlimited_plan_holds_and_charges_nothing_even_where_there_is_no_wallet(
    clocked: ledgers.Clocked,
) -> None:
    await on_plan(clocked, unlimited=True)
    held = await clocked.book.reserve(ledgers.reserve(HOLDS[0], 5_000, wallet="other"))
    assert isinstance(held, ledger.Held) and (held.amount_micros, held.unlimited) == (0, True)
    settled = await clocked.book.commit(ledgers.commit(HOLDS[0], 7_000))
    assert isinstance(settled, ledger.Settled)
    assert (settled.charged_micros, settled.uncollected_micros) == (0, 0)
    charged = await clocked.book.charge(ledgers.charge(HOLDS[1], 4_000))
    assert isinstance(charged, ledger.Settled) and charged.charged_micros == 0
    assert (await state(clocked)).spent_micros == 0


async def test_the_wallet_pays_again_from_the_moment_on_at_which_the_unlimited_plan_ends(
    clocked: ledgers.Clocked,
) -> None:
    await on_plan(clocked, unlimited=True, until_ms=clocked.now_ms + 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLDS[0], 300))
    await clocked.advance(1_000)
    held = await clocked.book.reserve(ledgers.reserve(HOLDS[1], 300))
    assert isinstance(held, ledger.Held) and (held.amount_micros, held.unlimited) == (300, False)
    free = await clocked.book.commit(ledgers.commit(HOLDS[0], 200))
    paid = await clocked.book.commit(ledgers.commit(HOLDS[1], 200))
    assert isinstance(free, ledger.Settled) and isinstance(paid, ledger.Settled)
    assert (free.charged_micros, paid.charged_micros) == (0, 200)


async def test_a_free_hold_that_expires_leaves_nothing_uncollected(clocked: ledgers.Clocked) -> None:
    await on_plan(clocked, unlimited=True)
    for hold, expiry in ((HOLDS[0], ledger.Expiry.CHARGE_REPORTED), (HOLDS[1], ledger.Expiry.CHARGE_ESTIMATE)):
        await clocked.book.reserve(ledgers.reserve(hold, 300, expiry=expiry, ttl_ms=1_000))
        report = ledger.Report(tenant_id="t", address=ADDRESS, hold=hold, used_micros=250, detail=b"{}")
        await clocked.book.report(report)
    more = ledger.Extend(tenant_id="t", address=ADDRESS, hold=HOLDS[0], ttl_ms=1_000, amount_micros=900)
    extended = await clocked.book.extend(more)
    assert isinstance(extended, ledger.Held) and extended.amount_micros == 0
    await clocked.advance(1_000)
    for hold in HOLDS[:2]:
        ended = await clocked.book.expire(ADDRESS, hold)
        assert ended is not None and (ended.charged_micros, ended.uncollected_micros) == (0, 0)
    late = await clocked.book.commit(ledgers.commit(HOLDS[0], 700))
    assert isinstance(late, ledger.Settled)
    assert (late.kind, late.charged_micros, late.uncollected_micros) == (ledger.Kind.COMMIT_LATE, 0, 0)


async def test_a_day_has_no_more_actions_than_the_plan_allows_and_the_denial_says_when_it_resets(
    clocked: ledgers.Clocked,
) -> None:
    await on_plan(clocked, unlimited=True, actions_per_day=3, until_ms=clocked.now_ms + 10 * ledger.DAY_MS)
    for hold in HOLDS[:2]:
        assert isinstance(await clocked.book.reserve(ledgers.reserve(hold, 5)), ledger.Held)
    assert isinstance(await clocked.book.charge(ledgers.charge(HOLDS[2], 5)), ledger.Settled)
    for denied in (
        await clocked.book.reserve(ledgers.reserve(HOLDS[3], 5)),
        await clocked.book.charge(ledgers.charge(HOLDS[3], 5)),
    ):
        assert isinstance(denied, ledger.Denied)
        expected = (ledger.DenialCode.ACTIONS_PER_DAY, 3, 3, MIDNIGHT_MS)
        assert expected == (denied.code, denied.limit, denied.used, denied.resets_ms)
    await clocked.advance(MIDNIGHT_MS - clocked.now_ms)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLDS[3], 5)), ledger.Held)
    assert (await state(clocked)).actions == 1


async def test_a_release_gives_its_action_back_and_a_replay_takes_none(clocked: ledgers.Clocked) -> None:
    await on_plan(clocked, unlimited=True, actions_per_day=1)
    await clocked.book.reserve(ledgers.reserve(HOLDS[0], 5))
    replay = await clocked.book.reserve(ledgers.reserve(HOLDS[0], 5))
    assert isinstance(replay, ledger.Held) and (replay.replayed, replay.unlimited) == (True, True)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLDS[1], 5)), ledger.Denied)
    await clocked.book.release(ledgers.release(HOLDS[0]))
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLDS[1], 5)), ledger.Held)


async def test_a_transfer_is_paid_on_an_unlimited_plan_and_is_no_action(clocked: ledgers.Clocked) -> None:
    await on_plan(clocked, unlimited=True, actions_per_day=1)
    sent = await clocked.book.charge(ledgers.charge(HOLDS[0], 400, overage=ledger.Overage.TRANSFER))
    assert isinstance(sent, ledger.Settled) and sent.charged_micros == 400
    denied = await clocked.book.charge(ledgers.charge(HOLDS[1], 601, overage=ledger.Overage.TRANSFER))
    assert isinstance(denied, ledger.Denied) and denied.code == ledger.DenialCode.INSUFFICIENT_CREDITS
    assert (await state(clocked)).actions == 0


async def test_a_blocked_wallet_denies_by_name_what_its_own_grants_do_not_cover(clocked: ledgers.Clocked) -> None:
    await on_plan(clocked, blocked_wallets=("default", "other"))
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLDS[0], 1_000)), ledger.Held)
    for wallet in ("default", "other"):
        denied = await clocked.book.reserve(ledgers.reserve(HOLDS[1], 1, wallet=wallet))
        assert isinstance(denied, ledger.Denied)
        assert (denied.code, denied.balance.wallet) == (ledger.DenialCode.WALLET_BLOCKED, wallet)
        uncharged = await clocked.book.charge(ledgers.charge(HOLDS[2], 1, wallet=wallet))
        assert isinstance(uncharged, ledger.Denied) and uncharged.code == ledger.DenialCode.WALLET_BLOCKED
    with pytest.raises(errors.NotFoundError):
        await clocked.book.reserve(ledgers.reserve(HOLDS[1], 1, wallet="third"))


async def test_a_plan_is_part_of_what_an_account_is_loaded_with(clocked: ledgers.Clocked) -> None:
    rule = ledger.PlanRule(
        until_ms=clocked.now_ms + 1_000, unlimited=True, actions_per_day=7, blocked_wallets=["one", "two"]
    )
    day = clocked.now_ms // ledger.DAY_MS
    loaded = ledgers.account_state("second", plan=rule, actions=6, actions_day=day)
    await clocked.book.load(loaded)
    found = await clocked.book.account(loaded.address)
    assert found is not None
    assert (rule, 6, day) == (found.plan, found.actions, found.actions_day)


async def test_a_claw_back_takes_what_is_there_and_the_rest_as_debt_but_no_slices_of_holds(
    clocked: ledgers.Clocked,
) -> None:
    await clocked.book.reserve(ledgers.reserve(HOLDS[0], 300))
    change = ledger.ClawBackChange(change_no=2, claw_back_id=uuid.UUID(int=900), wallet="default", amount_micros=1_500)
    applied = await clocked.book.apply(ADDRESS, change)
    assert applied.balance is not None and applied.balance.available_micros == -800
    assert (await clocked.book.apply(ADDRESS, change)).already
    found = await state(clocked)
    assert (found.revoked_micros, found.held_micros, found.wallets[0].debt_micros) == (1_500, 300, 800)
    settled = await clocked.book.commit(ledgers.commit(HOLDS[0], 300))
    assert isinstance(settled, ledger.Settled) and settled.charged_micros == 300
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLDS[1], 1)), ledger.Denied)


async def test_the_next_grant_pays_off_what_a_claw_back_left_owing(clocked: ledgers.Clocked) -> None:
    change = ledger.ClawBackChange(change_no=2, claw_back_id=uuid.UUID(int=900), wallet="default", amount_micros=1_500)
    await clocked.book.apply(ADDRESS, change)
    applied = await clocked.book.apply(ADDRESS, ledgers.grant_change(3, 600))
    assert applied.balance is not None and applied.balance.available_micros == 100
    assert (await state(clocked)).wallets[0].debt_micros == 0
