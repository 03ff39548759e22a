"""Answers as messages. Pure.

Messages inside messages are filled in place: giving a finished one to a constructor copies it, at some 5 µs each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import ids, ledger, limits, money, pricing
from meterd.meter import holds, quotes, requests
from meterd.pricing import books as price_books
from meterd_client.v1 import metering_pb2, types_pb2

_HOLD_STATES = {
    ledger.State.OPEN: types_pb2.HOLD_STATE_OPEN,
    ledger.State.COMMITTED: types_pb2.HOLD_STATE_COMMITTED,
    ledger.State.COMMITTED_LATE: types_pb2.HOLD_STATE_COMMITTED_LATE,
    ledger.State.RELEASED: types_pb2.HOLD_STATE_RELEASED,
    ledger.State.EXPIRED: types_pb2.HOLD_STATE_EXPIRED,
}
_USAGE_STATES = (
    types_pb2.USAGE_STATE_UNSPECIFIED,
    types_pb2.USAGE_STATE_REPORTED,
    types_pb2.USAGE_STATE_PARTIAL,
    types_pb2.USAGE_STATE_ESTIMATED,
    types_pb2.USAGE_STATE_ABSENT,
)
_DENIAL_CODES = {
    ledger.DenialCode.INSUFFICIENT_CREDITS: types_pb2.Denial.CODE_INSUFFICIENT_CREDITS,
    ledger.DenialCode.ACCOUNT_FROZEN: types_pb2.Denial.CODE_ACCOUNT_FROZEN,
    ledger.DenialCode.TOO_MANY_HOLDS: types_pb2.Denial.CODE_TOO_MANY_HOLDS,
    ledger.DenialCode.WALLET_BLOCKED: types_pb2.Denial.CODE_WALLET_BLOCKED,
    ledger.DenialCode.ACTIONS_PER_DAY: types_pb2.Denial.CODE_ACTIONS_PER_DAY,
    ledger.DenialCode.LIMIT_EXCEEDED: types_pb2.Denial.CODE_LIMIT_EXCEEDED,
}
LIMIT_SUBJECTS = {
    limits.Subject.ACCOUNT: types_pb2.LIMIT_SUBJECT_ACCOUNT,
    limits.Subject.USER: types_pb2.LIMIT_SUBJECT_USER,
    limits.Subject.TEAM: types_pb2.LIMIT_SUBJECT_TEAM,
    limits.Subject.KEY: types_pb2.LIMIT_SUBJECT_KEY,
    limits.Subject.FEATURE: types_pb2.LIMIT_SUBJECT_FEATURE,
    limits.Subject.MODEL: types_pb2.LIMIT_SUBJECT_MODEL,
}
LIMIT_METRICS = {
    limits.Metric.CREDITS: types_pb2.LIMIT_METRIC_CREDITS,
    limits.Metric.COST: types_pb2.LIMIT_METRIC_COST,
    limits.Metric.ACTIONS: types_pb2.LIMIT_METRIC_ACTIONS,
    limits.Metric.TOKENS: types_pb2.LIMIT_METRIC_TOKENS,
    limits.Metric.HOLDS: types_pb2.LIMIT_METRIC_OPEN_HOLDS,
}
LIMIT_WINDOWS = {
    limits.Window.MINUTE: types_pb2.LIMIT_WINDOW_MINUTE,
    limits.Window.HOUR: types_pb2.LIMIT_WINDOW_HOUR,
    limits.Window.DAY: types_pb2.LIMIT_WINDOW_DAY,
    limits.Window.MONTH: types_pb2.LIMIT_WINDOW_MONTH,
    limits.Window.ROLLING_MINUTE: types_pb2.LIMIT_WINDOW_ROLLING_MINUTE,
    limits.Window.ROLLING_HOUR: types_pb2.LIMIT_WINDOW_ROLLING_HOUR,
    limits.Window.ROLLING_DAY: types_pb2.LIMIT_WINDOW_ROLLING_DAY,
    limits.Window.ROLLING_MONTH: types_pb2.LIMIT_WINDOW_ROLLING_MONTH,
    limits.Window.PERIOD: types_pb2.LIMIT_WINDOW_PERIOD,
    limits.Window.LIFETIME: types_pb2.LIMIT_WINDOW_LIFETIME,
    limits.Window.OPERATION: types_pb2.LIMIT_WINDOW_OPERATION,
}

# Of an unlimited plan, or a plan that blocks it.
_NO_WALLET = ledger.WalletState(wallet="", debt_micros=0, grants=())


def timestamp(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)


def balance(value: ledger.Balance) -> types_pb2.Balance:
    message = types_pb2.Balance()
    put_balance(message, value)
    return message


def put_balance(message: types_pb2.Balance, value: ledger.Balance) -> None:
    message.wallet = value.wallet
    message.available_micros = value.available_micros
    message.held_micros = value.held_micros
    message.seq = value.seq
    message.epoch = value.epoch


def add_draws(grants: RepeatedCompositeFieldContainer[types_pb2.GrantDraw], values: Iterable[ledger.Draw]) -> None:
    for draw in values:
        grants.add(grant_id=str(draw.grant_id), amount_micros=draw.amount_micros)


def hold(value: ledger.Held, terms: requests.Terms, books: price_books.Books) -> types_pb2.Hold:
    """The hold as a message; its cost and covered tokens are priced from the terms."""
    message = types_pb2.Hold()
    put_hold(message, value, terms, books)
    return message


def put_hold(message: types_pb2.Hold, value: ledger.Held, terms: requests.Terms, books: price_books.Books) -> None:
    """Fills an empty message with what `hold` answers."""
    if "model" in terms:
        tokens = terms["out"]
        full = terms.get("full", value.amount_micros)
        if value.amount_micros < full and not value.unlimited and (book := books.find(terms["pv"])) is not None:
            tokens = _covered_tokens(terms, book, value.amount_micros)
        message.max_output_tokens = tokens
        message.input_tokens = terms.get("in", 0)
        message.cost_estimate_usd = terms.get("cost", "")
    message.hold_id = f"{value.hold}.{value.address}"
    message.amount_micros = value.amount_micros
    message.price_version = terms.get("pv", "")
    expires_at, created_at, expires_ms, created_ms = (
        message.expires_at,
        message.created_at,
        value.expires_ms,
        value.created_ms,
    )
    expires_at.seconds, expires_at.nanos = expires_ms // 1000, expires_ms % 1000 * 1_000_000
    created_at.seconds, created_at.nanos = created_ms // 1000, created_ms % 1000 * 1_000_000
    add_draws(message.grants, value.draws)
    # An enum's hash is Python; most holds are open.
    message.state = types_pb2.HOLD_STATE_OPEN if value.state is ledger.State.OPEN else _HOLD_STATES[value.state]
    message.account_id = terms.get("acct", "")
    message.wallet = value.wallet
    message.unlimited = value.unlimited


def _covered_tokens(terms: requests.Terms, book: pricing.PriceBook, amount_micros: int) -> int:
    covered = pricing.affordable_output_tokens(
        book,
        terms.get("provider", ""),
        terms["model"],
        quotes.base_of(terms),
        terms.get("tier", ""),
        terms["at"],
        amount_micros,
    )
    return min(covered, terms["out"])


def held(
    value: ledger.Held, account_id: str, terms: requests.Terms, books: price_books.Books
) -> metering_pb2.ReserveResponse:
    response = metering_pb2.ReserveResponse(replayed=value.replayed)
    message = response.hold
    put_hold(message, value, terms, books)
    if "acct" not in terms:
        message.account_id = account_id
    put_balance(response.balance, value.balance)
    return response


def durable_hold(found: holds.Durable, account_id: str, address: str) -> metering_pb2.ReserveResponse:
    """The replay of a Reserve whose hold only Postgres remembers."""
    message = types_pb2.Hold(
        hold_id=str(ids.HoldId(uuid=found.txn, address=address)),
        amount_micros=found.held_micros,
        price_version=found.terms.get("pv", ""),
        state=_HOLD_STATES[found.state],
        account_id=account_id,
        wallet=found.wallet,
        created_at=timestamp(ids.uuid7_ms(found.txn)),
    )
    return metering_pb2.ReserveResponse(hold=message, replayed=True)


def denial(value: ledger.Denied) -> types_pb2.Denial:
    if value.code == ledger.DenialCode.LIMIT_EXCEEDED:
        return _denied_by_limits(value)
    funds = value.code in (ledger.DenialCode.INSUFFICIENT_CREDITS, ledger.DenialCode.WALLET_BLOCKED)
    actions = value.code == ledger.DenialCode.ACTIONS_PER_DAY
    reason = types_pb2.Denial.Reason(
        code=_DENIAL_CODES[value.code],
        scope=f"wallet:{value.balance.wallet}" if funds else "plan:actions_per_day" if actions else "account",
        limit_micros=value.available_micros if funds else value.limit,
        used_micros=value.required_micros if funds else value.used if actions else value.limit,
    )
    message = types_pb2.Denial(
        reasons=[reason], available_micros=value.available_micros, required_micros=value.required_micros
    )
    if value.resets_ms:
        message.reasons[0].resets_at.CopyFrom(timestamp(value.resets_ms))
        message.retry_at.CopyFrom(timestamp(value.resets_ms))
    return message


def _denied_by_limits(value: ledger.Denied) -> types_pb2.Denial:
    """One reason for each limit, and the wallet's own if it would not do either. To try again helps when all limits have room."""
    message = types_pb2.Denial(available_micros=value.available_micros, required_micros=value.required_micros)
    for one in value.exceeded:
        reason = message.reasons.add(
            code=types_pb2.Denial.CODE_LIMIT_EXCEEDED,
            scope=limits.scope(one.subject, one.value),
            limit_micros=one.cap,
            used_micros=one.used,
            limit_id=one.limit_id,
            metric=LIMIT_METRICS[one.metric],
        )
        if one.metric != limits.Metric.HOLDS:
            reason.window = LIMIT_WINDOWS[one.window]
        if one.resets_ms:
            reason.resets_at.CopyFrom(timestamp(one.resets_ms))
    if value.also is not None:
        short = dataclasses.replace(value, code=value.also, exceeded=(), also=None)
        message.reasons.extend(denial(short).reasons)
    elif all(one.resets_ms for one in value.exceeded):
        message.retry_at.CopyFrom(timestamp(max(one.resets_ms for one in value.exceeded)))
    return message


def denied_reserve(value: ledger.Denied, item: quotes.Item, book: pricing.PriceBook) -> metering_pb2.ReserveResponse:
    message = denial(value)
    message.affordable_output_tokens = affordable(item, book, value.available_micros)
    return metering_pb2.ReserveResponse(denial=message, balance=balance(value.balance))


def affordable(item: quotes.Item, book: pricing.PriceBook, available_micros: int) -> int:
    """Output tokens that `available_micros` would cover after the item's input, at most those it asks for."""
    terms = item.terms
    if "model" not in terms or available_micros <= 0:
        return 0
    return max(0, _covered_tokens(terms, book, available_micros))


SettledT = TypeVar("SettledT", metering_pb2.CommitResponse, metering_pb2.ReleaseResponse, metering_pb2.ChargeResponse)


def settled(response: SettledT, value: ledger.Settled, actual: quotes.Actual, hold_id: str) -> SettledT:
    """The empty response, filled. What the first answer said of usage and prices, a replay has from `retell`."""
    response.replayed = value.replayed
    message = response.settlement
    if value.kind is ledger.Kind.COMMIT:
        message.settlement_id = f"C{value.txn}"
        message.state = types_pb2.HOLD_STATE_COMMITTED
    else:
        message.settlement_id = f"{value.kind.value}{value.txn}"
        message.state = _HOLD_STATES[ledger.STATES[value.kind]]
    message.charged_micros = value.charged_micros
    message.returned_micros = value.returned_micros
    message.uncollected_micros = value.uncollected_micros
    message.forfeited_micros = value.forfeited_micros
    if not value.replayed:
        message.cost_usd = actual.cost_usd
        add_cost_lines(message.breakdown, actual.lines)
        message.usage_state = _USAGE_STATES[actual.usage_state]
        message.price_version = actual.price_version
    add_draws(message.grants, value.draws)
    message.hold_id = hold_id
    settled_at, at_ms = message.settled_at, value.at_ms
    settled_at.seconds, settled_at.nanos = at_ms // 1000, at_ms % 1000 * 1_000_000
    put_balance(response.balance, value.balance)
    return response


def retell(message: types_pb2.Settlement, found: holds.Durable) -> None:
    """Adds to a replay's settlement what the ledger has of usage and prices."""
    detail = found.detail
    message.cost_usd = detail.get("cost", "")
    message.usage_state = _USAGE_STATES[detail.get("us", 0)]
    message.price_version = found.terms.get("pv", "")
    add_cost_lines(message.breakdown, detail.get("lines", ()))


def add_cost_lines(
    breakdown: RepeatedCompositeFieldContainer[types_pb2.CostLine], rows: Iterable[quotes.LineRow]
) -> None:
    for usage_class, quantity, unit_price, cost_usd in rows:
        breakdown.add(usage_class=usage_class, quantity=quantity, unit_price=unit_price, cost_usd=cost_usd)


def durable_settlement(found: holds.Durable, hold_id: ids.HoldId) -> types_pb2.Settlement:
    """The settlement as the flushed ledger has it."""
    message = types_pb2.Settlement(
        settlement_id=f"{found.kind.value}{found.txn}",
        state=_HOLD_STATES[found.state],
        charged_micros=found.charged_micros,
        returned_micros=found.returned_micros,
        uncollected_micros=found.uncollected_micros,
        forfeited_micros=found.forfeited_micros,
        hold_id=str(hold_id),
        settled_at=timestamp(found.at_ms),
    )
    add_draws(message.grants, found.draws)
    retell(message, found)
    return message


def reported(
    value: ledger.Held,
    terms: requests.Terms,
    request: metering_pb2.ReportRequest,
    progress: quotes.Actual,
    book: pricing.PriceBook,
) -> metering_pb2.ReportResponse:
    """Whether a stream may go on: what hold and wallet cover beyond the usage so far."""
    counts = progress.usage
    assert counts is not None and progress.amount_micros is not None
    budget_micros = value.amount_micros + max(0, value.balance.available_micros)
    model, provider = request.model or terms["model"], request.provider if request.model else terms.get("provider", "")
    tier = terms.get("tier", "")
    wanted = max(0, terms["out"] - counts.output_tokens)
    if value.unlimited:
        more = wanted
    else:
        total = pricing.affordable_output_tokens(book, provider, model, counts, tier, terms["at"], budget_micros)
        more = max(0, total - counts.output_tokens)
    advice = metering_pb2.ReportResponse.ADVICE_CONTINUE
    if more == 0 and not value.unlimited:
        advice = metering_pb2.ReportResponse.ADVICE_STOP
    elif more < wanted:
        advice = metering_pb2.ReportResponse.ADVICE_SHRINK
    return metering_pb2.ReportResponse(
        advice=advice,
        affordable_output_tokens=more,
        used_micros=progress.amount_micros,
        expires_at=timestamp(value.expires_ms),
        balance=balance(value.balance),
    )


def estimate(
    item: quotes.Item,
    book: pricing.PriceBook,
    *,
    state: ledger.AccountState | None = None,
    wallet: str = "",
    now_ms: int = 0,
) -> metering_pb2.EstimateResponse:
    """The price, and what Reserve would say now if the account is given. NotFoundError for an unknown wallet."""
    quote = item.quote
    response = metering_pb2.EstimateResponse(
        amount_micros=item.amount_micros,
        cost_estimate_usd=money.usd_string(quote.cost_femtos) if quote and quote.cost_femtos is not None else "",
        price_version=item.terms["pv"],
        input_tokens=item.terms.get("in", 0),
    )
    if quote:
        add_cost_lines(response.breakdown, (quotes.line_row(line) for line in pricing.explain(quote)))
    if state is None:
        return response
    code = ledger.denial_of(state, wallet, item.amount_min_micros, now_ms)
    held = next((found for found in state.wallets if found.wallet == wallet), _NO_WALLET)
    free = ledger.available_micros(held, now_ms)
    now = ledger.Balance(
        wallet=wallet, available_micros=free, held_micros=held.held_micros, seq=state.seq, epoch=state.epoch
    )
    response.balance.CopyFrom(balance(now))
    if code is not None:
        by_day = code == ledger.DenialCode.ACTIONS_PER_DAY
        denied = ledger.Denied(
            code=code,
            available_micros=free,
            required_micros=item.amount_micros,
            limit=state.plan.actions_per_day if by_day else 0,
            balance=now,
            used=state.actions_on(now_ms) if by_day else 0,
            resets_ms=(now_ms // ledger.DAY_MS + 1) * ledger.DAY_MS if by_day else 0,
        )
        response.denial.CopyFrom(denied_reserve(denied, item, book).denial)
    return response
