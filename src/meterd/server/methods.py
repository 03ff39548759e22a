"""Every method that a client can call, with what decides it and who may call it. A method of the protos that is not here does not start."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from meterd.billing import service as billing
from meterd.meter import accounts, events, limits, metering, movements, offers, reports, subscriptions, top_ups
from meterd.server import auth, tokens
from meterd_client.v1 import accounts_pb2, billing_pb2, catalog_pb2, events_pb2, metering_pb2, reports_pb2

METERING = "meterd.v1.Metering"
ACCOUNTS = "meterd.v1.Accounts"
CATALOG = "meterd.v1.Catalog"
REPORTS = "meterd.v1.Reports"
EVENTS = "meterd.v1.Events"
BILLING = "meterd.v1.Billing"
STREAM = f"/{METERING}/Stream"
WATCH = f"/{ACCOUNTS}/Watch"
BALANCE = f"/{ACCOUNTS}/GetBalance"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One unary method: `call(tenant_id, request)` answers or raises an error of core.errors."""

    path: str
    request: type[Message]
    call: Callable[[str, Any], Awaitable[Message]]
    roles: frozenset[str]
    # Whether an answer may be a denial.
    may_deny: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_metering(self) -> bool:
        """Whether it is of the service whose calls Redis decides."""
        return self.path.startswith(f"/{METERING}/")

    def outcome(self, reply: Message) -> str:
        """What an answer is counted as: DENIED where credits, and not a fault, refused it."""
        return "DENIED" if self.may_deny and reply.HasField("denial") else "OK"


def unary(
    meter: metering.Metering,
    book: accounts.Accounts,
    sold: offers.Offers,
    sums: reports.Reports,
    told: events.Events,
    plan: subscriptions.Subscriptions,
    moves: movements.Movements,
    bounds: limits.Limits,
    topped: top_ups.TopUps,
    bills: billing.Billing,
    minted: tokens.Tokens,
) -> dict[str, Method]:
    """All unary methods by path. LookupError if the protos have one that nothing here decides, or the other way round."""
    calls: dict[str, Callable[[str, Any], Awaitable[Message]]] = {
        f"/{METERING}/Reserve": meter.reserve,
        f"/{METERING}/Commit": meter.commit,
        f"/{METERING}/Release": meter.release,
        f"/{METERING}/Extend": meter.extend,
        f"/{METERING}/Report": meter.report,
        f"/{METERING}/Charge": meter.charge,
        f"/{METERING}/Estimate": meter.estimate,
        f"/{ACCOUNTS}/CreateAccount": book.create_account,
        f"/{ACCOUNTS}/GetAccount": book.get_account,
        f"/{ACCOUNTS}/Grant": book.grant,
        f"/{ACCOUNTS}/RevokeGrant": book.revoke_grant,
        f"/{ACCOUNTS}/GetBalance": book.get_balance,
        f"/{ACCOUNTS}/ListHolds": book.list_holds,
        f"/{ACCOUNTS}/ListTransactions": book.list_transactions,
        f"/{ACCOUNTS}/ExplainSettlement": book.explain_settlement,
        f"/{ACCOUNTS}/UpdateAccount": book.update_account,
        f"/{ACCOUNTS}/Subscribe": plan.subscribe,
        f"/{ACCOUNTS}/UpdateSubscription": plan.update_subscription,
        f"/{ACCOUNTS}/CancelSubscription": plan.cancel_subscription,
        f"/{ACCOUNTS}/GetSubscription": plan.get_subscription,
        f"/{ACCOUNTS}/Transfer": moves.transfer,
        f"/{ACCOUNTS}/ClawBack": moves.claw_back,
        f"/{ACCOUNTS}/ClaimReward": moves.claim_reward,
        f"/{ACCOUNTS}/SetTopUp": topped.set_top_up,
        f"/{ACCOUNTS}/DeleteTopUp": topped.delete_top_up,
        f"/{ACCOUNTS}/SetLimit": bounds.set_limit,
        f"/{ACCOUNTS}/DeleteLimit": bounds.delete_limit,
        f"/{ACCOUNTS}/ListLimits": bounds.list_limits,
        f"/{ACCOUNTS}/CreateToken": minted.create_token,
        f"/{EVENTS}/CreateWebhook": told.create_webhook,
        f"/{EVENTS}/ListWebhooks": told.list_webhooks,
        f"/{EVENTS}/DeleteWebhook": told.delete_webhook,
        f"/{EVENTS}/RotateWebhookSecret": told.rotate_webhook_secret,
        f"/{EVENTS}/ListEvents": told.list_events,
        f"/{EVENTS}/ReplayEvents": told.replay_events,
        f"/{EVENTS}/SetLowBalance": told.set_low_balance,
        f"/{CATALOG}/GetCatalog": sold.get_catalog,
        f"/{CATALOG}/ApplyCatalog": sold.apply_catalog,
        f"/{BILLING}/CreateCheckoutSession": bills.create_checkout_session,
        f"/{BILLING}/CreatePaymentIntent": bills.create_payment_intent,
        f"/{BILLING}/CreatePortalSession": bills.create_portal_session,
        f"/{BILLING}/ListPurchases": bills.list_purchases,
        f"/{BILLING}/GetPurchase": bills.get_purchase,
        f"/{BILLING}/CancelPurchase": bills.cancel_purchase,
        f"/{BILLING}/CancelBilling": bills.cancel_billing,
        f"/{REPORTS}/Usage": sums.usage,
        f"/{REPORTS}/Revenue": sums.revenue,
        f"/{REPORTS}/Burn": sums.burn,
        f"/{REPORTS}/TopAccounts": sums.top_accounts,
    }
    wanted = declared()
    if missing := wanted.keys() ^ calls.keys():
        raise LookupError(f"methods that the protos and the server do not both have: {', '.join(sorted(missing))}")
    return {
        path: Method(
            path=path,
            request=message_factory.GetMessageClass(method.input_type),
            call=calls[path],
            roles=auth.roles_of(path),
            may_deny="denial" in method.output_type.fields_by_name,
        )
        for path, method in wanted.items()
    }


def declared() -> dict[str, Any]:
    """The descriptor of each unary method that the protos declare."""
    found: dict[str, Any] = {}
    for module in (metering_pb2, accounts_pb2, catalog_pb2, events_pb2, reports_pb2, billing_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                if path not in (STREAM, WATCH):
                    found[path] = method
    return found
