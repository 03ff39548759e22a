"""When a top-up is asked for: once when a wallet falls to its threshold, and at most so often a month. Pure."""

from __future__ import annotations

import dataclasses
import datetime

from meterd.core import events, ids

# More than anybody would want to be charged for by itself.
PER_MONTH_MAX = 1_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TopUp:
    """What an account has set. `requested` are the requests of `month`, of which this is the first day, UTC.

    `armed`: the next time that the wallet is found at or below the threshold is to be told.
    """

    active: bool
    package_id: str
    wallet: str
    threshold_micros: int
    per_month_max: int
    armed: bool
    month: datetime.date
    requested: int

    @property
    def terms(self) -> tuple[str, str, int, int]:
        """What the caller has decided."""
        return self.package_id, self.wallet, self.threshold_micros, self.per_month_max


def month_of(at_ms: int) -> datetime.date:
    """The first day of the month, UTC."""
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).date().replace(day=1)


def in_month(top_up: TopUp, at_ms: int) -> TopUp:
    """As it stands at that time: a new month has no requests yet."""
    month = month_of(at_ms)
    return dataclasses.replace(top_up, month=month, requested=0) if month > top_up.month else top_up


def step(top_up: TopUp, left_micros: int, at_ms: int) -> tuple[TopUp, bool]:
    """The top-up after a record that leaves `left_micros`, and whether it is asked for.

    Where the month's requests are used up it stays armed: the first record of the next month asks, if the wallet is still so low.
    """
    now = in_month(top_up, at_ms)
    if left_micros > now.threshold_micros:
        return dataclasses.replace(now, armed=True), False
    if not now.active or not now.armed or now.requested >= now.per_month_max:
        return now, False
    return dataclasses.replace(now, armed=False, requested=now.requested + 1), True


def draft(
    top_up: TopUp,
    *,
    tenant_id: str,
    account_no: int,
    account_id: str,
    left_micros: int,
    transaction_id: str,
    at_ms: int,
) -> events.Draft:
    """The request that `step` has just counted; `transaction_id` "" if no record led to it."""
    request_id = str(ids.uuid7(at_ms))
    payload = {
        "request_id": request_id,
        "package_id": top_up.package_id,
        "wallet": top_up.wallet,
        "left_micros": left_micros,
        "threshold_micros": top_up.threshold_micros,
        "requested_this_month": top_up.requested,
        "per_month_max": top_up.per_month_max,
    }
    if transaction_id:
        payload["transaction_id"] = transaction_id
    return events.Draft(
        tenant_id=tenant_id,
        account_no=account_no,
        account_id=account_id,
        type=events.Type.TOPUP_REQUESTED,
        subject=request_id,
        # However the setting is changed or deleted in between, a month has no more requests than these.
        once=f"{top_up.month.isoformat()} {top_up.requested}",
        payload=payload,
        at_ms=at_ms,
    )


def failure(
    *,
    tenant_id: str,
    account_no: int,
    account_id: str,
    request_id: str,
    package_id: str,
    purchase_id: str,
    error: str,
    code: str,
    at_ms: int,
) -> events.Draft:
    """The news that a request brings no credits. Of one request there is one, however many find it out.

    `purchase_id` "" if none was begun; `code` is Stripe's, "" if it was not the payment that failed.
    """
    payload = {"request_id": request_id, "package_id": package_id, "error": error}
    payload |= {"purchase_id": purchase_id} if purchase_id else {}
    payload |= {"code": code} if code else {}
    return events.Draft(
        tenant_id=tenant_id,
        account_no=account_no,
        account_id=account_id,
        type=events.Type.TOPUP_FAILED,
        subject=request_id,
        once=request_id,
        payload=payload,
        at_ms=at_ms,
    )
