"""What the scripts that change or show whole accounts are given, and what they answer."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Sequence
from typing import Any

from meterd.core import ledger
from meterd.core import limits as core_limits
from meterd.redis import limits

# What `reserve` wants, up to what it says to limits.
_WANTS = struct.Struct("<dddBBBdd")
_COMES_TO = struct.Struct("<ddd")
_SIZE = struct.Struct("<H")
_LONG_SIZE = struct.Struct("<I")


def wants(command: ledger.Reserve, holds_max: int, outbox_max: int) -> bytes:
    """What `reserve` is to decide by."""
    return _WANTS.pack(
        command.amount_micros,
        command.amount_min_micros,
        command.ttl_ms,
        command.overage,
        command.expiry,
        command.replay_only,
        holds_max,
        outbox_max,
    ) + limits.said(core_limits.decoded(command.terms) if command.said is None else command.said)


def comes_to(command: ledger.Commit) -> bytes:
    """Amount, cost and tokens of a Commit: not a number for all that is held, -1 for what else it does not say."""
    amount, said = command.amount_micros, command.said
    cost, tokens = limits.spent(core_limits.decoded(command.detail) if said is None else said)
    return _COMES_TO.pack(math.nan if amount is None else amount, cost, tokens)


def head(command: ledger.Reserve) -> bytes:
    """The part of a hold that the caller made: state, digest, wallet and terms, as the prelude's hold_in unpacks it."""
    digest, wallet, terms = command.digest.hex().encode(), command.wallet.encode(), command.terms
    sizes = _SIZE.pack(len(digest)), _SIZE.pack(len(wallet)), _LONG_SIZE.pack(len(terms))
    return b"".join((b"1", sizes[0], digest, sizes[1], wallet, sizes[2], terms))


def load_args(state: ledger.AccountState) -> tuple[bytes | str, ...]:
    """The arguments of `load`, behind the epoch."""
    args: list[bytes | str] = [
        state.tenant_id,
        state.account_id,
        str(state.seq),
        state.last_txn,
        str(state.change_no),
    ]
    args += [
        str(state.granted_micros),
        str(state.spent_micros),
        str(state.expired_micros),
        str(state.revoked_micros),
    ]
    args += [
        str(int(state.overage)),
        str(state.overdraft_limit_micros),
        str(int(state.strict_expiry)),
        str(int(state.frozen)),
    ]
    wallets = state.wallets or [ledger.WalletState(wallet="default", debt_micros=0, grants=())]
    until_ms, unlimited, per_day, blocked = plan_args(state.plan)
    args += [state.address, until_ms, unlimited, per_day, str(state.actions_day), str(state.actions), blocked]
    args.append(str(len(wallets)))
    for wallet in wallets:
        args += [wallet.wallet, str(wallet.debt_micros), str(len(wallet.grants))]
        for grant in sorted(wallet.grants, key=ledger.burn_key):
            args += [
                grant.grant_id.hex,
                str(grant.available_micros),
                str(grant.expires_ms),
                str(grant.effective_ms),
            ]
            args += [str(grant.priority), str(grant.category), str(grant.created_no), str(int(grant.revoked))]
    args.append(limits.packed(state.limits))
    for counted in state.counters:
        args += [counted.field, limits.packed_counter(counted.counter)]
    return tuple(args)


def limits_arg(defined: Sequence[core_limits.Limit] | None) -> bytes | str:
    """Limits for `settings`; None leaves them as they are."""
    return "-" if defined is None else limits.packed(defined)


def plan_args(plan: ledger.PlanRule) -> tuple[str, str, str, str]:
    """Until when (ms), unlimited, actions a day, and the blocked wallets between spaces."""
    blocked = "".join(f" {wallet} " for wallet in sorted(plan.blocked_wallets))
    return str(plan.until_ms), str(int(plan.unlimited)), str(plan.actions_per_day), blocked


def wallet_state(wallet: list[Any]) -> ledger.WalletState:
    """A wallet as the script `account` answers it."""
    name, debt, held, grants = wallet
    return ledger.WalletState(
        wallet=name.decode(),
        debt_micros=debt,
        held_micros=held,
        grants=[
            ledger.GrantState(
                grant_id=uuid.UUID(hex=grant[0].decode()),
                available_micros=grant[1],
                held_micros=grant[2],
                expires_ms=grant[3],
                effective_ms=grant[4],
                priority=grant[5],
                category=grant[6],
                created_no=grant[7],
                revoked=grant[8] == 1,
            )
            for grant in grants
        ],
    )
