"""Answers as messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import ids, ledger, money, pricing
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
}


def timestamp(at_ms: int) -> Timestamp:
    seconds, millis = divmod(at_ms, 1000)
    return Timestamp(seconds=seconds, nanos=millis * 1_000_000)


def balance(value: ledger.Balance) -> types_pb2.Balance:
    return types_pb2.Balance(
        wallet=value.wallet,
        available_micros=value.available_micros,
        held_micros=value.held_micros,
        seq=value.seq,
        epoch=value.epoch,
    )


def draws(values: Sequence[ledger.Draw]) -> list[types_pb2.GrantDraw]:
    return [types_pb2.GrantDraw(grant_id=str(draw.grant_id), amount_micros=draw.amount_micros) for draw in values]


def hold(value: ledger.Held, terms: requests.Terms, books: price_books.Books) -> types_pb2.Hold:
    """The hold as a message; its cost and covered tokens are priced from the terms."""
    cost, tokens = "", 0
    if "model" in terms:
        tokens, cost = terms["out"], terms.get("cost", "")
        full = terms.get("full", value.amount_micros)
        book = books.find(terms["pv"])
        if value.amount_micros < full and book is not None:
            tokens = _covered_tokens(terms, book, value.amount_micros)
    return types_pb2.Hold(
        hold_id=f"{value.hold}.{value.address}",
        amount_micros=value.amount_micros,
        cost_estimate_usd=cost,
        max_output_tokens=tokens,
        price_version=terms.get("pv", ""),
        expires_at=timestamp(value.expires_ms),
        grants=draws(value.draws),
        state=_HOLD_STATES[value.state],
        account_id=terms.get("acct", ""),
        wallet=value.wallet,
        created_at=timestamp(value.created_ms),
    )


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
    message = hold(value, terms, books)
    if not message.account_id:
        message.account_id = account_id
    return metering_pb2.ReserveResponse(hold=message, replayed=value.replayed, balance=balance(value.balance))


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
    scope = f"wallet:{value.balance.wallet}" if value.code == ledger.DenialCode.INSUFFICIENT_CREDITS else "account"
    funds = value.code == ledger.DenialCode.INSUFFICIENT_CREDITS
    reason = types_pb2.Denial.Reason(
        code=_DENIAL_CODES[value.code],
        scope=scope,
        limit_micros=value.available_micros if funds else value.limit,
        used_micros=value.required_micros if funds else value.limit,
    )
    return types_pb2.Denial(
        reasons=[reason], available_micros=value.available_micros, required_micros=value.required_micros
    )


def denied_reserve(value: ledger.Denied, item: quotes.Item, book: pricing.PriceBook) -> metering_pb2.ReserveResponse:
    message = denial(value)
    message.affordable_output_tokens = affordable(item, book, value.available_micros)
    return metering_pb2.ReserveResponse(denial=message, balance=balance(value.balance))


def affordable(item: quotes.Item, book: pricing.PriceBook, available_micros: int) -> int:
    """Output tokens that `available_micros` would cover after the item's input, at most those it asks for."""
    if item.base is None or available_micros <= 0:
        return 0
    terms = item.terms
    tokens = pricing.affordable_output_tokens(
        book, terms.get("provider", ""), terms["model"], item.base, terms.get("tier", ""), terms["at"], available_micros
    )
    return max(0, min(tokens, item.output_tokens))


def settlement(value: ledger.Settled, actual: quotes.Actual, hold_id: ids.HoldId) -> types_pb2.Settlement:
    replayed = value.replayed
    return types_pb2.Settlement(
        settlement_id=f"{value.kind.value}{value.txn}",
        state=_HOLD_STATES[holds.STATES[value.kind]],
        charged_micros=value.charged_micros,
        returned_micros=value.returned_micros,
        uncollected_micros=value.uncollected_micros,
        forfeited_micros=value.forfeited_micros,
        cost_usd="" if replayed else actual.cost_usd,
        breakdown=() if replayed else cost_lines(actual.lines),
        usage_state=_USAGE_STATES[0 if replayed else actual.usage_state],
        grants=draws(value.draws),
        price_version="" if replayed else actual.price_version,
        hold_id=str(hold_id),
        settled_at=timestamp(value.at_ms),
    )


def cost_lines(lines: Sequence[pricing.Line]) -> list[types_pb2.CostLine]:
    rows = (quotes.line_row(line) for line in lines)
    return [types_pb2.CostLine(usage_class=row[0], quantity=row[1], unit_price=row[2], cost_usd=row[3]) for row in rows]


def durable_settlement(found: holds.Durable, hold_id: ids.HoldId) -> types_pb2.Settlement:
    """The settlement as the flushed ledger has it."""
    detail = found.detail
    rows = detail.get("lines", ())
    lines = [
        types_pb2.CostLine(usage_class=row[0], quantity=row[1], unit_price=row[2], cost_usd=row[3]) for row in rows
    ]
    return types_pb2.Settlement(
        settlement_id=f"{found.kind.value}{found.txn}",
        state=_HOLD_STATES[found.state],
        charged_micros=found.charged_micros,
        returned_micros=found.returned_micros,
        uncollected_micros=found.uncollected_micros,
        forfeited_micros=found.forfeited_micros,
        cost_usd=detail.get("cost", ""),
        breakdown=lines,
        usage_state=_USAGE_STATES[detail.get("us", 0)],
        grants=draws(found.draws),
        price_version=found.terms.get("pv", ""),
        hold_id=str(hold_id),
        settled_at=timestamp(found.at_ms),
    )


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
    total = pricing.affordable_output_tokens(book, provider, model, counts, tier, terms["at"], budget_micros)
    more = max(0, total - counts.output_tokens)
    wanted = max(0, terms["out"] - counts.output_tokens)
    advice = metering_pb2.ReportResponse.ADVICE_CONTINUE
    if more == 0:
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
        breakdown=cost_lines(pricing.explain(quote)) if quote else (),
        input_tokens=item.terms.get("in", 0),
    )
    if state is None:
        return response
    found = ledger.wallet_of(state, wallet)
    free = ledger.available_micros(found, now_ms)
    now = ledger.Balance(
        wallet=wallet, available_micros=free, held_micros=found.held_micros, seq=state.seq, epoch=state.epoch
    )
    response.balance.CopyFrom(balance(now))
    code = ledger.denial_of(state, free, item.amount_min_micros)
    if code is not None:
        denied = ledger.Denied(
            code=code, available_micros=free, required_micros=item.amount_micros, limit=0, balance=now
        )
        response.denial.CopyFrom(denied_reserve(denied, item, book).denial)
    return response
