"""What the stories of the products do again and again: a tenant with its catalog, accounts, purchases, charges and balances."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
from collections.abc import Generator
from typing import Any

import redis

from meterd.core import ids
from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, metering_pb2, reports_pb2, types_pb2
from tests.acceptance import installation, processes

FILES = pathlib.Path(__file__).parent / "catalogs"
CREDIT = 1_000_000
Denial = types_pb2.Denial


def micros(credits: float) -> int:
    return round(credits * CREDIT)


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A tenant whose catalog is in force, seen with its admin's key. Amounts are credits."""

    made: installation.Installation
    tenant_id: str
    client: installation.Client

    def catalog(self) -> catalog_pb2.GetCatalogResponse:
        return self.client.call("GetCatalog", catalog_pb2.GetCatalogRequest())

    def apply(self, document: str) -> catalog_pb2.ApplyCatalogResponse:
        return self.client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document))

    def open(self, account_id: str, **fields: Any) -> accounts_pb2.CreateAccountResponse:
        """A new account, or the one that is there."""
        return self.client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id, **fields))

    def grant(self, account_id: str, credits: float, **fields: Any) -> accounts_pb2.GrantResponse:
        values: dict[str, Any] = {
            "idempotency_key": installation.new_id(),
            "account_id": account_id,
            "amount_micros": micros(credits),
            "category": types_pb2.GRANT_CATEGORY_PAID,
        }
        return self.client.call("Grant", accounts_pb2.GrantRequest(**values | fields))

    def buy(self, account_id: str, package: catalog_pb2.Package, order: str) -> list[accounts_pb2.GrantResponse]:
        """What a paid order does: the package's credits as paid ones and its bonus as promotional ones; once an order."""
        parts = [(package.amount_micros, types_pb2.GRANT_CATEGORY_PAID, "paid")]
        if package.bonus_micros:
            parts.append((package.bonus_micros, types_pb2.GRANT_CATEGORY_PROMOTIONAL, "bonus"))
        return [
            self.client.call(
                "Grant",
                accounts_pb2.GrantRequest(
                    idempotency_key=f"{order}:{name}",
                    account_id=account_id,
                    wallet=package.wallet,
                    amount_micros=amount_micros,
                    category=category,
                    source_id=order,
                ),
            )
            for amount_micros, category, name in parts
        ]

    def charge(self, account_id: str, **fields: Any) -> metering_pb2.ChargeResponse:
        """`feature` and `rate` as in ChargeRequest, the rate's as a pair with its quantity; `credits` as a number."""
        if "feature" in fields:
            fields["feature"] = types_pb2.FeatureCharge(feature=fields["feature"])
        if "rate" in fields:
            rate, quantity = fields["rate"]
            fields["rate"] = types_pb2.RateCharge(rate=rate, quantity=quantity)
        if "credits" in fields:
            fields["credits"] = types_pb2.CreditsCharge(amount_micros=micros(fields["credits"]))
        values: dict[str, Any] = {"idempotency_key": installation.new_id(), "account_id": account_id}
        return self.client.call("Charge", metering_pb2.ChargeRequest(**values | fields))

    def reserve(self, account_id: str, **fields: Any) -> metering_pb2.ReserveResponse:
        values: dict[str, Any] = {"hold_id": installation.new_id(), "account_id": account_id}
        return self.client.call("Reserve", metering_pb2.ReserveRequest(**values | fields))

    def commit(self, hold_id: str, **fields: Any) -> metering_pb2.CommitResponse:
        return self.client.call("Commit", metering_pb2.CommitRequest(hold_id=hold_id, **fields))

    def estimate(self, **fields: Any) -> metering_pb2.EstimateResponse:
        return self.client.call("Estimate", metering_pb2.EstimateRequest(**fields))

    def balance(self, account_id: str) -> accounts_pb2.GetBalanceResponse:
        return self.client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account_id))

    def credits(self, account_id: str, wallet: str = "default") -> float:
        """What is available."""
        found = {one.wallet: one.available_micros for one in self.balance(account_id).wallets}
        return found[wallet] / CREDIT

    def wallets(self, account_id: str) -> dict[str, accounts_pb2.WalletBalance]:
        return {one.wallet: one for one in self.balance(account_id).wallets}

    def subscribe(self, account_id: str, plan_id: str, **fields: Any) -> accounts_pb2.SubscribeResponse:
        values: dict[str, Any] = {
            "idempotency_key": installation.new_id(),
            "account_id": account_id,
            "plan_id": plan_id,
        }
        return self.client.call("Subscribe", accounts_pb2.SubscribeRequest(**values | fields))

    def subscription(self, account_id: str) -> accounts_pb2.Subscription:
        request = accounts_pb2.GetSubscriptionRequest(account_id=account_id)
        return self.client.call("GetSubscription", request).subscription

    def claim(self, account_id: str, reward_id: str, **fields: Any) -> accounts_pb2.ClaimRewardResponse:
        request = accounts_pb2.ClaimRewardRequest(account_id=account_id, reward_id=reward_id, **fields)
        return self.client.call("ClaimReward", request)

    def transactions(self, account_id: str, **fields: Any) -> accounts_pb2.ListTransactionsResponse:
        """Of an account all of whose records are in Postgres."""
        self.settled(account_id)
        request = accounts_pb2.ListTransactionsRequest(account_id=account_id, **fields)
        return self.client.call("ListTransactions", request)

    def settled(self, *account_ids: str) -> None:
        """Waits until Postgres has all records of the accounts."""
        for account_id in account_ids:
            processes.wait_until(lambda: self.balance(account_id).freshness_ms == 0, f"{account_id} in Postgres")  # noqa: B023

    def events(self, account_id: str, *types: str) -> list[events_pb2.Event]:
        request = events_pb2.ListEventsRequest(account_id=account_id, types=types)
        return list(self.client.call("ListEvents", request).events)

    def usage(self, *group_by: str, **fields: Any) -> reports_pb2.UsageResponse:
        """Of yesterday and today, so that a story may go on past midnight."""
        since, until = today() - datetime.timedelta(days=1), today()
        request = reports_pb2.UsageRequest(
            from_day=since.isoformat(), to_day=until.isoformat(), group_by=group_by, **fields
        )
        return self.client.call("Usage", request)

    def account_no(self, account_id: str) -> int:
        (row,) = self.made.sql(
            "SELECT account_no FROM accounts WHERE tenant_id = $1 AND account_id = $2", self.tenant_id, account_id
        )
        return row["account_no"]

    def forget(self, account_id: str) -> None:
        """Redis gives up the account, all of whose records are in Postgres: the next call finds it as it is there."""
        address = ids.account_address(self.tenant_id, account_id)
        with redis.Redis.from_url(self.made.valkey.url) as client:
            client.delete(*client.scan_iter(match=f"{{m:*}}:a:{address}", count=1_000))

    def age(self, account_id: str, *, by: datetime.timedelta = datetime.timedelta(), years: int = 0) -> None:
        """Makes an account's plan and allowances as old as if they had begun earlier. Nothing else of the account may be at work.

        Four years keep the day of any month.
        """
        self.settled(account_id)
        earlier = "($2::interval + make_interval(years => $3))"
        columns = ("started_at", "anchor", "period_start", "period_end", "terms_until", "due_at")
        shifts = ", ".join(f"{column} = {column} - {earlier}" for column in columns)
        number = self.account_no(account_id)
        plan = f"UPDATE subscriptions SET {shifts} WHERE account_no = $1 AND status <> 'canceled'"
        grants = f"""UPDATE grants SET effective_at = effective_at - {earlier}, expires_at = expires_at - {earlier}
            WHERE account_no = $1 AND expires_at IS NOT NULL"""
        # Grants first: as soon as the plan is due, the worker makes the next ones.
        self.made.sql(grants, number, by, years)
        self.forget(account_id)
        self.made.sql(plan, number, by, years)


@contextlib.contextmanager
def opened(made: installation.Installation, tenant_id: str, product: str = "") -> Generator[Product]:
    """The tenant, with the catalog of a product from `catalogs`."""
    key = made.make_key(tenant_id, "admin")
    with made.client(key) as client:
        found = Product(made=made, tenant_id=tenant_id, client=client)
        if product:
            assert found.apply((FILES / f"{product}.yaml").read_text()).applied
        yield found
