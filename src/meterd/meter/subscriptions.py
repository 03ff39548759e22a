"""The use cases of plans: an account is put on one, changes it, leaves it. The worker that renews them is in renewals."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, ids
from meterd.core import subscriptions as core
from meterd.meter import catalogs, hydration, reach, statements
from meterd.postgres import plans
from meterd_client.v1 import accounts_pb2


class Subscriptions:
    """Subscribe, UpdateSubscription, CancelSubscription and GetSubscription; see accounts.proto for what each answers."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        catalogs_: catalogs.Catalogs,
        reach_: reach.Reach,
        clock_ms: Callable[[], int],
    ) -> None:
        self._catalogs = catalogs_
        self._reach = reach_
        self._plans = plans.Plans(connections, clock_ms=clock_ms)

    def _offered(self, tenant_id: str) -> Callable[[str], offers.Plan | None]:
        return self._catalogs.of(tenant_id).plan

    async def subscribe(self, tenant_id: str, request: accounts_pb2.SubscribeRequest) -> accounts_pb2.SubscribeResponse:
        """See Accounts.Subscribe in accounts.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        plan_id = ids.checked_id(request.plan_id, "plan_id")
        source_id = ids.checked_text(request.source_id, "source_id", ids.ID_BYTES_MAX)
        if request.proration not in accounts_pb2.Proration.values():
            raise errors.InvalidArgumentError("proration", "must be one of the named values")
        plan = self._plan(tenant_id, plan_id)
        with hydration.postgres():
            made = await self._plans.subscribe(
                tenant_id,
                account_id,
                plan,
                idempotency_key=key,
                skip_trial=request.skip_trial,
                source_id=source_id,
                is_prorated=request.proration == accounts_pb2.PRORATION_CREDITS,
            )
        return accounts_pb2.SubscribeResponse(
            subscription=statements.subscription(made.subscription),
            replayed=made.replayed,
            projected=await self._reach.reach(tenant_id, made.subscription.address),
            welcome=statements.grant(made.welcome) if made.welcome else None,
        )

    def _plan(self, tenant_id: str, plan_id: str) -> offers.Plan:
        """The catalog's plan; NotFoundError if it is not there, or not to be had any more."""
        plan = self._catalogs.of(tenant_id).plan(plan_id)
        if plan is None:
            raise errors.NotFoundError("plan_id: the catalog has no such plan")
        if not plan.active:
            raise errors.NotFoundError("plan_id: the plan is not active")
        return plan

    async def begin(self, tenant_id: str, account_id: str, plan_id: str) -> plans.Subscribed | None:
        """Puts a new account on a plan, or on the catalog's for new accounts; None if there is none. A repeat answers the same."""
        plan_id = plan_id or self._catalogs.of(tenant_id).account.plan_id
        if not plan_id:
            return None
        return await self._subscribe_first(tenant_id, account_id, self._plan(tenant_id, plan_id), "account")

    def check_plan(self, tenant_id: str, plan_id: str) -> None:
        """NotFoundError if a new account cannot begin with the plan."""
        if plan_id:
            self._plan(tenant_id, ids.checked_id(plan_id, "plan_id"))

    async def fall_back(self, ended: core.Subscription) -> plans.Subscribed | None:
        """Puts an account whose subscription has ended on the catalog's plan for those without one; None if there is none."""
        sold = self._catalogs.of(ended.tenant_id)
        plan = sold.plan(sold.account.plan_id) if sold.account.plan_id else None
        if ended.is_live or plan is None or not plan.active or plan.plan_id == ended.plan.plan_id:
            return None
        return await self._subscribe_first(ended.tenant_id, ended.account_id, plan, str(ended.subscription_id))

    async def _subscribe_first(
        self, tenant_id: str, account_id: str, plan: offers.Plan, occasion: str
    ) -> plans.Subscribed:
        key = f"{plans.OWN}{occasion}:{ids.account_address(tenant_id, account_id)}"
        return await self._plans.subscribe(tenant_id, account_id, plan, idempotency_key=key)

    async def update_subscription(
        self, tenant_id: str, request: accounts_pb2.UpdateSubscriptionRequest
    ) -> accounts_pb2.UpdateSubscriptionResponse:
        """See Accounts.UpdateSubscription in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            found = await self._plans.set_past_due(
                tenant_id, account_id, self._offered(tenant_id), past_due=request.past_due
            )
            await self.fall_back(found)
        return accounts_pb2.UpdateSubscriptionResponse(
            subscription=statements.subscription(found), projected=await self._reach.reach(tenant_id, found.address)
        )

    async def cancel_subscription(
        self, tenant_id: str, request: accounts_pb2.CancelSubscriptionRequest
    ) -> accounts_pb2.CancelSubscriptionResponse:
        """See Accounts.CancelSubscription in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            found = await self._plans.cancel(
                tenant_id,
                account_id,
                self._offered(tenant_id),
                at_once=request.at_once,
                kept_plan_id=self._catalogs.of(tenant_id).account.plan_id,
            )
            await self.fall_back(found)
        return accounts_pb2.CancelSubscriptionResponse(
            subscription=statements.subscription(found), projected=await self._reach.reach(tenant_id, found.address)
        )

    async def get_subscription(
        self, tenant_id: str, request: accounts_pb2.GetSubscriptionRequest
    ) -> accounts_pb2.GetSubscriptionResponse:
        """See Accounts.GetSubscription in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            found = await self._plans.subscription(tenant_id, account_id)
        return accounts_pb2.GetSubscriptionResponse(subscription=statements.subscription(found))

    async def renew(self, found: plans.Due) -> None:
        """Brings a subscription up to now, for the worker. Errors pass through."""
        after = await self._plans.renew(found.tenant_id, found.account_id, self._offered(found.tenant_id))
        if after is None:
            return
        await self.fall_back(after)
        await self._reach.reach(found.tenant_id, after.address)

    async def standing(self, tenant_id: str, account_id: str) -> tuple[core.Subscription | None, plans.Lifetime]:
        """The subscription that the account is on, None if it is on none, and the account's sums."""
        return await self._plans.standing(tenant_id, account_id)
