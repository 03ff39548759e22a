"""What a subscription becomes as time goes by: which period it is in, what it grants, when it ends. Pure.

Allowances are ordinary grants that expire with their period, so nothing has to be taken away when it turns. Those of the next period are
decided a while ahead, with an effective time in the future: the turn is exact, whether or not anybody is awake then.
"""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Sequence

from meterd.core import catalog, ledger, money, periods

# Workers may be away this long around a period's turn, and no account notices. The catalog's changes of the last day before a renewal
# come one period later.
AHEAD_MS = periods.DAY_MS


class Status(enum.StrEnum):
    """The words stand in Postgres."""

    TRIAL = "trial"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """A subscription's row. Times in ms; 0 is never."""

    subscription_id: uuid.UUID
    tenant_id: str
    account_id: str
    account_no: int
    address: str
    # On the terms that the account has. `next_plan` are those of the period that was granted ahead.
    plan: catalog.Plan
    next_plan: catalog.Plan | None
    status: Status
    started_ms: int
    # Periods count from here. After the start: the trial lies before it.
    anchor_ms: int
    period_no: int
    period_start_ms: int
    period_end_ms: int
    # The last period that was granted, which may be the next one, and how often such a one was taken back.
    granted_no: int
    withdrawals: int
    terms_until_ms: int
    cancel_at_period_end: bool
    canceled_ms: int
    due_ms: int
    source_id: str

    @property
    def trial_ends_ms(self) -> int:
        return self.anchor_ms if self.anchor_ms > self.started_ms else 0

    @property
    def is_live(self) -> bool:
        return self.status is not Status.CANCELED

    @property
    def refreshes_ms(self) -> int:
        """When the allowances come anew; 0 if they do not."""
        renews = self.status in (Status.TRIAL, Status.ACTIVE) and not self.cancel_at_period_end
        return self.period_end_ms if renews else 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """One grant of a period."""

    wallet: str
    amount_micros: int
    effective_ms: int
    expires_ms: int
    period_no: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a subscription has become, what is to be granted, and what the hot path is to know of its plan."""

    subscription: Subscription
    allowances: Sequence[Allowance]
    rule: ledger.PlanRule


def _span(subscription: Subscription, plan: catalog.Plan, number: int) -> periods.Span:
    """The period of that number. The first one begins with the subscription, wherever the calendar's period began."""
    if number == 0:
        return periods.Span(number=0, start_ms=subscription.started_ms, end_ms=subscription.anchor_ms)
    found = periods.span(plan.period, subscription.anchor_ms, number)
    return dataclasses.replace(found, start_ms=max(found.start_ms, subscription.anchor_ms))


def _current(subscription: Subscription, now_ms: int) -> periods.Span:
    if now_ms < subscription.anchor_ms:
        return _span(subscription, subscription.plan, 0)
    number = periods.at(subscription.plan.period, subscription.anchor_ms, now_ms).number
    return _span(subscription, subscription.plan, number)


def _terms(subscription: Subscription, span: periods.Span, offered: catalog.Plan | None) -> catalog.Plan:
    """The plan of a period that follows: the catalog's once what was paid on the old terms has passed.

    A plan that is no longer offered goes on as it is, and a subscription keeps its kind of period, so that its periods stay numbered.
    """
    plan = subscription.plan
    if span.start_ms < subscription.terms_until_ms or offered is None or not offered.active:
        return plan
    return dataclasses.replace(offered, period=plan.period)


def _terms_until(subscription: Subscription, plan: catalog.Plan, number: int) -> int:
    if number == 0:
        return subscription.anchor_ms
    return periods.paid_until(plan.interval, plan.period, subscription.anchor_ms, number)


def _allowances(
    subscription: Subscription, plan: catalog.Plan, span: periods.Span, share: tuple[int, int] = (1, 1)
) -> list[Allowance]:
    """The grants of a period, or a share of them; one that rolls over lasts for one period more."""
    expires_ms = _span(subscription, plan, span.number + 1).end_ms if plan.rollover else span.end_ms
    return [
        Allowance(
            wallet=allowance.wallet,
            amount_micros=money.ceil_div(allowance.amount_micros * share[0], share[1]),
            effective_ms=span.start_ms,
            expires_ms=expires_ms,
            period_no=span.number,
        )
        for allowance in plan.allowances
        if allowance.amount_micros > 0
    ]


def kept_anchor_ms(previous: Subscription | None, plan: catalog.Plan, now_ms: int) -> int:
    """Where a plan's periods are counted from that takes over those of the one before: 0 if they are of another kind, or there are none."""
    if previous is None or previous.plan.period != plan.period or now_ms < previous.anchor_ms:
        return 0
    return previous.anchor_ms


def share_left(subscription: Subscription, now_ms: int) -> tuple[int, int]:
    """What is left of the present period, and how long it is, from where it would have begun (ms). A trial is always whole."""
    if subscription.period_no == 0:
        return 1, 1
    whole = periods.span(subscription.plan.period, subscription.anchor_ms, subscription.period_no)
    return whole.end_ms - now_ms, whole.end_ms - whole.start_ms


def begin(
    plan: catalog.Plan,
    *,
    subscription_id: uuid.UUID,
    tenant_id: str,
    account_id: str,
    account_no: int,
    address: str,
    source_id: str,
    has_trial: bool,
    now_ms: int,
    anchor_ms: int = 0,
) -> Subscription:
    """A new subscription before its first step: `advance` grants its first period.

    Its periods count from `anchor_ms` (0: from now), if it has no trial.
    """
    if has_trial and plan.trial_days:
        anchor_ms = now_ms + plan.trial_days * periods.DAY_MS
    anchor_ms = anchor_ms or now_ms
    made = Subscription(
        subscription_id=subscription_id,
        tenant_id=tenant_id,
        account_id=account_id,
        account_no=account_no,
        address=address,
        plan=plan,
        next_plan=None,
        status=Status.TRIAL if anchor_ms > now_ms else Status.ACTIVE,
        started_ms=now_ms,
        anchor_ms=anchor_ms,
        period_no=0,
        period_start_ms=0,
        period_end_ms=0,
        granted_no=-1,
        withdrawals=0,
        terms_until_ms=0,
        cancel_at_period_end=False,
        canceled_ms=0,
        due_ms=0,
        source_id=source_id,
    )
    span = _current(made, now_ms)
    return dataclasses.replace(
        made,
        period_no=span.number,
        period_start_ms=span.start_ms,
        period_end_ms=span.end_ms,
        terms_until_ms=_terms_until(made, plan, span.number),
    )


def advance(
    subscription: Subscription,
    *,
    now_ms: int,
    offered: catalog.Plan | None,
    may_grant_ahead: bool,
    ahead_ms: int = AHEAD_MS,
    share: tuple[int, int] = (1, 1),
) -> Step:
    """The subscription as it is at `now_ms`. A repeat grants nothing more; however late it is, only the present period is granted.

    `offered` is the catalog's plan of that id. Without `may_grant_ahead` the next period waits for its turn, as it has to in a wallet
    with debts: only a grant that is active pays them off. `share` is what the present period grants of its allowances, rounded up.
    """
    if not subscription.is_live:
        return Step(subscription=subscription, allowances=(), rule=ledger.NO_PLAN)
    after = _turned(subscription, now_ms, offered)
    if not after.is_live:
        return Step(subscription=after, allowances=(), rule=ledger.NO_PLAN)
    allowances: list[Allowance] = []
    grants = after.status in (Status.TRIAL, Status.ACTIVE)
    if grants and after.granted_no < after.period_no:
        allowances += _allowances(after, after.plan, _span(after, after.plan, after.period_no), share)
        after = dataclasses.replace(after, granted_no=after.period_no)
    ahead_from_ms = after.period_end_ms - ahead_ms
    renews = grants and not after.cancel_at_period_end
    if renews and may_grant_ahead and after.granted_no == after.period_no and now_ms >= ahead_from_ms:
        following = _span(after, after.plan, after.period_no + 1)
        plan = _terms(after, following, offered)
        allowances += _allowances(after, plan, following)
        after = dataclasses.replace(after, granted_no=following.number, next_plan=plan)
    due_ms = after.period_end_ms
    if renews and after.granted_no == after.period_no and now_ms < ahead_from_ms:
        due_ms = ahead_from_ms
    # A payment that is missing is waited for, unless the subscription ends anyway.
    idle = after.status is Status.PAST_DUE and not after.cancel_at_period_end
    after = dataclasses.replace(after, due_ms=0 if idle else due_ms)
    return Step(subscription=after, allowances=allowances, rule=_rule(after))


def _turned(subscription: Subscription, now_ms: int, offered: catalog.Plan | None) -> Subscription:
    """The subscription in the period of `now_ms`, or ended with its own. One with a missing payment stays where it is."""
    if now_ms < subscription.period_end_ms:
        return subscription
    if subscription.cancel_at_period_end:
        return ended(subscription, subscription.period_end_ms)
    if subscription.status is Status.PAST_DUE:
        return subscription
    span = _current(subscription, now_ms)
    if subscription.next_plan is not None and span.number == subscription.granted_no:
        plan = subscription.next_plan
    else:
        plan = _terms(subscription, span, offered)
    terms_until_ms = subscription.terms_until_ms
    if span.start_ms >= terms_until_ms:
        terms_until_ms = _terms_until(subscription, plan, span.number)
    return dataclasses.replace(
        subscription,
        plan=plan,
        next_plan=None,
        status=Status.ACTIVE,
        period_no=span.number,
        period_start_ms=span.start_ms,
        period_end_ms=span.end_ms,
        terms_until_ms=terms_until_ms,
    )


def _rule(subscription: Subscription) -> ledger.PlanRule:
    """What holds until the period ends, or until the end of the next one if that was granted on the same terms."""
    plan, until_ms = subscription.plan, subscription.period_end_ms
    following = subscription.next_plan
    if following is not None and _hot(following) == _hot(plan):
        until_ms = _span(subscription, following, subscription.period_no + 1).end_ms
    unlimited, actions_per_day, blocked = _hot(plan)
    if not unlimited and not actions_per_day:
        until_ms = 0
    return ledger.PlanRule(
        until_ms=until_ms, unlimited=unlimited, actions_per_day=actions_per_day, blocked_wallets=blocked
    )


def _hot(plan: catalog.Plan) -> tuple[bool, int, tuple[str, ...]]:
    blocked = sorted(allowance.wallet for allowance in plan.allowances if allowance.amount_micros == 0)
    return plan.unlimited, plan.actions_per_day, tuple(blocked)


def ended(subscription: Subscription, at_ms: int) -> Subscription:
    """The subscription, canceled at that time."""
    return dataclasses.replace(
        subscription, status=Status.CANCELED, canceled_ms=at_ms, due_ms=0, next_plan=None, cancel_at_period_end=False
    )


def withdrawn(subscription: Subscription) -> Subscription:
    """The subscription as if nothing had been granted ahead; its grants of the next period are to be revoked."""
    if subscription.granted_no <= subscription.period_no:
        return subscription
    return dataclasses.replace(
        subscription,
        granted_no=subscription.period_no,
        next_plan=None,
        withdrawals=subscription.withdrawals + 1,
    )
