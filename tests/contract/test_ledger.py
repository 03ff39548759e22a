"""What every ledger promises: run on the in-memory ledger and on the scripts in a real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger, money
from tests import ledgers

ADDRESS = ids.account_address("t", "acct")
HOLD = ids.uuid7(ledgers.START_MS)
OTHER = ids.uuid7(ledgers.START_MS)


@pytest_asyncio.fixture(params=["memory", "redis"])
async def clocked(request: pytest.FixtureRequest) -> AsyncIterator[ledgers.Clocked]:
    if request.param == "memory":
        found = await ledgers.in_memory()
    else:
        found = await ledgers.on_redis(request.getfixturevalue("redis_url"))
    yield found
    await found.close()


async def funded(
    clocked: ledgers.Clocked, *amounts_micros: int, state: ledger.AccountState | None = None, **kwargs: Any
) -> None:
    assert await clocked.book.load(state or ledgers.account_state())
    for number, amount_micros in enumerate(amounts_micros, 1):
        await clocked.book.apply(ADDRESS, ledgers.grant_change(number, amount_micros, **kwargs))


async def balance(clocked: ledgers.Clocked, wallet: str = "default") -> tuple[int, int]:
    state = await clocked.book.account(ADDRESS)
    assert state is not None
    found = ledger.wallet_of(state, wallet)
    return ledger.available_micros(found, clocked.now_ms), found.held_micros


async def is_conserved(clocked: ledgers.Clocked) -> bool:
    state = await clocked.book.account(ADDRESS)
    assert state is not None
    worth = sum(sum(g.available_micros for g in w.grants) - w.debt_micros for w in state.wallets)
    held = sum(sum(g.held_micros for g in w.grants) for w in state.wallets)
    ended = state.spent_micros + state.expired_micros + state.revoked_micros
    return state.held_micros == held and state.granted_micros == worth + held + ended


async def test_reserve_moves_credits_from_available_to_held(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    outcome = await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    assert isinstance(outcome, ledger.Held)
    assert (outcome.amount_micros, outcome.state, outcome.replayed) == (300, ledger.State.OPEN, False)
    assert (outcome.balance.available_micros, outcome.balance.held_micros) == (700, 300)
    assert outcome.expires_ms == ledgers.START_MS + 300_000


async def test_commit_charges_the_actual_and_returns_the_rest(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 120))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.returned_micros, outcome.uncollected_micros) == (120, 180, 0)
    assert await balance(clocked) == (880, 0)
    assert await is_conserved(clocked)


async def test_a_replayed_reserve_answers_the_same_hold(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    first = await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    again = await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    assert isinstance(first, ledger.Held) and isinstance(again, ledger.Held)
    assert again.replayed and (again.amount_micros, again.draws) == (first.amount_micros, first.draws)
    assert await balance(clocked) == (700, 300)


async def test_a_reserve_with_the_same_id_and_other_content_is_a_conflict(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    with pytest.raises(errors.AlreadyExistsError):
        await clocked.book.reserve(ledgers.reserve(HOLD, 300, digest=b"reserve2"))
    assert await balance(clocked) == (700, 300)


async def test_a_replayed_reserve_of_an_ended_hold_says_how_it_ended(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.book.commit(ledgers.commit(HOLD, 300))
    again = await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    assert isinstance(again, ledger.Held)
    assert (again.state, again.amount_micros, again.replayed) == (ledger.State.COMMITTED, 300, True)
    assert await balance(clocked) == (700, 0)


async def test_a_replayed_commit_answers_the_same_settlement(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    first = await clocked.book.commit(ledgers.commit(HOLD, 120))
    again = await clocked.book.commit(ledgers.commit(HOLD, 120))
    assert isinstance(first, ledger.Settled) and isinstance(again, ledger.Settled)
    assert again.replayed and again.charged_micros == first.charged_micros and again.draws == first.draws
    assert await balance(clocked) == (880, 0)


async def test_a_second_commit_with_other_usage_is_a_conflict(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.book.commit(ledgers.commit(HOLD, 120))
    with pytest.raises(errors.AlreadyExistsError):
        await clocked.book.commit(ledgers.commit(HOLD, 121, digest=b"commit02"))
    assert await balance(clocked) == (880, 0)


async def test_a_denied_reserve_leaves_no_trace(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    outcome = await clocked.book.reserve(ledgers.reserve(HOLD, 1_001))
    assert isinstance(outcome, ledger.Denied)
    assert (outcome.code, outcome.available_micros, outcome.required_micros) == (
        ledger.DenialCode.INSUFFICIENT_CREDITS,
        1_000,
        1_001,
    )
    assert await clocked.book.hold("t", ADDRESS, HOLD) is None
    assert await balance(clocked) == (1_000, 0)


async def test_a_smaller_hold_is_made_where_it_will_do(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    outcome = await clocked.book.reserve(ledgers.reserve(HOLD, 1_500, amount_min_micros=400))
    assert isinstance(outcome, ledger.Held)
    assert outcome.amount_micros == 1_000


async def test_grants_burn_by_priority_then_expiry_then_promotional_then_age(clocked: ledgers.Clocked) -> None:
    await funded(clocked)
    soon, late = ledgers.START_MS + 10_000, ledgers.START_MS + 20_000
    for change in (
        ledgers.grant_change(1, 10, category=1),
        ledgers.grant_change(2, 10, category=2),
        ledgers.grant_change(3, 10, category=1, expires_ms=late),
        ledgers.grant_change(4, 10, category=1, expires_ms=soon),
        ledgers.grant_change(5, 10, category=1, priority=-1),
        ledgers.grant_change(6, 10, category=2),
    ):
        await clocked.book.apply(ADDRESS, change)
    outcome = await clocked.book.reserve(ledgers.reserve(HOLD, 60))
    assert isinstance(outcome, ledger.Held)
    assert [draw.grant_id.int for draw in outcome.draws] == [5, 4, 3, 2, 6, 1]


async def test_a_commit_draws_exactly_the_slices_of_its_hold(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100, 100)
    await clocked.book.reserve(ledgers.reserve(HOLD, 150))
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 120))
    assert isinstance(outcome, ledger.Settled)
    assert [(draw.grant_id.int, draw.amount_micros) for draw in outcome.draws] == [(1, 100), (2, 20)]


async def test_cap_charges_the_hold_and_records_the_rest(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, overage=ledger.Overage.CAP))
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 500))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.uncollected_micros) == (300, 200)
    assert await balance(clocked) == (700, 0)


async def test_draw_takes_the_rest_from_what_is_available(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 400)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 500))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.uncollected_micros) == (400, 100)
    assert await balance(clocked) == (0, 0)
    assert await is_conserved(clocked)


async def test_overdraft_goes_below_zero_down_to_its_limit(clocked: ledgers.Clocked) -> None:
    state = ledgers.account_state(overage=ledger.Overage.OVERDRAFT, overdraft_limit_micros=50)
    await funded(clocked, 400, state=state)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 500))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.uncollected_micros) == (450, 50)
    assert await balance(clocked) == (-50, 0)
    assert await is_conserved(clocked)


async def test_a_grant_pays_off_the_debt_first(clocked: ledgers.Clocked) -> None:
    state = ledgers.account_state(overage=ledger.Overage.OVERDRAFT, overdraft_limit_micros=50)
    await funded(clocked, 400, state=state)
    await clocked.book.reserve(ledgers.reserve(HOLD, 400))
    await clocked.book.commit(ledgers.commit(HOLD, 450))
    await clocked.book.apply(ADDRESS, ledgers.grant_change(2, 80))
    assert await balance(clocked) == (30, 0)
    assert await is_conserved(clocked)


async def test_release_returns_everything_and_replays(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    first = await clocked.book.release(ledgers.release(HOLD))
    again = await clocked.book.release(ledgers.release(HOLD))
    assert isinstance(first, ledger.Settled) and isinstance(again, ledger.Settled)
    assert (first.returned_micros, first.replayed, again.replayed) == (300, False, True)
    assert await balance(clocked) == (1_000, 0)


async def test_a_commit_after_a_release_is_refused(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.book.release(ledgers.release(HOLD))
    with pytest.raises(errors.FailedPreconditionError, match="released"):
        await clocked.book.commit(ledgers.commit(HOLD, 100))


async def test_a_release_after_a_commit_is_refused(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.book.commit(ledgers.commit(HOLD, 100))
    with pytest.raises(errors.FailedPreconditionError, match="committed"):
        await clocked.book.release(ledgers.release(HOLD))


async def test_a_hold_expires_when_its_time_is_up_and_not_before(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000))
    await clocked.advance(4_999)
    assert await clocked.book.expire(ADDRESS, HOLD) is None
    await clocked.advance(1)
    settled = await clocked.book.expire(ADDRESS, HOLD)
    assert settled is not None and (settled.kind, settled.returned_micros) == (ledger.Kind.EXPIRE, 300)
    assert await clocked.book.expire(ADDRESS, HOLD) is None
    assert await balance(clocked) == (1_000, 0)


@pytest.mark.parametrize(
    ("expiry", "reported_micros", "charged_micros", "uncollected_micros"),
    [
        (ledger.Expiry.RELEASE, 120, 0, 0),
        (ledger.Expiry.CHARGE_REPORTED, 120, 120, 0),
        (ledger.Expiry.CHARGE_REPORTED, 0, 0, 0),
        (ledger.Expiry.CHARGE_REPORTED, 350, 300, 50),
        (ledger.Expiry.CHARGE_ESTIMATE, 120, 300, 0),
    ],
)
async def test_expiry_follows_the_policy_of_the_hold(
    clocked: ledgers.Clocked, expiry: ledger.Expiry, reported_micros: int, charged_micros: int, uncollected_micros: int
) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000, expiry=expiry))
    if reported_micros:
        await clocked.book.report(report(reported_micros))
    await clocked.advance(5_000)
    settled = await clocked.book.expire(ADDRESS, HOLD)
    assert settled is not None
    assert (settled.charged_micros, settled.uncollected_micros) == (charged_micros, uncollected_micros)
    assert await balance(clocked) == (1_000 - charged_micros, 0)
    assert await is_conserved(clocked)


def report(used_micros: int) -> ledger.Report:
    return ledger.Report(tenant_id="t", address=ADDRESS, hold=HOLD, used_micros=used_micros, detail=b'{"us":2}')


async def test_the_largest_report_wins_whatever_the_order(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    for used_micros in (50, 200, 120):
        held = await clocked.book.report(report(used_micros))
    assert held.reported_micros == 200


async def test_a_late_commit_is_accepted_once_and_drawn_from_what_is_available(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000))
    await clocked.advance(5_000)
    await clocked.book.expire(ADDRESS, HOLD)
    first = await clocked.book.commit(ledgers.commit(HOLD, 400))
    again = await clocked.book.commit(ledgers.commit(HOLD, 400))
    assert isinstance(first, ledger.Settled) and isinstance(again, ledger.Settled)
    assert (first.kind, first.charged_micros, again.replayed) == (ledger.Kind.COMMIT_LATE, 400, True)
    assert await balance(clocked) == (600, 0)
    assert await is_conserved(clocked)


async def test_a_late_commit_with_cap_charges_at_most_what_was_held(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000, overage=ledger.Overage.CAP))
    await clocked.advance(5_000)
    await clocked.book.expire(ADDRESS, HOLD)
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 400))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.uncollected_micros) == (300, 100)


async def test_a_late_commit_charges_only_what_the_expiry_has_not(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000, expiry=ledger.Expiry.CHARGE_ESTIMATE))
    await clocked.advance(5_000)
    await clocked.book.expire(ADDRESS, HOLD)
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 350))
    assert isinstance(outcome, ledger.Settled)
    assert outcome.charged_micros == 50
    assert await balance(clocked) == (650, 0)


async def test_a_strict_account_refuses_a_late_commit(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000, state=ledgers.account_state(strict_expiry=True))
    await clocked.book.reserve(ledgers.reserve(HOLD, 300, ttl_ms=5_000))
    await clocked.advance(5_000)
    with pytest.raises(errors.FailedPreconditionError, match="expired"):
        await clocked.book.commit(ledgers.commit(HOLD, 100))
    assert await balance(clocked) == (700, 300)


async def test_a_slice_of_an_expired_grant_is_honoured_at_commit(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000, expires_ms=ledgers.START_MS + 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.advance(2_000)
    outcome = await clocked.book.commit(ledgers.commit(HOLD, 200))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.charged_micros, outcome.returned_micros, outcome.forfeited_micros) == (200, 0, 100)
    assert await is_conserved(clocked)


async def test_a_slice_of_an_expired_grant_is_forfeited_at_release(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000, expires_ms=ledgers.START_MS + 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    await clocked.advance(2_000)
    outcome = await clocked.book.release(ledgers.release(HOLD))
    assert isinstance(outcome, ledger.Settled)
    assert (outcome.returned_micros, outcome.forfeited_micros) == (0, 300)


async def test_an_expired_grant_cannot_be_reserved_from_and_is_swept_once(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000, expires_ms=ledgers.START_MS + 1_000)
    await clocked.advance(1_000)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLD, 1)), ledger.Denied)
    assert await clocked.book.expire_grants(ADDRESS) == 1
    assert await clocked.book.expire_grants(ADDRESS) == 0
    state = await clocked.book.account(ADDRESS)
    assert state is not None and state.expired_micros == 1_000
    assert await is_conserved(clocked)


async def test_a_grant_counts_from_its_effective_time(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000, effective_ms=ledgers.START_MS + 1_000)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLD, 1)), ledger.Denied)
    await clocked.advance(1_000)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLD, 1)), ledger.Held)


async def test_a_change_is_applied_once(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    again = await clocked.book.apply(ADDRESS, ledgers.grant_change(1, 1_000))
    assert again.already
    assert await balance(clocked) == (1_000, 0)


async def test_a_revocation_takes_what_is_left_now_and_held_slices_when_they_return(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    change = ledger.RevokeChange(
        change_no=2, revocation_id=uuid.UUID(int=99), grant_id=uuid.UUID(int=1), wallet="default"
    )
    applied = await clocked.book.apply(ADDRESS, change)
    assert applied.amount_micros == 700
    await clocked.book.commit(ledgers.commit(HOLD, 100))
    state = await clocked.book.account(ADDRESS)
    assert state is not None
    assert (state.spent_micros, state.revoked_micros) == (100, 900)
    assert await is_conserved(clocked)


async def test_a_frozen_account_makes_no_holds_but_commits_open_ones(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 1_000)
    await clocked.book.reserve(ledgers.reserve(HOLD, 300))
    change = ledger.SettingsChange(
        change_no=2,
        change_id=uuid.UUID(int=98),
        overage=ledger.Overage.DRAW,
        overdraft_limit_micros=0,
        strict_expiry=False,
        frozen=True,
    )
    await clocked.book.apply(ADDRESS, change)
    denied = await clocked.book.reserve(ledgers.reserve(OTHER, 1))
    assert isinstance(denied, ledger.Denied) and denied.code == ledger.DenialCode.ACCOUNT_FROZEN
    assert isinstance(await clocked.book.commit(ledgers.commit(HOLD, 100)), ledger.Settled)


async def test_extend_adds_time_and_credits_and_never_shrinks(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 200, 200)
    await clocked.book.reserve(ledgers.reserve(HOLD, 150, ttl_ms=10_000))
    longer = await clocked.book.extend(extend(60_000, 300))
    assert isinstance(longer, ledger.Held)
    assert (longer.amount_micros, longer.expires_ms) == (300, ledgers.START_MS + 60_000)
    same = await clocked.book.extend(extend(1_000, 100))
    assert isinstance(same, ledger.Held)
    assert (same.amount_micros, same.expires_ms) == (300, ledgers.START_MS + 60_000)
    assert await balance(clocked) == (100, 300)
    assert await is_conserved(clocked)


async def test_an_extension_that_is_not_covered_changes_nothing(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 200)
    await clocked.book.reserve(ledgers.reserve(HOLD, 150, ttl_ms=10_000))
    denied = await clocked.book.extend(extend(60_000, 201))
    assert isinstance(denied, ledger.Denied)
    assert (await clocked.book.holds(ADDRESS))[0].expires_ms == ledgers.START_MS + 10_000


def extend(ttl_ms: int, amount_micros: int) -> ledger.Extend:
    return ledger.Extend(tenant_id="t", address=ADDRESS, hold=HOLD, ttl_ms=ttl_ms, amount_micros=amount_micros)


async def test_a_charge_is_all_or_nothing_and_has_one_effect(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    assert isinstance(await clocked.book.charge(ledgers.charge(HOLD, 101)), ledger.Denied)
    first = await clocked.book.charge(ledgers.charge(HOLD, 60))
    again = await clocked.book.charge(ledgers.charge(HOLD, 60))
    assert isinstance(first, ledger.Settled) and isinstance(again, ledger.Settled)
    assert (first.charged_micros, first.replayed, again.replayed) == (60, False, True)
    with pytest.raises(errors.AlreadyExistsError):
        await clocked.book.charge(ledgers.charge(HOLD, 60, digest=b"charge02"))
    assert await balance(clocked) == (40, 0)


async def test_an_old_id_is_not_reserved_without_asking_the_durable_record(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    outcome = await clocked.book.reserve(ledgers.reserve(HOLD, 10, replay_only=True))
    assert isinstance(outcome, ledger.AskDurable)
    assert await balance(clocked) == (100, 0)


async def test_another_tenant_cannot_commit_a_hold(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    await clocked.book.reserve(ledgers.reserve(HOLD, 10))
    assert isinstance(await clocked.book.commit(ledgers.commit(HOLD, 10, tenant_id="thief")), ledger.AskDurable)
    assert await clocked.book.hold("thief", ADDRESS, HOLD) is None
    assert await balance(clocked) == (90, 10)


async def test_an_account_that_is_not_loaded_is_an_error_and_no_zero_balance(clocked: ledgers.Clocked) -> None:
    with pytest.raises(errors.AccountNotLoadedError):
        await clocked.book.reserve(ledgers.reserve(HOLD, 1))


async def test_an_unknown_wallet_is_not_found(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    with pytest.raises(errors.NotFoundError, match="wallet"):
        await clocked.book.reserve(ledgers.reserve(HOLD, 1, wallet="other"))


async def test_wallets_do_not_share_credits(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    await clocked.book.apply(ADDRESS, ledgers.grant_change(2, 30, wallet="other"))
    assert isinstance(await clocked.book.reserve(ledgers.reserve(HOLD, 31, wallet="other")), ledger.Denied)
    assert isinstance(await clocked.book.reserve(ledgers.reserve(OTHER, 30, wallet="other")), ledger.Held)
    assert await balance(clocked) == (100, 0)
    assert await balance(clocked, "other") == (0, 30)


async def test_amounts_up_to_the_bound_stay_exact(clocked: ledgers.Clocked) -> None:
    await funded(clocked, money.AMOUNT_MAX_MICROS)
    await clocked.book.reserve(ledgers.reserve(HOLD, money.AMOUNT_MAX_MICROS - 1))
    assert await balance(clocked) == (1, money.AMOUNT_MAX_MICROS - 1)
    await clocked.book.commit(ledgers.commit(HOLD, money.AMOUNT_MAX_MICROS - 2))
    assert await balance(clocked) == (2, 0)
    with pytest.raises(errors.OutOfRangeError):
        await clocked.book.apply(ADDRESS, ledgers.grant_change(2, 1))


async def test_a_hundred_callers_race_for_the_last_credits(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 70)
    calls = [clocked.book.reserve(ledgers.reserve(ids.uuid7(ledgers.START_MS), 10)) for _ in range(100)]
    outcomes = await asyncio.gather(*calls)
    assert sum(isinstance(outcome, ledger.Held) for outcome in outcomes) == 7
    assert await balance(clocked) == (0, 70)


async def test_holds_are_listed_soonest_to_expire_first(clocked: ledgers.Clocked) -> None:
    await funded(clocked, 100)
    await clocked.book.reserve(ledgers.reserve(HOLD, 10, ttl_ms=20_000))
    await clocked.book.reserve(ledgers.reserve(OTHER, 20, ttl_ms=10_000))
    assert [held.amount_micros for held in await clocked.book.holds(ADDRESS)] == [20, 10]
