"""Reports: what an operator asks of the ledger's sums. Requests are checked here; postgres.reports reads."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
from collections.abc import AsyncGenerator, Callable, Sequence

import asyncpg

from meterd.core import errors, ids, money
from meterd.meter import hydration, replies
from meterd.postgres import reports
from meterd.pricing import books as price_books
from meterd_client.v1 import reports_pb2

# A year, leap years too; a longer range is asked for in parts.
DAYS_APART_MAX = 366
ROWS_DEFAULT = 1_000
# Some megabytes, the most that clients take in one message.
ROWS_MAX = 10_000
TOP_DEFAULT = 20
TOP_MAX = 1_000
BURN_DAYS_DEFAULT = 7
BURN_DAYS_MAX = 90
# A report may keep Postgres busy for seconds; the other connections and cores are for what cannot wait.
AT_ONCE_MAX = 2
WAITING_MAX = 16

DAY_MS = 86_400_000
# Where protobuf's timestamps end.
_TIME_MAX_MS = 253_402_300_799_999
_INT64_MAX = 2**63 - 1
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


class Reports:
    """The service Reports for one tenant's request at a time; see reports.proto for what each answers."""

    def __init__(self, *, connections: asyncpg.Pool, books: price_books.Books, clock_ms: Callable[[], int]) -> None:
        self._connections = connections
        self._books = books
        self._clock_ms = clock_ms
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)
        self._waiting = 0

    @property
    def waiting_count(self) -> int:
        """How many reports wait for their turn."""
        return self._waiting

    async def usage(self, tenant_id: str, request: reports_pb2.UsageRequest) -> reports_pb2.UsageResponse:
        """See Reports.Usage in reports.proto."""
        first_day, last_day = _checked_days(request.from_day, request.to_day)
        query = reports.UsageQuery(
            tenant_id=tenant_id,
            first_day=first_day,
            last_day=last_day,
            account_id=ids.checked_id(request.account_id, "account_id") if request.account_id else "",
            group_by=_checked_groups(request.group_by),
            # One more tells whether there are more.
            count_max=_checked_count(request.limit, "limit", ROWS_DEFAULT, ROWS_MAX) + 1,
            credit_value_femtos=self._books.current.credit_value_femtos,
        )
        async with self._turn():
            total, rows = await reports.usage(self._connections, query)
        return reports_pb2.UsageResponse(
            rows=[_usage_row(row, row.names) for row in rows[: query.count_max - 1]],
            total=_usage_row(total, ()),
            has_more=len(rows) == query.count_max,
        )

    async def revenue(self, tenant_id: str, request: reports_pb2.RevenueRequest) -> reports_pb2.RevenueResponse:
        """See Reports.Revenue in reports.proto."""
        first_day, last_day = _checked_days(request.from_day, request.to_day)
        async with self._turn():
            rows = await reports.revenue(self._connections, tenant_id, first_day, last_day)
            accounts, paying = await reports.conversion(self._connections, tenant_id)
        tenths = money.nearest_div(1_000 * paying, accounts) if accounts else 0
        return reports_pb2.RevenueResponse(
            rows=[_revenue_row(row) for row in rows],
            accounts=accounts,
            paying_accounts=paying,
            conversion_percent=_tenths_string(tenths),
        )

    async def burn(self, tenant_id: str, request: reports_pb2.BurnRequest) -> reports_pb2.BurnResponse:
        """See Reports.Burn in reports.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        days = _checked_count(request.days, "days", BURN_DAYS_DEFAULT, BURN_DAYS_MAX)
        now_ms = self._clock_ms()
        first_no = now_ms // DAY_MS - days + 1
        first_day = datetime.date(1970, 1, 1) + datetime.timedelta(days=first_no)
        async with self._turn():
            found = await reports.burn(self._connections, tenant_id, account_id, first_day, now_ms)
        # What was charged in an hour says little of a day.
        elapsed_ms = max(DAY_MS, now_ms - max(first_no * DAY_MS, found.created_ms))
        return burnt(found.available_micros, found.charged_micros, elapsed_ms, now_ms)

    async def top_accounts(
        self, tenant_id: str, request: reports_pb2.TopAccountsRequest
    ) -> reports_pb2.TopAccountsResponse:
        """See Reports.TopAccounts in reports.proto."""
        first_day, last_day = _checked_days(request.from_day, request.to_day)
        count_max = _checked_count(request.limit, "limit", TOP_DEFAULT, TOP_MAX)
        async with self._turn():
            rows = await reports.top_accounts(self._connections, tenant_id, first_day, last_day, count_max)
        return reports_pb2.TopAccountsResponse(
            rows=[
                reports_pb2.TopAccountsResponse.Row(
                    account_id=row.account_id,
                    actions=row.actions,
                    charged_micros=_int64(row.charged_micros, "charged_micros"),
                    cost_usd=row.cost_usd,
                )
                for row in rows
            ]
        )

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        """Waits for one of AT_ONCE_MAX places, and maps Postgres' faults."""
        if self._waiting >= WAITING_MAX:
            raise errors.OverloadedError("too many reports at once; retry later")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        except asyncpg.QueryCanceledError as exc:
            raise errors.OverloadedError("the report takes too long; ask for fewer days or groups") from exc
        except hydration.POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(f"Postgres is away: {exc}") from exc
        finally:
            self._turns.release()


def burnt(available_micros: int, charged_micros: int, elapsed_ms: int, now_ms: int) -> reports_pb2.BurnResponse:
    """How long `available_micros` last if `charged_micros` are charged in every `elapsed_ms`."""
    response = reports_pb2.BurnResponse(
        available_micros=_int64(available_micros, "available_micros"),
        charged_per_day_micros=money.ceil_div(charged_micros * DAY_MS, elapsed_ms),
    )
    if charged_micros > 0:
        left_ms = max(0, available_micros) * elapsed_ms // charged_micros
        response.days_left = _tenths_string(left_ms * 10 // DAY_MS)
        if now_ms + left_ms <= _TIME_MAX_MS:
            response.runs_out_at.CopyFrom(replies.timestamp(now_ms + left_ms))
    return response


def _checked_days(from_day: str, to_day: str) -> tuple[datetime.date, datetime.date]:
    first_day, last_day = _checked_day(from_day, "from_day"), _checked_day(to_day, "to_day")
    apart = (last_day - first_day).days
    if apart < 0:
        raise errors.InvalidArgumentError("to_day", "must not be before from_day")
    if apart > DAYS_APART_MAX:
        raise errors.InvalidArgumentError("to_day", f"must be at most {DAYS_APART_MAX} days after from_day")
    return first_day, last_day


def _checked_day(text: str, field: str) -> datetime.date:
    if _DAY.match(text):
        with contextlib.suppress(ValueError):
            return datetime.date.fromisoformat(text)
    raise errors.InvalidArgumentError(field, "must be a day such as 2026-12-31")


def _checked_groups(group_by: Sequence[str]) -> Sequence[str]:
    for name in group_by:
        if name not in reports.COLUMNS:
            raise errors.InvalidArgumentError("group_by", f"must be of {', '.join(reports.COLUMNS)}")
    if len(set(group_by)) < len(group_by):
        raise errors.InvalidArgumentError("group_by", "names something twice")
    return list(group_by) or ["day"]


def _checked_count(value: int, field: str, default: int, count_max: int) -> int:
    if not 0 <= value <= count_max:
        raise errors.InvalidArgumentError(field, f"must be from 1 to {count_max}, or 0 for {default}")
    return value or default


def _int64(value: int, field: str) -> int:
    """A sum has no bound, but its field has."""
    if not -_INT64_MAX <= value <= _INT64_MAX:
        raise errors.OutOfRangeError(field, "the sum is above 2^63 − 1; ask for fewer days")
    return value


def _usage_row(row: reports.Usage, names: Sequence[str]) -> reports_pb2.UsageRow:
    return reports_pb2.UsageRow(
        group=names,
        actions=row.actions,
        charged_micros=_int64(row.charged_micros, "charged_micros"),
        uncollected_micros=_int64(row.uncollected_micros, "uncollected_micros"),
        input_tokens=_int64(row.input_tokens, "input_tokens"),
        output_tokens=_int64(row.output_tokens, "output_tokens"),
        cost_usd=row.cost_usd,
        margin_usd=row.margin_usd,
    )


def _revenue_row(row: reports.Revenue) -> reports_pb2.RevenueRow:
    paid = money.scaled(row.paid, 6)
    assert paid is not None, "purchases have at most 6 decimals"
    cents = money.nearest_div(paid, row.purchases * 10**4) if row.purchases else 0
    return reports_pb2.RevenueRow(
        currency=row.currency,
        package_revenue=row.package_revenue,
        subscription_revenue=row.subscription_revenue,
        purchases=row.purchases,
        average_purchase=money.decimal_string(cents, 2),
    )


def _tenths_string(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}"
