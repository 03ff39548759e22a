"""Accounts, grants, wallets and transactions as messages. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import cast

from meterd.core import ids, ledger, subscriptions
from meterd.meter import durable, offers, replies, requests
from meterd.postgres import catalog, plans, queries
from meterd_client.v1 import accounts_pb2, types_pb2

_KINDS = {
    ledger.Kind.COMMIT: accounts_pb2.Transaction.KIND_COMMIT,
    ledger.Kind.COMMIT_LATE: accounts_pb2.Transaction.KIND_COMMIT_LATE,
    ledger.Kind.RELEASE: accounts_pb2.Transaction.KIND_RELEASE,
    ledger.Kind.EXPIRE: accounts_pb2.Transaction.KIND_EXPIRE,
    ledger.Kind.CHARGE: accounts_pb2.Transaction.KIND_CHARGE,
    ledger.Kind.GRANT: accounts_pb2.Transaction.KIND_GRANT,
    ledger.Kind.REVOKE: accounts_pb2.Transaction.KIND_REVOKE,
    ledger.Kind.GRANT_EXPIRE: accounts_pb2.Transaction.KIND_GRANT_EXPIRE,
    ledger.Kind.SETTINGS: accounts_pb2.Transaction.KIND_SETTINGS,
    ledger.Kind.CLAW_BACK: accounts_pb2.Transaction.KIND_CLAW_BACK,
}
ENDINGS = frozenset(
    (ledger.Kind.COMMIT, ledger.Kind.COMMIT_LATE, ledger.Kind.RELEASE, ledger.Kind.EXPIRE, ledger.Kind.CHARGE)
)

_STATUSES = {
    subscriptions.Status.TRIAL: accounts_pb2.Subscription.STATUS_TRIAL,
    subscriptions.Status.ACTIVE: accounts_pb2.Subscription.STATUS_ACTIVE,
    subscriptions.Status.PAST_DUE: accounts_pb2.Subscription.STATUS_PAST_DUE,
    subscriptions.Status.CANCELED: accounts_pb2.Subscription.STATUS_CANCELED,
}


def account(value: catalog.Account) -> accounts_pb2.Account:
    """An account's settings."""
    return accounts_pb2.Account(
        account_id=value.account_id,
        overage_policy=cast(types_pb2.OveragePolicy, int(value.overage)),
        overdraft_limit_micros=value.overdraft_limit_micros,
        strict_expiry=value.strict_expiry,
        frozen=value.frozen,
        created_at=replies.timestamp(value.created_ms),
    )


def grant(value: catalog.Grant) -> accounts_pb2.GrantRecord:
    """A grant as it was decided."""
    return accounts_pb2.GrantRecord(
        grant_id=str(value.grant_id),
        account_id=value.account_id,
        wallet=value.wallet,
        category=cast(types_pb2.GrantCategory, value.category),
        priority=value.priority,
        amount_micros=value.amount_micros,
        effective_at=replies.timestamp(value.effective_ms),
        expires_at=replies.timestamp(value.expires_ms) if value.expires_ms else None,
        source_id=value.source_id,
        created_at=replies.timestamp(value.created_ms),
    )


def wallet(
    state: ledger.WalletState, account_id: str, rows: dict[uuid.UUID, queries.GrantRow], now_ms: int
) -> accounts_pb2.WalletBalance:
    """A wallet's live balance; `rows` is what Postgres keeps of its grants."""
    grants: list[accounts_pb2.GrantRecord] = []
    for one in sorted(state.grants, key=ledger.burn_key):
        row = rows.get(one.grant_id)
        grants.append(
            accounts_pb2.GrantRecord(
                grant_id=str(one.grant_id),
                account_id=account_id,
                wallet=state.wallet,
                category=cast(types_pb2.GrantCategory, one.category),
                priority=one.priority,
                amount_micros=row.amount_micros if row else 0,
                available_micros=one.available_micros if ledger.is_active(one, now_ms) else 0,
                held_micros=one.held_micros,
                effective_at=replies.timestamp(one.effective_ms),
                expires_at=replies.timestamp(one.expires_ms) if one.expires_ms else None,
                source_id=row.source_id if row else "",
                created_at=replies.timestamp(row.created_ms) if row else None,
            )
        )
    return accounts_pb2.WalletBalance(
        wallet=state.wallet,
        available_micros=ledger.available_micros(state, now_ms),
        held_micros=state.held_micros,
        debt_micros=state.debt_micros,
        grants=grants,
    )


def transaction(value: queries.Transaction) -> accounts_pb2.Transaction:
    """A ledger record."""
    record = value.record
    is_transfer = record.overage == ledger.Overage.TRANSFER
    terms = requests.decode(record.terms)
    message = accounts_pb2.Transaction(
        transaction_id=f"{record.kind.value}{record.txn}",
        kind=_KINDS[record.kind] if not is_transfer else accounts_pb2.Transaction.KIND_TRANSFER,
        seq=record.seq,
        epoch=record.epoch,
        wallet=record.wallet,
        amount_micros=record.granted_micros - record.charged_micros - record.expired_micros - record.revoked_micros,
        available_after_micros=record.balance_after_micros,
        held_after_micros=record.wallet_held_after_micros,
        at=replies.timestamp(record.at_ms),
        metadata=terms.get("meta"),
        item=terms.get("item", ""),
        grant_id=_grant_of(value),
    )
    if record.kind in ENDINGS:
        own_id = ids.HoldId(uuid=record.txn, address=record.address)
        message.settlement.CopyFrom(replies.durable_settlement(durable.of_record(record), own_id))
        message.subject.CopyFrom(_subject(terms))
    return message


def lifetime(value: plans.Lifetime) -> accounts_pb2.Lifetime:
    """An account's sums."""
    return accounts_pb2.Lifetime(
        purchased_micros=value.purchased_micros,
        earned_micros=value.earned_micros,
        allowance_micros=value.allowance_micros,
        spent_micros=value.spent_micros,
        transferred_micros=value.transferred_micros,
        lost_micros=value.lost_micros,
    )


def subscription(value: subscriptions.Subscription) -> accounts_pb2.Subscription:
    """A subscription as it is."""
    return accounts_pb2.Subscription(
        subscription_id=str(value.subscription_id),
        account_id=value.account_id,
        plan=offers.plan_message(value.plan),
        status=_STATUSES[value.status],
        started_at=replies.timestamp(value.started_ms),
        period_no=value.period_no,
        period_start=replies.timestamp(value.period_start_ms),
        period_end=replies.timestamp(value.period_end_ms),
        terms_until=replies.timestamp(value.terms_until_ms),
        trial_ends_at=replies.timestamp(value.trial_ends_ms) if value.trial_ends_ms else None,
        cancel_at_period_end=value.cancel_at_period_end,
        canceled_at=replies.timestamp(value.canceled_ms) if value.canceled_ms else None,
        source_id=value.source_id,
    )


def put_plan(
    message: accounts_pb2.GetBalanceResponse,
    state: ledger.AccountState,
    live: subscriptions.Subscription | None,
    now_ms: int,
) -> None:
    """Adds to a balance what the account's plan makes of it. `live` is the subscription that it is on."""
    message.unlimited = state.plan.is_unlimited(now_ms)
    message.actions_today = state.actions_on(now_ms)
    if now_ms < state.plan.until_ms:
        message.actions_per_day = state.plan.actions_per_day
    if live is None:
        return
    message.plan_id = live.plan.plan_id
    refreshes = replies.timestamp(live.refreshes_ms) if live.refreshes_ms else None
    if refreshes is not None:
        message.refreshes_at.CopyFrom(refreshes)
    wallets = {found.wallet: found for found in message.wallets}
    for allowance in live.plan.allowances:
        found = wallets.get(allowance.wallet) or message.wallets.add(wallet=allowance.wallet)
        found.allowance_micros = allowance.amount_micros
        found.blocked = allowance.amount_micros == 0
        if refreshes is not None and allowance.amount_micros:
            found.refreshes_at.CopyFrom(refreshes)


def _grant_of(value: queries.Transaction) -> str:
    record = value.record
    match record.kind:
        case ledger.Kind.GRANT | ledger.Kind.GRANT_EXPIRE:
            return str(record.txn)
        case ledger.Kind.REVOKE:
            return str(value.revoked_grant_id or _first(record.revoked))
        case _:
            return ""


def _first(draws: Sequence[ledger.Draw]) -> str:
    return str(draws[0].grant_id) if draws else ""


def _subject(terms: requests.Terms) -> types_pb2.Subject:
    return types_pb2.Subject(
        user=terms.get("user", ""),
        team=terms.get("team", ""),
        key=terms.get("key", ""),
        operation_id=terms.get("op", ""),
        labels=terms.get("labels"),
    )
