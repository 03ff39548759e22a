"""What has to be true of one account in Redis, given Postgres and the outbox between them. Pure."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence

from meterd.core import ledger
from meterd.redis import audit


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it should be. `subject` names the row, such as "ledger C0123… seq 5" or "Redis wallet default"."""

    partition: int
    tenant_id: str
    account_id: str
    subject: str
    check: str
    expected: str
    actual: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Durable:
    """An account as Postgres had it at the snapshot. `grants` is what is left, held or not, by wallet and grant."""

    account_no: int
    tenant_id: str
    account_id: str
    address: str
    partition: int
    seq: int
    last_txn: str
    # The last change in the ledger, and the last that was decided.
    change_no: int
    change_no_last: int
    granted_micros: int
    spent_micros: int
    expired_micros: int
    revoked_micros: int
    overage: ledger.Overage
    overdraft_limit_micros: int
    strict_expiry: bool
    frozen: bool
    plan: ledger.PlanRule
    debts: Mapping[str, int]
    grants: Mapping[tuple[str, uuid.UUID], int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A hold that was open when the account was read; `amount_micros` None: neither Redis nor the outbox knows it."""

    hold: uuid.UUID
    wallet: str
    amount_micros: int | None


def finding(durable: Durable, subject: str, check: str, expected: object, actual: object) -> Finding:
    return Finding(
        partition=durable.partition,
        tenant_id=durable.tenant_id,
        account_id=durable.account_id,
        subject=subject,
        check=check,
        expected=str(expected),
        actual=str(actual),
    )


def missing(durable: Durable, records: Sequence[ledger.Record], holds: int) -> list[Finding]:
    """An account that Redis does not have may be loaded at any time, but must not have anything there that is not in Postgres."""
    found: list[Finding] = []
    waiting = [record for record in records if record.seq > durable.seq]
    if waiting:
        check = "an account with records behind the cursor is in Redis"
        found.append(finding(durable, "Redis account", check, f"seq {waiting[-1].seq}", "no such key"))
    if holds:
        found.append(
            finding(durable, "Redis account", "an account with open holds is in Redis", f"{holds} holds", "no such key")
        )
    return found


def conserved(durable: Durable, examined: audit.Examined) -> list[Finding]:
    """granted = available + held + spent + expired + revoked, inside Redis alone."""
    state = examined.state
    worth = sum(grant.available_micros for wallet in state.wallets for grant in wallet.grants)
    worth -= sum(wallet.debt_micros for wallet in state.wallets)
    total = worth + state.held_micros + state.spent_micros + state.expired_micros + state.revoked_micros
    pairs = [
        ("granted = available + held + spent + expired + revoked", total, state.granted_micros),
        ("worth = Σ available − debt", worth, examined.worth_micros),
        ("held = Σ wallets", sum(wallet.held_micros for wallet in state.wallets), state.held_micros),
    ]
    found = [
        finding(durable, "Redis account", check, expected, actual)
        for check, expected, actual in pairs
        if expected != actual
    ]
    for wallet in state.wallets:
        held = sum(grant.held_micros for grant in wallet.grants)
        if held != wallet.held_micros:
            found.append(finding(durable, f"Redis wallet {wallet.wallet}", "held = Σ grants", held, wallet.held_micros))
        for grant in wallet.grants:
            if grant.available_micros < 0 or grant.held_micros < 0:
                amounts = f"{grant.available_micros}, {grant.held_micros}"
                found.append(
                    finding(durable, f"Redis grant {grant.grant_id}", "available and held are ≥ 0", 0, amounts)
                )
    return found


def held(durable: Durable, state: ledger.AccountState, opened: Sequence[Opened]) -> list[Finding]:
    """What is held is the sum of the open holds."""
    found: list[Finding] = []
    for hold in opened:
        if hold.amount_micros is None:
            found.append(
                finding(
                    durable,
                    f"Redis hold {hold.hold}",
                    "a hold with a deadline is open or has ended",
                    "a hold",
                    "no such key",
                )
            )
    pairs = [
        ("number of open holds", len(opened), state.holds_open),
        ("held = Σ open holds", sum(hold.amount_micros or 0 for hold in opened), state.held_micros),
    ]
    found += [
        finding(durable, "Redis account", check, expected, actual)
        for check, expected, actual in pairs
        if expected != actual
    ]
    for wallet in state.wallets:
        total = sum(hold.amount_micros or 0 for hold in opened if hold.wallet == wallet.wallet)
        if total != wallet.held_micros:
            found.append(
                finding(durable, f"Redis wallet {wallet.wallet}", "held = Σ open holds", total, wallet.held_micros)
            )
    return found


def agreed(durable: Durable, state: ledger.AccountState, records: Sequence[ledger.Record]) -> list[Finding]:
    """Redis = Postgres + the account's outbox records that Postgres did not have, up to what Redis had done when it was read."""
    if state.seq < durable.seq:
        return [finding(durable, "Redis account", "Redis is not behind Postgres: seq", f"≥ {durable.seq}", state.seq)]
    between = [record for record in records if durable.seq < record.seq <= state.seq]
    broken = _chain(durable, state, between)
    if broken:
        return broken
    return _sums(durable, state, between) + _grants(durable, state, between) + _settings(durable, state)


def _chain(durable: Durable, state: ledger.AccountState, records: Sequence[ledger.Record]) -> list[Finding]:
    """Every number between Postgres and Redis has one record, and each follows on the one before."""
    seq, txn = durable.seq, durable.last_txn
    for record in records:
        name = f"outbox {record.kind.value}{record.txn.hex} seq {record.seq}"
        if record.seq != seq + 1:
            return [finding(durable, name, "outbox has every record after Postgres: seq", seq + 1, record.seq)]
        if record.prev_txn != txn:
            return [finding(durable, name, "follows the record before it: prev_txn", txn, record.prev_txn)]
        seq, txn = record.seq, record.kind.value + record.txn.hex
    if seq != state.seq:
        subject = f"outbox after {txn or 'the beginning'}"
        return [finding(durable, subject, "outbox has every record after Postgres: last seq", state.seq, seq)]
    if txn != state.last_txn:
        return [finding(durable, "Redis account", "last_txn", txn, state.last_txn)]
    return []


def _sums(durable: Durable, state: ledger.AccountState, records: Sequence[ledger.Record]) -> list[Finding]:
    pairs = [
        ("granted", durable.granted_micros + sum(record.granted_micros for record in records), state.granted_micros),
        ("spent", durable.spent_micros + sum(record.charged_micros for record in records), state.spent_micros),
        ("expired", durable.expired_micros + sum(record.expired_micros for record in records), state.expired_micros),
        ("revoked", durable.revoked_micros + sum(record.revoked_micros for record in records), state.revoked_micros),
        ("change_no", max([durable.change_no, *(record.change_no for record in records)]), state.change_no),
    ]
    check = "Redis = Postgres + outbox: "
    return [
        finding(durable, "Redis account", check + name, expected, actual)
        for name, expected, actual in pairs
        if expected != actual
    ]


def _grants(durable: Durable, state: ledger.AccountState, records: Sequence[ledger.Record]) -> list[Finding]:
    """What is left of each grant, held or not, and what each wallet owes."""
    left = dict(durable.grants)
    debts = dict(durable.debts)
    for record in records:
        if record.wallet:
            debts[record.wallet] = record.debt_after_micros
        if record.kind == ledger.Kind.GRANT:
            left[record.wallet, record.txn] = left.get((record.wallet, record.txn), 0) + record.granted_micros
        for draw in (*record.drawn, *record.expired, *record.revoked):
            left[record.wallet, draw.grant_id] = left.get((record.wallet, draw.grant_id), 0) - draw.amount_micros
    live = {
        (wallet.wallet, grant.grant_id): grant.available_micros + grant.held_micros
        for wallet in state.wallets
        for grant in wallet.grants
    }
    owed = {wallet.wallet: wallet.debt_micros for wallet in state.wallets}
    found: list[Finding] = []
    for wallet, grant_id in left.keys() | live.keys():
        expected, actual = left.get((wallet, grant_id), 0), live.get((wallet, grant_id), 0)
        if expected != actual:
            subject = f"Redis grant {grant_id} of wallet {wallet}"
            found.append(finding(durable, subject, "Redis = Postgres + outbox: left of the grant", expected, actual))
    for wallet in debts.keys() | owed.keys():
        expected, actual = debts.get(wallet, 0), owed.get(wallet, 0)
        if expected != actual:
            found.append(
                finding(durable, f"Redis wallet {wallet}", "Redis = Postgres + outbox: debt", expected, actual)
            )
    return found


def _plan(plan: ledger.PlanRule) -> tuple[int, bool, int, list[str]]:
    return plan.until_ms, plan.unlimited, plan.actions_per_day, sorted(plan.blocked_wallets)


def _settings(durable: Durable, state: ledger.AccountState) -> list[Finding]:
    """Settings are equal once Redis has every change that was decided."""
    if state.change_no != durable.change_no_last:
        return []
    pairs = [
        ("overage_policy", durable.overage, state.overage),
        ("overdraft_limit_micros", durable.overdraft_limit_micros, state.overdraft_limit_micros),
        ("strict_expiry", durable.strict_expiry, state.strict_expiry),
        ("frozen", durable.frozen, state.frozen),
        ("plan", _plan(durable.plan), _plan(state.plan)),
    ]
    return [
        finding(durable, "Redis account", f"settings: {name}", expected, actual)
        for name, expected, actual in pairs
        if expected != actual
    ]
