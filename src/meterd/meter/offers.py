"""The use cases of service Catalog: what a tenant sells, and the change of it."""

from __future__ import annotations

import asyncio

import asyncpg

from meterd.core import catalog, catalog_changes, errors, ids, limits, money, pricing
from meterd.meter import catalogs as in_force
from meterd.meter import hydration, replies
from meterd.postgres import catalogs
from meterd.pricing import books as price_books
from meterd.pricing import catalog_file, yaml_file
from meterd_client.v1 import catalog_pb2

APPLIED_BY_BYTES_MAX = 128

_PERIODS = {
    catalog.CALENDAR_MONTH: catalog_pb2.PERIOD_CALENDAR_MONTH,
    catalog.DAYS_30: catalog_pb2.PERIOD_30_DAYS,
    catalog.BILLING_MONTH: catalog_pb2.PERIOD_BILLING_MONTH,
}


class Offers:
    """GetCatalog and ApplyCatalog."""

    def __init__(self, *, connections: asyncpg.Pool, catalogs_: in_force.Catalogs, books: price_books.Books) -> None:
        self._connections = connections
        self._catalogs = catalogs_
        self._books = books
        # A large document takes half a second of a thread; one at a time leaves calls their share.
        self._parsing = asyncio.Lock()
        # The last answer of each tenant, with what it was made from: most calls ask for the same again.
        self._answers: dict[str, tuple[catalogs.Applied | None, pricing.PriceBook, catalog_pb2.GetCatalogResponse]] = {}

    async def get_catalog(
        self, tenant_id: str, request: catalog_pb2.GetCatalogRequest
    ) -> catalog_pb2.GetCatalogResponse:
        """See Catalog.GetCatalog in catalog.proto."""
        del request
        applied, book = self._catalogs.applied(tenant_id), self._books.of(tenant_id)
        known = self._answers.get(tenant_id)
        if known is not None and known[0] is applied and known[1] is book:
            return known[2]
        answer = _sold(applied, book)
        self._answers[tenant_id] = applied, book, answer
        return answer

    async def apply_catalog(
        self, tenant_id: str, request: catalog_pb2.ApplyCatalogRequest
    ) -> catalog_pb2.ApplyCatalogResponse:
        """See Catalog.ApplyCatalog in catalog.proto."""
        applied_by = ids.checked_text(request.applied_by, "applied_by", APPLIED_BY_BYTES_MAX)
        expected = request.expected_version if request.HasField("expected_version") else None
        new = await self._parsed(request.document)
        try:
            if request.dry_run:
                before = await catalogs.latest(self._connections, tenant_id)
                catalogs.check_expected(before.catalog, expected)
                return _answer(before, new, applied=False)
            before, now = await catalogs.apply(
                self._connections, tenant_id, new, expected_version=expected, applied_by=applied_by
            )
            await self._catalogs.take(now)
        except hydration.POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(
                f"Postgres is away: {exc}; the catalog may have been applied, a repeat does no harm"
            ) from exc
        return _answer(before, new, applied=now is not before)

    async def _parsed(self, text: str) -> catalog.Catalog:
        async with self._parsing:
            try:
                return await asyncio.to_thread(catalog_file.parsed, text)
            except yaml_file.FileError as exc:
                at = [f"line {exc.line}"] if exc.line else []
                raise errors.InvalidArgumentError(
                    "document", ": ".join([*at, *filter(None, [exc.place]), exc.reason])
                ) from exc


def _answer(before: catalogs.Applied, new: catalog.Catalog, *, applied: bool) -> catalog_pb2.ApplyCatalogResponse:
    return catalog_pb2.ApplyCatalogResponse(
        version=new.version,
        changes=catalog_changes.changes(before.catalog, new),
        applied=applied,
        previous_version=before.catalog.version,
    )


def _sold(applied: catalogs.Applied | None, book: pricing.PriceBook) -> catalog_pb2.GetCatalogResponse:
    sold = applied.catalog if applied is not None else catalog.EMPTY
    return catalog_pb2.GetCatalogResponse(
        version=sold.version,
        packages=[_package(item) for item in sold.packages],
        plans=[plan_message(item) for item in sold.plans],
        features=[_feature(item, book) for item in sold.features],
        rates=[_rate(item) for item in sold.rates],
        rewards=[_reward(item) for item in sold.rewards],
        credit_value_usd=book.credit_value_usd,
        applied_at=replies.timestamp(applied.applied_ms) if applied is not None else None,
        account=catalog_pb2.AccountDefaults(
            welcome_bonus_micros=sold.account.welcome_bonus_micros,
            low_balance_micros=sold.account.low_balance_micros,
            plan_id=sold.account.plan_id,
        ),
        price_version=book.version,
        limits=[_limit(item) for item in sold.limits],
    )


def _package(item: catalog.Package) -> catalog_pb2.Package:
    return catalog_pb2.Package(
        package_id=item.package_id,
        name=item.name,
        amount_micros=item.amount_micros,
        bonus_micros=item.bonus_micros,
        price=item.price,
        currency=item.currency,
        discount_percent=item.discount_percent,
        flags=item.flags,
        stripe_price=item.stripe_price,
        wallet=item.wallet,
        active=item.active,
    )


def plan_message(item: catalog.Plan) -> catalog_pb2.Plan:
    return catalog_pb2.Plan(
        plan_id=item.plan_id,
        name=item.name,
        price=item.price,
        currency=item.currency,
        interval=item.interval,
        period=_PERIODS[item.period],
        allowances=[
            catalog_pb2.Allowance(wallet=one.wallet, amount_micros=one.amount_micros) for one in item.allowances
        ],
        unlimited=item.unlimited,
        actions_per_day=item.actions_per_day,
        rollover=item.rollover,
        trial_days=item.trial_days,
        welcome_bonus_micros=item.welcome_bonus_micros,
        stripe_price=item.stripe_price,
        active=item.active,
    )


def _feature(item: catalog.Feature, book: pricing.PriceBook) -> catalog_pb2.Feature:
    # The catalog's own price is before the margin; whoever shows a price before a call wants what the call will be charged.
    numerator, denominator = pricing.feature_price(book, item.feature_id, item.amount_micros)
    return catalog_pb2.Feature(
        feature_id=item.feature_id,
        name=item.name,
        category=item.category,
        # Above 2^53 − 1 no call is charged at all, which the call says.
        amount_micros=money.ceil_div(numerator, denominator),
        unit_micros=money.ratio_string(numerator, denominator),
        wallet=item.wallet,
        active=item.active,
    )


def _rate(item: catalog.Rate) -> catalog_pb2.Rate:
    return catalog_pb2.Rate(
        rate_id=item.rate_id,
        name=item.name,
        unit_micros=money.decimal_string(item.unit_price_scaled, pricing.RATE_DECIMALS),
        wallet=item.wallet,
        active=item.active,
        unit=item.unit,
        fractional=item.fractional,
    )


def _reward(item: catalog.Reward) -> catalog_pb2.Reward:
    return catalog_pb2.Reward(
        reward_id=item.reward_id,
        name=item.name,
        amount_micros=item.amount_micros,
        kind=item.kind,
        weekly_cap=item.weekly_cap,
        lifetime_spent_micros=item.lifetime_spent_micros,
        wallet=item.wallet,
    )


def _limit(item: catalog.LimitDefault) -> catalog_pb2.LimitDefault:
    metric = limits.METRICS[item.metric]
    message = catalog_pb2.LimitDefault(
        limit_id=item.limit_id,
        subject=replies.LIMIT_SUBJECTS[limits.SUBJECTS[item.subject]],
        value=item.value,
        metric=replies.LIMIT_METRICS[metric],
        amount=item.cap,
        observe=item.observe,
    )
    if metric is not limits.Metric.HOLDS:
        message.window = replies.LIMIT_WINDOWS[limits.WINDOWS[item.window]]
    return message
