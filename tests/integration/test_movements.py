"""Transfers, claw-backs, rewards and settings over gRPC, on real stores: once each, whatever comes at once or crashes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests.integration import serving

CATALOG = """
account:
  welcome_bonus: 10
features:
  cover_letter: {name: Cover letter, credits: 12}
rewards:
  daily: {name: Daily login, kind: day, credits: 1, weekly_cap: 5}
  referral: {name: Referral, kind: referral, credits: 20}
  feedback: {name: Feedback, kind: once, credits: 7}
  spent_100: {name: 100 credits spent, kind: once, credits: 10, lifetime_spent: 100}
"""
CREDIT = 1_000_000


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    made = server.client(scene.key)
    await made.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG))
    return made


async def account(client: serving.Client, *names: str) -> None:
    for name in names:
        await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=name))


async def balance(client: serving.Client, name: str) -> accounts_pb2.GetBalanceResponse:
    return await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=name))


async def available(client: serving.Client, name: str) -> int:
    return (await client.balance(name))[0]


async def proven(client: serving.Client, scene: serving.Scene, *names: str) -> list[str]:
    """What `meterd verify` finds once Postgres has everything."""
    for name in names:
        await serving.eventually(lambda name=name: client.is_fresh(name))
    return await serving.findings(scene.dsn, scene.redis_url)


def transfer(amount_micros: int, **fields: Any) -> accounts_pb2.TransferRequest:
    values: dict[str, Any] = {
        "idempotency_key": serving.new_id(),
        "from_account_id": "alice",
        "to_account_id": "bob",
        "amount_micros": amount_micros,
    }
    return accounts_pb2.TransferRequest(**values | fields)


async def test_a_new_account_has_the_welcome_bonus_once(client: serving.Client) -> None:
    request = accounts_pb2.CreateAccountRequest(account_id="alice")
    first, again = await client.call("CreateAccount", request), await client.call("CreateAccount", request)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.welcome.grant_id == again.welcome.grant_id != ""
    assert await available(client, "alice") == 10 * CREDIT
    found = await balance(client, "alice")
    assert (found.lifetime.earned_micros, found.lifetime.purchased_micros) == (10 * CREDIT, 0)


async def test_a_transfer_takes_from_one_and_gives_to_the_other_once(
    client: serving.Client, scene: serving.Scene
) -> None:
    await account(client, "alice", "bob")
    await client.fund("alice", 90 * CREDIT)
    request = transfer(30 * CREDIT, reason="thanks")
    first, again = await client.call("Transfer", request), await client.call("Transfer", request)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.transfer == again.transfer
    assert first.transfer.gift.category == types_pb2.GRANT_CATEGORY_GIFT
    assert (await available(client, "alice"), await available(client, "bob")) == (70 * CREDIT, 40 * CREDIT)
    alice, bob = await balance(client, "alice"), await balance(client, "bob")
    assert (alice.lifetime.transferred_micros, alice.lifetime.spent_micros) == (30 * CREDIT, 0)
    assert bob.lifetime.earned_micros == 40 * CREDIT
    listed = await client.call("ListTransactions", accounts_pb2.ListTransactionsRequest(account_id="alice"))
    sent = listed.transactions[0]
    assert (sent.kind, sent.item, sent.amount_micros) == (
        accounts_pb2.Transaction.KIND_TRANSFER,
        "transfer:bob",
        -30 * CREDIT,
    )
    assert await proven(client, scene, "alice", "bob") == []


async def test_a_transfer_that_is_not_covered_is_denied_and_leaves_no_trace(client: serving.Client) -> None:
    await account(client, "alice", "bob")
    await serving.eventually(lambda: client.is_fresh("alice"))
    before = await balance(client, "alice")
    denied = await client.call("Transfer", transfer(11 * CREDIT))
    assert denied.denial.reasons[0].code == types_pb2.Denial.CODE_INSUFFICIENT_CREDITS
    assert await balance(client, "alice") == before
    assert await available(client, "bob") == 10 * CREDIT
    missing = await client.refused("Transfer", transfer(CREDIT, to_account_id="nobody"))
    assert (missing.code, "to_account_id" in missing.message) == (grpc.StatusCode.NOT_FOUND, True)
    own = await client.refused("Transfer", transfer(CREDIT, to_account_id="alice"))
    assert own.code == grpc.StatusCode.INVALID_ARGUMENT
    request = transfer(CREDIT)
    await client.call("Transfer", request)
    request.amount_micros += 1
    assert (await client.refused("Transfer", request)).code == grpc.StatusCode.ALREADY_EXISTS


async def test_transfers_that_race_with_spending_give_no_more_than_there_is(
    client: serving.Client, scene: serving.Scene
) -> None:
    await account(client, "alice", "bob")
    charge = types_pb2.CreditsCharge(amount_micros=CREDIT)
    calls = [client.call("Transfer", transfer(CREDIT)) for _ in range(15)]
    calls += [
        client.call(
            "Charge",
            metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id="alice", credits=charge),
        )
        for _ in range(15)
    ]
    answers = await asyncio.gather(*calls)
    sent = sum(answer.WhichOneof("outcome") == "transfer" for answer in answers[:15])
    spent = sum(answer.WhichOneof("outcome") == "settlement" for answer in answers[15:])
    assert sent + spent == 10
    assert await available(client, "alice") == 0
    assert await available(client, "bob") == (10 + sent) * CREDIT
    assert await proven(client, scene, "alice", "bob") == []


async def test_a_gift_that_a_crash_prevented_is_made_by_the_worker_once(scene: serving.Scene) -> None:
    """The server that took the debit has no workers, so its transfer ends as if it had crashed behind the debit."""
    settings = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(settings) as server:
        client = server.client(scene.key)
        await client.fund("alice", 10 * CREDIT)
        await account(client, "bob")
        request = transfer(4 * CREDIT)
        answer = await client.call("Transfer", request)
        assert not answer.transfer.HasField("gift")
        assert await available(client, "alice") == 6 * CREDIT
    workers = serving.settings_of(scene.dsn, scene.redis_url, workers=True)
    async with serving.running(workers) as first, serving.running(workers) as second:
        client = first.client(scene.key)

        async def given() -> bool:
            found = await balance(client, "bob")
            return [wallet.available_micros for wallet in found.wallets] == [4 * CREDIT]

        await serving.eventually(given)
        again = await second.client(scene.key).call("Transfer", request)
        assert again.replayed and again.transfer.gift.amount_micros == 4 * CREDIT
        assert await available(client, "bob") == 4 * CREDIT
        assert await proven(client, scene, "alice", "bob") == []


async def test_a_claw_back_goes_below_zero_and_says_so(client: serving.Client, scene: serving.Scene) -> None:
    await account(client, "alice")
    request = accounts_pb2.ClawBackRequest(
        idempotency_key="dispute 1", account_id="alice", amount_micros=25 * CREDIT, reason="disputed"
    )
    first, again = await client.call("ClawBack", request), await client.call("ClawBack", request)
    assert (first.balance.available_micros, first.projected, first.replayed) == (-15 * CREDIT, True, False)
    assert (again.claw_back_id, again.replayed) == (first.claw_back_id, True)
    found = await balance(client, "alice")
    assert (found.wallets[0].available_micros, found.wallets[0].debt_micros) == (-15 * CREDIT, 15 * CREDIT)
    denied = await client.call("Reserve", serving.reserve_request("alice", 1))
    assert denied.WhichOneof("outcome") == "denial"
    await serving.eventually(lambda: client.is_fresh("alice"))
    listed = await client.call("ListTransactions", accounts_pb2.ListTransactionsRequest(account_id="alice"))
    last = listed.transactions[0]
    assert (last.kind, last.amount_micros) == (accounts_pb2.Transaction.KIND_CLAW_BACK, -25 * CREDIT)
    await client.call("Grant", serving.grant_request("alice", 20 * CREDIT))
    assert await available(client, "alice") == 5 * CREDIT
    request.amount_micros += 1
    assert (await client.refused("ClawBack", request)).code == grpc.StatusCode.ALREADY_EXISTS
    assert await proven(client, scene, "alice") == []


async def test_an_account_that_owes_is_loaded_again_as_it_was(client: serving.Client, scene: serving.Scene) -> None:
    await account(client, "alice")
    clawed = accounts_pb2.ClawBackRequest(idempotency_key="x", account_id="alice", amount_micros=25 * CREDIT)
    await client.call("ClawBack", clawed)
    await serving.eventually(lambda: client.is_fresh("alice"))
    async with serving.contents(scene.dsn, scene.redis_url) as contents:
        await contents.forget("{m:*}:a:*")
    assert await available(client, "alice") == -15 * CREDIT
    assert await proven(client, scene, "alice") == []


def claim(account_id: str, reward_id: str, referred: str = "") -> accounts_pb2.ClaimRewardRequest:
    return accounts_pb2.ClaimRewardRequest(account_id=account_id, reward_id=reward_id, referred_account_id=referred)


@pytest.mark.parametrize("reward", ["daily", "feedback"])
async def test_fifty_claims_of_one_reward_at_once_make_one_grant(
    client: serving.Client, scene: serving.Scene, reward: str
) -> None:
    await account(client, "alice")
    answers = await asyncio.gather(*(client.call("ClaimReward", claim("alice", reward)) for _ in range(50)))
    assert len({answer.grants[0].grant_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    expected = {"daily": 11, "feedback": 17}[reward] * CREDIT
    assert await available(client, "alice") == expected
    assert await proven(client, scene, "alice") == []


async def test_a_referral_gives_to_both_and_an_account_is_referred_once(
    client: serving.Client, scene: serving.Scene
) -> None:
    await account(client, "alice", "bob", "carol")
    claims = [claim("alice", "referral", "bob")] * 20 + [claim("carol", "referral", "bob")] * 5
    answers = await asyncio.gather(*(client.call("ClaimReward", one) for one in claims))
    granted = [answer for answer in answers if answer.grants and not answer.replayed]
    assert len(granted) == 1 and len(granted[0].grants) == 2
    winner = granted[0].grants[0].account_id
    loser = {"alice": "carol", "carol": "alice"}[winner]
    assert await available(client, winner) == await available(client, "bob") == 30 * CREDIT
    assert await available(client, loser) == 10 * CREDIT
    back = await client.call("ClaimReward", claim("bob", "referral", winner))
    assert back.refusal == accounts_pb2.ClaimRewardResponse.REFUSAL_ALREADY_REFERRED
    own = await client.refused("ClaimReward", claim("bob", "referral", "bob"))
    assert own.code == grpc.StatusCode.INVALID_ARGUMENT
    assert await proven(client, scene, "alice", "bob", "carol") == []


async def test_an_achievement_is_granted_by_itself_once_enough_was_spent(
    client: serving.Client, scene: serving.Scene
) -> None:
    await account(client, "alice", "bob")
    await client.fund("alice", 200 * CREDIT)
    # What is given away is not spent.
    await client.call("Transfer", transfer(60 * CREDIT))
    early = await client.call("ClaimReward", claim("alice", "spent_100"))
    assert early.refusal == accounts_pb2.ClaimRewardResponse.REFUSAL_NOT_REACHED
    assert (early.spent_micros, early.required_micros) == (0, 100 * CREDIT)
    hold = await client.reserve("alice", 100 * CREDIT)
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id))

    async def rewarded() -> bool:
        return await available(client, "alice") == 60 * CREDIT

    await serving.eventually(rewarded)
    again = await client.call("ClaimReward", claim("alice", "spent_100"))
    assert again.replayed and again.grants[0].amount_micros == 10 * CREDIT
    assert await proven(client, scene, "alice", "bob") == []


async def test_settings_that_are_given_change_and_the_others_stay(client: serving.Client) -> None:
    await account(client, "alice")
    changed = await client.call("UpdateAccount", accounts_pb2.UpdateAccountRequest(account_id="alice", frozen=True))
    assert changed.projected and changed.account.frozen
    denied = await client.call("Reserve", serving.reserve_request("alice", 1))
    assert denied.denial.reasons[0].code == types_pb2.Denial.CODE_ACCOUNT_FROZEN
    request = accounts_pb2.UpdateAccountRequest(
        account_id="alice", frozen=False, overage_policy=types_pb2.OVERAGE_POLICY_CAP, overdraft_limit_micros=5
    )
    changed = await client.call("UpdateAccount", request)
    found = (await client.call("GetAccount", accounts_pb2.GetAccountRequest(account_id="alice"))).account
    assert (found.frozen, found.overage_policy, found.overdraft_limit_micros, found.strict_expiry) == (
        False,
        types_pb2.OVERAGE_POLICY_CAP,
        5,
        False,
    )
    unset = accounts_pb2.UpdateAccountRequest(account_id="alice", overage_policy=types_pb2.OVERAGE_POLICY_UNSPECIFIED)
    assert (await client.refused("UpdateAccount", unset)).code == grpc.StatusCode.INVALID_ARGUMENT


async def test_movements_stay_inside_their_tenant(
    client: serving.Client, scene: serving.Scene, server: serving.Server
) -> None:
    await account(client, "alice", "bob")
    theirs = server.client((await serving.new_key(scene.dsn, "other", "admin")).key)
    for name, request in (
        ("Transfer", transfer(CREDIT)),
        ("ClawBack", accounts_pb2.ClawBackRequest(idempotency_key="k", account_id="alice", amount_micros=1)),
        ("UpdateAccount", accounts_pb2.UpdateAccountRequest(account_id="alice", frozen=True)),
    ):
        assert (await theirs.refused(name, request)).code == grpc.StatusCode.NOT_FOUND
    assert await available(client, "alice") == 10 * CREDIT
