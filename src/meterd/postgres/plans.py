"""Subscriptions in Postgres. Allowances are grants like all others; what they make of them is decided in core.subscriptions.

Everything that changes a subscription holds its account's row, so that any number of servers may do the same thing at once.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, ids, ledger, subscriptions
from meterd.postgres import catalog, limits, pool, sql

_SQL = sql.read("plans")

# Ids that callers choose take no control characters: what begins with one is meterd's own.
OWN = "\x1f"
# Grants of category GRANT_CATEGORY_ALLOWANCE and GRANT_CATEGORY_PROMOTIONAL.
ALLOWANCE = 3
PROMOTIONAL = 2
_WELCOME = f"{OWN}plan"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    """An account's sums since it was made, as far as the ledger was flushed."""

    purchased_micros: int
    earned_micros: int
    allowance_micros: int
    spent_micros: int
    transferred_micros: int
    lost_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A subscription with something to do."""

    tenant_id: str
    account_id: str
    subscription_id: uuid.UUID


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subscribed:
    subscription: subscriptions.Subscription
    replayed: bool
    welcome: catalog.Grant | None


class Plans:
    """Reads and writes of one tenant's subscriptions. `clock_ms` says which period it is.

    Errors of Postgres pass through as asyncpg raises them; a repeat has one effect.
    """

    def __init__(self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int]) -> None:
        self._pool = connections
        self._clock_ms = clock_ms

    async def subscribe(
        self,
        tenant_id: str,
        account_id: str,
        plan: offers.Plan,
        *,
        idempotency_key: str,
        skip_trial: bool = False,
        source_id: str = "",
        is_prorated: bool = False,
    ) -> Subscribed:
        """The account on the plan, with its first allowances; a plan that it was on has ended, and its allowances are revoked.

        Prorated, the periods go on as those of the plan before, and the first allowances are the share that is left of the period.

        AlreadyExistsError: the key was used with other content. NotFoundError: no such account. FailedPreconditionError and
        OutOfRangeError: as for a grant; nothing was written.
        """
        digest = catalog.digest_of(
            account_id, plan.plan_id, skip_trial, source_id, *(["prorated"] if is_prorated else [])
        )
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = (await catalog.lock_accounts(connection, tenant_id, [account_id])).get(account_id)
            row = await connection.fetchrow(_SQL["subscription_by_key"], tenant_id, idempotency_key)
            if row is not None:
                if row["request_digest"] != digest:
                    raise errors.AlreadyExistsError(
                        f"idempotency_key: used before with another {_difference(row, account_id, plan, source_id)}"
                    )
                welcome = await _welcome(connection, row["account_no"])
                return Subscribed(subscription=_subscription(row), replayed=True, welcome=welcome)
            if account is None:
                raise errors.NotFoundError("account_id: no such account")
            live = await connection.fetchrow(_SQL["live_subscription"], tenant_id, account_id)
            previous = _subscription(live) if live is not None else None
            if previous is not None:
                await _end(connection, previous, now_ms)
            had_trial: bool = await connection.fetchval(_SQL["had_trial"], account["account_no"])
            begun = subscriptions.begin(
                plan,
                subscription_id=ids.uuid7(now_ms),
                tenant_id=tenant_id,
                account_id=account_id,
                account_no=account["account_no"],
                address=account["address"],
                source_id=source_id,
                has_trial=not skip_trial and not had_trial,
                now_ms=now_ms,
                anchor_ms=subscriptions.kept_anchor_ms(previous, plan, now_ms) if is_prorated else 0,
            )
            await _insert(connection, begun, idempotency_key, digest)
            share = subscriptions.share_left(begun, now_ms) if is_prorated else (1, 1)
            made = await _advance(connection, account, begun, plan, now_ms, share=share)
            welcome = await _grant_welcome(connection, account, made, now_ms)
        return Subscribed(subscription=made, replayed=False, welcome=welcome)

    async def renew(
        self, tenant_id: str, account_id: str, offered: Callable[[str], offers.Plan | None]
    ) -> subscriptions.Subscription | None:
        """The account's subscription, brought up to now; None if it is on none any more. A repeat changes nothing.

        `offered` is the catalog's plan of an id. FailedPreconditionError and OutOfRangeError: an allowance does not fit into its wallet.
        """
        return await self._change(tenant_id, account_id, offered, lambda live: live)

    async def set_past_due(
        self, tenant_id: str, account_id: str, offered: Callable[[str], offers.Plan | None], *, past_due: bool
    ) -> subscriptions.Subscription:
        """The subscription after a payment failed, or came after all. NotFoundError: the account is on no plan."""

        def change(live: subscriptions.Subscription) -> subscriptions.Subscription:
            if past_due:
                return dataclasses.replace(live, status=subscriptions.Status.PAST_DUE)
            if live.status is not subscriptions.Status.PAST_DUE:
                return live
            return dataclasses.replace(live, status=subscriptions.Status.ACTIVE)

        found = await self._change(tenant_id, account_id, offered, change)
        if found is None:
            await self.subscription(tenant_id, account_id)
            raise errors.NotFoundError("account_id: the account is on no plan")
        return found

    async def cancel(
        self,
        tenant_id: str,
        account_id: str,
        offered: Callable[[str], offers.Plan | None],
        *,
        at_once: bool,
        kept_plan_id: str = "",
    ) -> subscriptions.Subscription:
        """The subscription, ended or to end with its period. NotFoundError: the account never was on a plan.

        One on the plan `kept_plan_id` stays: it is that of accounts without a subscription.
        """
        now_ms = self._clock_ms()

        def change(live: subscriptions.Subscription) -> subscriptions.Subscription:
            return dataclasses.replace(live, cancel_at_period_end=live.plan.plan_id != kept_plan_id)

        if not at_once:
            found = await self._change(tenant_id, account_id, offered, change)
            return found or await self.subscription(tenant_id, account_id)
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            await catalog.lock_accounts(connection, tenant_id, [account_id])
            row = await connection.fetchrow(_SQL["live_subscription"], tenant_id, account_id)
            if row is not None and row["plan_id"] != kept_plan_id:
                await _end(connection, _subscription(row), now_ms)
                await catalog.rule_within(connection, tenant_id, account_id, ledger.NO_PLAN, now_ms)
                await limits.refresh_within(connection, tenant_id, account_id, now_ms)
        return await self.subscription(tenant_id, account_id)

    async def _change(
        self,
        tenant_id: str,
        account_id: str,
        offered: Callable[[str], offers.Plan | None],
        change: Callable[[subscriptions.Subscription], subscriptions.Subscription],
    ) -> subscriptions.Subscription | None:
        """Changes the live subscription, then brings it up to now. Takes back what was granted ahead if it no longer renews."""
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = (await catalog.lock_accounts(connection, tenant_id, [account_id])).get(account_id)
            row = await connection.fetchrow(_SQL["live_subscription"], tenant_id, account_id)
            if account is None or row is None:
                return None
            before = _subscription(row)
            after = change(before)
            if after.refreshes_ms == 0 and now_ms < after.period_end_ms and after.granted_no > after.period_no:
                await _revoke(connection, after, after_ms=after.period_end_ms - 1, reason="not renewed", now_ms=now_ms)
                after = subscriptions.withdrawn(after)
            return await _advance(connection, account, after, offered(after.plan.plan_id), now_ms, before=before)

    async def subscription(self, tenant_id: str, account_id: str) -> subscriptions.Subscription:
        """The live subscription, or the last one; NotFoundError if the account never had any."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SQL["last_subscription"], tenant_id, account_id)
            if row is None and await connection.fetchval(_SQL["account_no"], tenant_id, account_id) is None:
                raise errors.NotFoundError("account_id: no such account")
        if row is None:
            raise errors.NotFoundError("account_id: the account never was on a plan")
        return _subscription(row)

    async def standing(self, tenant_id: str, account_id: str) -> tuple[subscriptions.Subscription | None, Lifetime]:
        """The live subscription if there is one, and the account's sums. NotFoundError: no such account."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account_no = await connection.fetchval(_SQL["account_no"], tenant_id, account_id)
            if account_no is None:
                raise errors.NotFoundError("account_id: no such account")
            row = await connection.fetchrow(_SQL["live_subscription"], tenant_id, account_id)
            sums = await connection.fetchrow(_SQL["lifetime"], account_no)
        return (_subscription(row) if row is not None else None), Lifetime(**sums)


async def due(connections: asyncpg.Pool, *, now_ms: int, count_max: int) -> list[Due]:
    """Subscriptions of all tenants with something to do, the longest waiting first."""
    rows = await connections.fetch(_SQL["due"], now_ms, count_max)
    return [Due(**row) for row in rows]


async def postpone(connections: asyncpg.Pool, found: Due, *, until_ms: int) -> None:
    """Lets others have their turn before one that cannot be done now."""
    await connections.execute(_SQL["postpone"], found.tenant_id, found.subscription_id, until_ms)


async def _insert(connection: Any, made: subscriptions.Subscription, idempotency_key: str, digest: bytes) -> None:
    await connection.execute(
        _SQL["insert_subscription"],
        made.tenant_id,
        made.subscription_id,
        made.account_no,
        made.plan.plan_id,
        offers.plan_document(made.plan),
        made.status.value,
        made.started_ms,
        made.anchor_ms,
        made.period_no,
        made.period_start_ms,
        made.period_end_ms,
        made.granted_no,
        made.terms_until_ms,
        made.source_id,
        idempotency_key,
        digest,
    )


async def _advance(
    connection: Any,
    account: Any,
    subscription: subscriptions.Subscription,
    offered: offers.Plan | None,
    now_ms: int,
    *,
    before: subscriptions.Subscription | None = None,
    share: tuple[int, int] = (1, 1),
) -> subscriptions.Subscription:
    """Brings the subscription up to now, with its grants and its rule. `before` is as the row has it."""
    has_debts: bool = await connection.fetchval(_SQL["has_debts"], subscription.account_no)
    step = subscriptions.advance(
        subscription, now_ms=now_ms, offered=offered, may_grant_ahead=not has_debts, share=share
    )
    after = step.subscription
    for allowance in step.allowances:
        new = catalog.NewGrant(
            tenant_id=after.tenant_id,
            account_id=after.account_id,
            idempotency_key=f"{OWN}{source_of(after)}{allowance.period_no}:{after.withdrawals}:{allowance.wallet}",
            wallet=allowance.wallet,
            amount_micros=allowance.amount_micros,
            category=ALLOWANCE,
            effective_ms=allowance.effective_ms,
            expires_ms=allowance.expires_ms,
            source_id=f"{source_of(after)}{allowance.period_no}",
        )
        await catalog.grant_within(connection, account, new, now_ms)
    if after != before:
        await _update(connection, after)
    await catalog.rule_within(connection, after.tenant_id, after.account_id, step.rule, now_ms)
    await limits.refresh_within(connection, after.tenant_id, after.account_id, now_ms)
    return after


async def _update(connection: Any, after: subscriptions.Subscription) -> None:
    await connection.execute(
        _SQL["update_subscription"],
        after.tenant_id,
        after.subscription_id,
        offers.plan_document(after.plan),
        offers.plan_document(after.next_plan) if after.next_plan else None,
        after.status.value,
        after.period_no,
        after.period_start_ms,
        after.period_end_ms,
        after.granted_no,
        after.withdrawals,
        after.terms_until_ms,
        after.cancel_at_period_end,
        after.canceled_ms,
        after.due_ms,
    )


def source_of(subscription: subscriptions.Subscription) -> str:
    """What the source ids of its allowances begin with; the number of the period follows."""
    return f"subscription:{subscription.subscription_id}:"


async def _revoke(
    connection: Any, subscription: subscriptions.Subscription, *, after_ms: int, reason: str, now_ms: int
) -> None:
    """Revokes what is left of its allowances that become effective after a moment."""
    # By the key, which nobody else can have chosen.
    prefix = f"{OWN}{source_of(subscription)}"
    rows = await connection.fetch(_SQL["allowances_left"], subscription.account_no, prefix, after_ms, now_ms)
    for row in rows:
        await catalog.revoke_within(
            connection,
            row,
            tenant_id=subscription.tenant_id,
            grant_id=row["grant_id"],
            idempotency_key=f"{OWN}{row['grant_id']}",
            reason=reason,
            now_ms=now_ms,
        )


async def _end(connection: Any, live: subscriptions.Subscription, now_ms: int) -> None:
    """Ends the subscription now, and revokes what is left of its allowances."""
    await _revoke(connection, live, after_ms=0, reason="subscription ended", now_ms=now_ms)
    await _update(connection, subscriptions.ended(live, now_ms))


async def _welcome(connection: Any, account_no: int) -> catalog.Grant | None:
    row = await connection.fetchrow(_SQL["claim"], account_no, _WELCOME, "")
    return catalog.grant_of(row) if row is not None else None


async def _grant_welcome(
    connection: Any, account: Any, made: subscriptions.Subscription, now_ms: int
) -> catalog.Grant | None:
    """The plan's welcome bonus, which an account has once, whatever plans it goes through."""
    amount_micros = made.plan.welcome_bonus_micros
    if amount_micros == 0 or await _welcome(connection, made.account_no) is not None:
        return None
    new = catalog.NewGrant(
        tenant_id=made.tenant_id,
        account_id=made.account_id,
        idempotency_key=f"{OWN}welcome:{made.account_no}",
        wallet=offers.DEFAULT_WALLET,
        amount_micros=amount_micros,
        category=PROMOTIONAL,
        source_id=f"plan:{made.plan.plan_id}"[: ids.ID_BYTES_MAX],
    )
    granted, _ = await catalog.grant_within(connection, account, new, now_ms)
    await connection.execute(
        _SQL["insert_claim"], made.tenant_id, made.account_no, _WELCOME, "", granted.grant_id, now_ms
    )
    return granted


def _difference(row: Any, account_id: str, plan: offers.Plan, source_id: str) -> str:
    if row["account_id"] != account_id:
        return "account_id"
    if row["plan_id"] != plan.plan_id:
        return "plan_id"
    return "source_id" if row["source_id"] != source_id else "skip_trial or proration"


def _subscription(row: Any) -> subscriptions.Subscription:
    return subscriptions.Subscription(
        subscription_id=row["subscription_id"],
        tenant_id=row["tenant_id"],
        account_id=row["account_id"],
        account_no=row["account_no"],
        address=row["address"],
        plan=offers.plan_of(row["plan"]),
        next_plan=offers.plan_of(row["next_plan"]) if row["next_plan"] is not None else None,
        status=subscriptions.Status(row["status"]),
        started_ms=row["started_ms"],
        anchor_ms=row["anchor_ms"],
        period_no=row["period_no"],
        period_start_ms=row["period_start_ms"],
        period_end_ms=row["period_end_ms"],
        granted_no=row["granted_no"],
        withdrawals=row["withdrawals"],
        terms_until_ms=row["terms_until_ms"],
        cancel_at_period_end=row["cancel_at_period_end"],
        canceled_ms=row["canceled_ms"],
        due_ms=row["due_ms"],
        source_id=row["source_id"],
    )
