"""The use cases that move credits without usage: transfers, claw-backs, rewards and the welcome bonus.

A transfer has two ends, which may lie on two partitions. The debit is a charge in Redis: only there it is sure against concurrent
spending, and one that is not covered leaves no trace. The gift is a grant, made from the debit's record once that is in the ledger, and
keyed by it. So whatever crashes in between, the record is there and a worker makes the gift; and a debit that Redis loses had no gift.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, ids, ledger, money
from meterd.meter import catalogs, holds, hydration, projector, reach, replies, requests, statements
from meterd.postgres import catalog
from meterd.postgres import movements as stored
from meterd_client.v1 import accounts_pb2, types_pb2

# The flusher takes some ten milliseconds; where it is away, the worker makes the gift later.
GIFT_WAIT_S = 2.0
GIFT_POLL_S = 0.02

Charge = Callable[[ledger.Charge], Awaitable[ledger.Settled | ledger.Denied | holds.Durable]]


class Movements:
    """Transfer, ClawBack and ClaimReward; see accounts.proto for what each answers."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        catalog_: catalog.Catalog,
        catalogs_: catalogs.Catalogs,
        projector_: projector.Projector,
        reach_: reach.Reach,
        charge: Charge,
        clock_ms: Callable[[], int],
        gift_wait_s: float = GIFT_WAIT_S,
    ) -> None:
        """`charge` settles a charge that is priced already, such as Metering.settle_charge."""
        self._catalog = catalog_
        self._catalogs = catalogs_
        self._projector = projector_
        self._reach = reach_
        self._charge = charge
        self._clock_ms = clock_ms
        self._gift_wait_s = gift_wait_s
        self._stored = stored.Movements(connections, clock_ms=clock_ms)

    async def transfer(self, tenant_id: str, request: accounts_pb2.TransferRequest) -> accounts_pb2.TransferResponse:
        """See Accounts.Transfer in accounts.proto."""
        command, taker, wallet = _debit(tenant_id, request, self._clock_ms())
        with hydration.postgres():
            try:
                await self._catalog.check_room(tenant_id, taker, wallet, command.amount_micros)
            except errors.NotFoundError as exc:
                raise errors.NotFoundError("to_account_id: no such account") from exc
        try:
            outcome = await self._charge(command)
        except errors.NotFoundError as exc:
            # The account or its wallet, as they are called here.
            raise errors.NotFoundError(f"from_{exc}") from exc
        if isinstance(outcome, ledger.Denied):
            denied = replies.denial(outcome)
            return accounts_pb2.TransferResponse(denial=denied, balance=replies.balance(outcome.balance))
        gift = await self._gifted(tenant_id, command.address, command.charge)
        response = accounts_pb2.TransferResponse(
            transfer=accounts_pb2.TransferRecord(
                transfer_id=f"{ledger.Kind.CHARGE.value}{command.charge}",
                amount_micros=command.amount_micros,
                gift=statements.grant(gift) if gift else None,
            ),
            replayed=not isinstance(outcome, ledger.Settled) or outcome.replayed,
        )
        if isinstance(outcome, ledger.Settled):
            response.balance.CopyFrom(replies.balance(outcome.balance))
        return response

    async def _gifted(self, tenant_id: str, address: str, txn: uuid.UUID) -> catalog.Grant | None:
        """The gift, waiting for the debit to be flushed; None if that takes too long, or Postgres is away: the worker makes it then."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._gift_wait_s
        try:
            while loop.time() < until_s:
                if (made := await self.gift(tenant_id, address, txn)) is not None:
                    return made
                await asyncio.sleep(GIFT_POLL_S)
        except (errors.MeterdError, *hydration.POSTGRES_ERRORS):
            pass
        return None

    async def gift(self, tenant_id: str, address: str, txn: uuid.UUID) -> catalog.Grant | None:
        """Makes the gift of a transfer whose debit is in the ledger, once; None if it is not. Errors pass through."""
        debit = await self._stored.debit(tenant_id, address, txn)
        if debit is None:
            return None
        new = catalog.NewGrant(
            tenant_id=tenant_id,
            account_id=debit.terms["to"],
            idempotency_key=stored.gift_key(txn),
            wallet=debit.terms["wallet"],
            amount_micros=debit.amount_micros,
            category=stored.GIFT,
            source_id=f"transfer:{txn}",
        )
        made, _ = await self._catalog.add_grant(new)
        await self._reach.reach(tenant_id, made.address)
        return made

    async def claw_back(self, tenant_id: str, request: accounts_pb2.ClawBackRequest) -> accounts_pb2.ClawBackResponse:
        """See Accounts.ClawBack in accounts.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        amount_micros = requests.checked_amount(request.amount_micros, "amount_micros")
        with hydration.postgres():
            made, replayed = await self._stored.claw_back(
                tenant_id,
                account_id,
                wallet=ids.checked_wallet(request.wallet),
                amount_micros=amount_micros,
                idempotency_key=key,
                reason=ids.checked_text(request.reason, "reason", requests.REASON_BYTES_MAX),
            )
        balance: types_pb2.Balance | None = None
        projected = False
        try:
            applied = (await self._projector.project(made.address)).get(made.change_no)
            if applied is not None and applied.balance is not None:
                projected, balance = True, replies.balance(applied.balance)
            else:
                projected = await self._reach.reach(tenant_id, made.address)
        except errors.MeterdError:
            pass
        return accounts_pb2.ClawBackResponse(
            claw_back_id=str(made.claw_back_id), replayed=replayed, projected=projected, balance=balance
        )

    async def claim_reward(
        self, tenant_id: str, request: accounts_pb2.ClaimRewardRequest
    ) -> accounts_pb2.ClaimRewardResponse:
        """See Accounts.ClaimReward in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        reward_id = ids.checked_id(request.reward_id, "reward_id")
        reward = self._catalogs.of(tenant_id).reward(reward_id)
        if reward is None:
            raise errors.NotFoundError("reward_id: the catalog has no such reward")
        referred = _checked_referred(reward, account_id, request.referred_account_id)
        with hydration.postgres():
            claim = await self._stored.claim(tenant_id, account_id, reward, referred)
        if claim.refusal is not None:
            return accounts_pb2.ClaimRewardResponse(
                refusal=_REFUSALS[claim.refusal],
                retry_at=replies.timestamp(claim.retry_ms) if claim.retry_ms else None,
                spent_micros=claim.spent_micros,
                required_micros=claim.required_micros,
            )
        reached = [await self._reach.reach(tenant_id, granted.address) for granted in claim.grants]
        return accounts_pb2.ClaimRewardResponse(
            grants=[statements.grant(granted) for granted in claim.grants],
            replayed=claim.replayed,
            projected=all(reached),
        )

    async def achieve(self, tenant_id: str, account_id: str, reward: offers.Reward) -> bool:
        """Grants an achievement, for the worker; False if it is not due. Errors pass through."""
        claim = await self._stored.claim(tenant_id, account_id, reward)
        for granted in claim.grants:
            await self._reach.reach(tenant_id, granted.address)
        return bool(claim.grants) and not claim.replayed

    async def welcome(self, tenant_id: str, account_id: str) -> catalog.Grant | None:
        """The catalog's bonus for new accounts, which an account has once. Errors of Postgres pass through."""
        amount_micros = self._catalogs.of(tenant_id).account.welcome_bonus_micros
        if amount_micros == 0:
            return None
        return await self._stored.welcome(
            tenant_id, account_id, money.checked_micros(amount_micros, "welcome_bonus_micros")
        )


_REFUSALS = {
    stored.Refusal.WEEKLY_CAP: accounts_pb2.ClaimRewardResponse.REFUSAL_WEEKLY_CAP,
    stored.Refusal.NOT_REACHED: accounts_pb2.ClaimRewardResponse.REFUSAL_NOT_REACHED,
    stored.Refusal.ALREADY_REFERRED: accounts_pb2.ClaimRewardResponse.REFUSAL_ALREADY_REFERRED,
}


def _debit(tenant_id: str, request: accounts_pb2.TransferRequest, now_ms: int) -> tuple[ledger.Charge, str, str]:
    """The giver's side of a transfer, and the account and wallet that it goes to."""
    if not request.idempotency_key:
        raise errors.InvalidArgumentError("idempotency_key", "must be a UUIDv7")
    txn = ids.checked_uuid7(request.idempotency_key, "idempotency_key", now_ms)
    giver = ids.checked_id(request.from_account_id, "from_account_id")
    taker = ids.checked_id(request.to_account_id, "to_account_id")
    if giver == taker:
        raise errors.InvalidArgumentError("to_account_id", "must be another account")
    wallet = ids.checked_wallet(request.from_wallet, "from_wallet")
    to_wallet = ids.checked_wallet(request.to_wallet or wallet, "to_wallet")
    terms: requests.Terms = {"acct": giver, "item": f"transfer:{taker}", "to": taker, "wallet": to_wallet}
    if request.reason:
        terms["meta"] = {"reason": ids.checked_text(request.reason, "reason", requests.REASON_BYTES_MAX)}
    command = ledger.Charge(
        tenant_id=tenant_id,
        address=ids.account_address(tenant_id, giver),
        charge=txn,
        wallet=wallet,
        amount_micros=requests.checked_amount(request.amount_micros, "amount_micros"),
        digest=requests.digest(request),
        overage=ledger.Overage.TRANSFER,
        terms=requests.encode(terms),
        detail=b"",
    )
    return command, taker, to_wallet


def _checked_referred(reward: offers.Reward, account_id: str, referred_account_id: str) -> str:
    if reward.kind != offers.REFERRAL:
        if referred_account_id:
            raise errors.InvalidArgumentError("referred_account_id", "must be empty: the reward is not for referrals")
        return ""
    if ids.checked_id(referred_account_id, "referred_account_id") == account_id:
        raise errors.InvalidArgumentError("referred_account_id", "must be another account")
    return referred_account_id
