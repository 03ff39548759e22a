"""Steps towards what an object asks for, each made once: grants, claw-backs, revocations, freezes, and rows of money.

Each part of an object has a sum that its steps add up to. A step brings the sum to the target, so that making it again makes nothing.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from meterd.core import errors, ids, money
from meterd.postgres import catalog, movements, plans, purchases, stripe

GRANT, CLAW_BACK, REVOKE, FREEZE, THAW, MONEY = "grant", "claw_back", "revoke", "freeze", "thaw", "money"
# Grants of category GRANT_CATEGORY_PAID.
PAID = 1
_REASON = "stripe: money went back"
# Of a purchase's own grants, of which there are one or two, and one more for each dispute that was won.
PREFERRED_MAX = 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the grants of a part are like. Times in ms; effective_ms None is now, expires_ms 0 never."""

    wallet: str
    category: int
    source_id: str
    effective_ms: int | None = None
    expires_ms: int = 0
    # Objects and parts whose grants a claw-back takes before others, after the part's own.
    kin: Sequence[tuple[str, str]] = ()


class Steps:
    """Makes the steps of one account, whose row the transaction has locked. `told` says in words what was made."""

    def __init__(
        self,
        connection: Any,
        account: Any,
        *,
        tenant_id: str,
        account_id: str,
        event_id: str,
        now_ms: int,
        told: list[str],
    ) -> None:
        self._connection = connection
        self._account = account
        self._account_no: int = account["account_no"]
        self._tenant_id = tenant_id
        self._account_id = account_id
        self._event_id = event_id
        self._now_ms = now_ms
        self._told = told
        self._made: dict[tuple[str, str], list[stripe.Effect]] = {}

    async def read(self, objects: list[str]) -> None:
        """Reads what was made for these objects before; to be called for each object before its first step."""
        for effect in await stripe.effects(self._connection, self._tenant_id, objects):
            self._made.setdefault((effect.object, effect.part), []).append(effect)

    def made(self, name: str, part: str) -> list[stripe.Effect]:
        """The steps of a part so far."""
        return self._made.get((name, part), [])

    async def _note(
        self, name: str, part: str, kind: str, *, wallet: str = "", amount: int = 0, done_id: uuid.UUID | None = None
    ) -> None:
        made = self._made.setdefault((name, part), [])
        effect = stripe.Effect(
            object=name, part=part, step=len(made) + 1, kind=kind, wallet=wallet, amount=amount, done_id=done_id
        )
        await stripe.add_effect(
            self._connection,
            self._tenant_id,
            effect,
            account_no=self._account_no,
            event_id=self._event_id,
            now_ms=self._now_ms,
        )
        made.append(effect)

    def _key(self, name: str, part: str) -> str:
        """The idempotency key of the next step. Nobody else can choose it."""
        return f"{plans.STRIPE}{name}:{part}:{len(self.made(name, part)) + 1}"

    async def bring(self, name: str, part: str, target_micros: int, terms: Terms, *, first_micros: int = 0) -> None:
        """Grants or claws back until the part's steps add up to the target.

        `first_micros`: what is granted first, where nothing was yet, so that the ledger shows what was paid and what went back.
        """
        if first_micros > max(0, target_micros) and not self.made(name, part):
            await self._grant(name, part, first_micros, terms)
        gap = target_micros - sum(effect.amount for effect in self.made(name, part))
        if gap > 0:
            await self._grant(name, part, gap, terms)
        elif gap < 0:
            await self._claw_back(name, part, -gap, terms)

    async def _grant(self, name: str, part: str, amount_micros: int, terms: Terms) -> None:
        new = catalog.NewGrant(
            tenant_id=self._tenant_id,
            account_id=self._account_id,
            idempotency_key=self._key(name, part),
            wallet=terms.wallet,
            amount_micros=amount_micros,
            category=terms.category,
            effective_ms=terms.effective_ms,
            expires_ms=terms.expires_ms,
            source_id=terms.source_id[: ids.ID_BYTES_MAX],
        )
        granted, _ = await catalog.grant_within(self._connection, self._account, new, self._now_ms)
        await self._note(name, part, GRANT, wallet=terms.wallet, amount=amount_micros, done_id=granted.grant_id)
        self._told.append(f"granted {money.decimal_string(amount_micros, 6)} to {terms.wallet} of {self._account_id}")

    def _grants_of(self, parts: Sequence[tuple[str, str]], wallet: str) -> list[uuid.UUID]:
        """What was granted for the parts to the wallet, the newest first."""
        found = [effect for name, part in parts for effect in self.made(name, part)[::-1]]
        ours = [one.done_id for one in found if one.kind == GRANT and one.wallet == wallet and one.done_id is not None]
        return list(dict.fromkeys(ours))[:PREFERRED_MAX]

    async def _claw_back(self, name: str, part: str, amount_micros: int, terms: Terms) -> None:
        wallet = terms.wallet
        made, _ = await movements.claw_back_within(
            self._connection,
            self._account,
            self._tenant_id,
            self._account_id,
            wallet=wallet,
            amount_micros=amount_micros,
            idempotency_key=self._key(name, part),
            reason=_REASON,
            now_ms=self._now_ms,
            grant_ids=self._grants_of([(name, part), *terms.kin], wallet),
        )
        await self._note(name, part, CLAW_BACK, wallet=wallet, amount=-amount_micros, done_id=made.claw_back_id)
        self._told.append(f"clawed {money.decimal_string(amount_micros, 6)} back from {wallet} of {self._account_id}")

    async def revoke(self, name: str, part: str) -> None:
        """Takes back what is left of the part's grants, and closes it. A repeat changes nothing."""
        made = self.made(name, part)
        if any(effect.kind == REVOKE for effect in made):
            return
        for effect in [one for one in made if one.kind == GRANT]:
            assert effect.done_id is not None, effect
            row = await catalog.grant_row(self._connection, self._tenant_id, effect.done_id)
            await catalog.revoke_within(
                self._connection,
                row,
                tenant_id=self._tenant_id,
                grant_id=effect.done_id,
                idempotency_key=f"{plans.OWN}{effect.done_id}",
                reason="subscription ended",
                now_ms=self._now_ms,
            )
            await self._note(name, part, REVOKE, wallet=effect.wallet, done_id=effect.done_id)
            self._told.append(f"revoked what is left of {money.decimal_string(effect.amount, 6)} in {effect.wallet}")

    async def enter(
        self, name: str, target_units: int, *, kind: purchases.Kind, product_id: str, currency: str, at_ms: int
    ) -> None:
        """Writes rows of money until they add up to the target, in the currency's minor unit: first the payment, then what went back."""
        made = self.made(name, MONEY)
        gap = target_units - sum(effect.amount for effect in made)
        if gap == 0 and made:
            return
        decimals = money.currency_decimals(currency)
        await purchases.add(
            self._connection,
            purchases.Purchase(
                tenant_id=self._tenant_id,
                account_id=self._account_id,
                purchase_id=f"{name}:{len(made) + 1}" if made else name,
                kind=kind,
                product_id=product_id,
                amount=Decimal(gap).scaleb(-decimals),
                currency=currency.upper(),
                at_ms=at_ms,
            ),
        )
        await self._note(name, MONEY, MONEY, amount=gap)

    async def hold(self, dispute: str, *, frozen: bool) -> None:
        """Freezes the account for a dispute, or thaws it after the last one. Each happens once a dispute; who froze it before decides."""
        froze, thawed = self.made(dispute, FREEZE), self.made(dispute, THAW)
        if frozen and not froze:
            before = catalog.account_of(await catalog.row_of(self._connection, self._tenant_id, self._account_id))
            others = await stripe.open_freezes(self._connection, self._account_no)
            # An account that somebody else has frozen is not ours to thaw.
            kind = FREEZE if others or not before.frozen else THAW
            await self._note(dispute, FREEZE, kind)
            await self._set_frozen(before, frozen=True)
        elif not frozen and froze and not thawed:
            await self._note(dispute, THAW, THAW)
            before = catalog.account_of(await catalog.row_of(self._connection, self._tenant_id, self._account_id))
            if froze[0].kind == FREEZE and not await stripe.open_freezes(self._connection, self._account_no):
                await self._set_frozen(before, frozen=False)

    async def _set_frozen(self, before: catalog.Account, *, frozen: bool) -> None:
        if before.frozen != frozen:
            await catalog.settings_within(self._connection, dataclasses.replace(before, frozen=frozen), self._now_ms)
            self._told.append(f"{'froze' if frozen else 'thawed'} {self._account_id}")


async def opened(
    connection: Any, *, tenant_id: str, account_id: str, event_id: str, now_ms: int, told: list[str]
) -> Steps:
    """The steps of an account, which is locked until the transaction ends. NotFoundError: no such account."""
    account = (await catalog.lock_accounts(connection, tenant_id, [account_id])).get(account_id)
    if account is None:
        raise errors.NotFoundError(f"account_id: there is no account {account_id} (yet)")
    return Steps(
        connection,
        account,
        tenant_id=tenant_id,
        account_id=account_id,
        event_id=event_id,
        now_ms=now_ms,
        told=told,
    )
