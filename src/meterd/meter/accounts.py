"""The account side's use cases: accounts and grants are decided in Postgres and brought to Redis; reads come from where the truth is."""

from __future__ import annotations

import contextlib
import uuid

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import errors, ids, ledger, money, pricing
from meterd.meter import (
    explanations,
    hydration,
    limits,
    movements,
    pages,
    projector,
    reach,
    replies,
    requests,
    statements,
    subscriptions,
    top_ups,
)
from meterd.postgres import catalog, fold, queries
from meterd.pricing import books as price_books
from meterd.redis import audit, runner
from meterd.redis import ledger as redis_ledger
from meterd_client.v1 import accounts_pb2, types_pb2

PRIORITY_MAX = 1000
# Times are stored in milliseconds; year 9999 is where protobuf's timestamps end too.
TIME_MAX_MS = 253_402_300_799_999
# Records that Postgres does not have yet are looked up in the outbox as far as this; a longer one means that Postgres lags.
OUTBOX_ENTRIES_MAX = 50_000


class Accounts:
    """The service Accounts for one tenant's request at a time; see accounts.proto for what each answers."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        store: redis_ledger.RedisLedger,
        run: runner.Runner,
        catalog_: catalog.Catalog,
        projector_: projector.Projector,
        hydrator: hydration.Hydrator,
        books: price_books.Books,
        plans_: subscriptions.Subscriptions,
        movements_: movements.Movements,
        limits_: limits.Limits,
        top_ups_: top_ups.TopUps,
        reach_: reach.Reach,
    ) -> None:
        self._connections = connections
        self._store = store
        self._run = run
        self._catalog = catalog_
        self._projector = projector_
        self._hydrator = hydrator
        self._books = books
        self._plans = plans_
        self._movements = movements_
        self._limits = limits_
        self._top_ups = top_ups_
        self._reach = reach_

    async def create_account(
        self, tenant_id: str, request: accounts_pb2.CreateAccountRequest
    ) -> accounts_pb2.CreateAccountResponse:
        """See Accounts.CreateAccount in accounts.proto."""
        new = catalog.NewAccount(
            tenant_id=tenant_id,
            account_id=ids.checked_id(request.account_id, "account_id"),
            overage=requests.checked_overage(request.overage_policy) or ledger.Overage.DRAW,
            overdraft_limit_micros=_checked_limit(request.overdraft_limit_micros),
            strict_expiry=request.strict_expiry,
        )
        self._plans.check_plan(tenant_id, request.plan_id)
        with hydration.postgres():
            try:
                made, replayed = await self._catalog.create_account(new)
            except errors.AlreadyExistsError as exc:
                raise _account_conflict(new, await self._catalog.account(tenant_id, new.account_id)) from exc
            except asyncpg.ForeignKeyViolationError as exc:
                raise errors.NotFoundError("tenant: no such tenant") from exc
            # Keyed by the account: a repeat makes up for what an earlier call did not come to.
            welcome = await self._movements.welcome(tenant_id, new.account_id)
            begun = await self._plans.begin(tenant_id, new.account_id, request.plan_id)
            await self._limits.begin(tenant_id, new.account_id)
        if not replayed:
            await self._load(made.address)
        response = accounts_pb2.CreateAccountResponse(account=statements.account(made), replayed=replayed)
        if welcome is not None:
            response.welcome.CopyFrom(statements.grant(welcome))
        if begun is not None:
            response.subscription.CopyFrom(statements.subscription(begun.subscription))
        return response

    async def _load(self, address: str) -> None:
        """Brings a new account to Redis, so that servers that just heard that it does not exist find it. Can wait if a store is away."""
        with contextlib.suppress(errors.MeterdError, *hydration.POSTGRES_ERRORS):
            async with fold.locked(self._connections, address) as connection:
                await hydration.load(connection, self._store, address)

    async def get_account(
        self, tenant_id: str, request: accounts_pb2.GetAccountRequest
    ) -> accounts_pb2.GetAccountResponse:
        """See Accounts.GetAccount in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            message = statements.account(await self._catalog.account(tenant_id, account_id))
            _, sums = await self._plans.standing(tenant_id, account_id)
            top_up = await self._top_ups.of_account(tenant_id, account_id)
        message.lifetime.CopyFrom(statements.lifetime(sums))
        if top_up is not None:
            message.top_up.CopyFrom(top_up)
        return accounts_pb2.GetAccountResponse(account=message)

    async def update_account(
        self, tenant_id: str, request: accounts_pb2.UpdateAccountRequest
    ) -> accounts_pb2.UpdateAccountResponse:
        """See Accounts.UpdateAccount in accounts.proto."""
        overage = None
        if request.HasField("overage_policy"):
            overage = requests.checked_overage(request.overage_policy)
            if not overage:
                raise errors.InvalidArgumentError("overage_policy", "must be set if it is given")
        changed, projected = await self.change_settings(
            tenant_id,
            request.account_id,
            overage=overage,
            overdraft_limit_micros=request.overdraft_limit_micros
            if request.HasField("overdraft_limit_micros")
            else None,
            strict_expiry=request.strict_expiry if request.HasField("strict_expiry") else None,
            frozen=request.frozen if request.HasField("frozen") else None,
        )
        return accounts_pb2.UpdateAccountResponse(account=changed, projected=projected)

    async def change_settings(
        self,
        tenant_id: str,
        account_id: str,
        *,
        overage: ledger.Overage | None = None,
        overdraft_limit_micros: int | None = None,
        strict_expiry: bool | None = None,
        frozen: bool | None = None,
    ) -> tuple[accounts_pb2.Account, bool]:
        """The account with the settings that are given, and whether Redis has them already. A repeat writes nothing."""
        ids.checked_id(account_id, "account_id")
        if overdraft_limit_micros is not None:
            _checked_limit(overdraft_limit_micros)
        with hydration.postgres():
            changed, _ = await self._catalog.change_settings(
                tenant_id,
                account_id,
                overage=overage,
                overdraft_limit_micros=overdraft_limit_micros,
                strict_expiry=strict_expiry,
                frozen=frozen,
            )
        return statements.account(changed), await self._reach.reach(tenant_id, changed.address)

    async def grant(self, tenant_id: str, request: accounts_pb2.GrantRequest) -> accounts_pb2.GrantResponse:
        """See Accounts.Grant in accounts.proto."""
        new = _new_grant(tenant_id, request)
        with hydration.postgres():
            made, replayed = await self._catalog.add_grant(new)
        projected, balance = await self._project(tenant_id, made.address, made.wallet, made.change_no)
        return accounts_pb2.GrantResponse(
            grant=statements.grant(made),
            replayed=replayed,
            projected=projected,
            balance=replies.balance(balance) if balance else None,
        )

    async def _project(
        self, tenant_id: str, address: str, wallet: str, change_no: int
    ) -> tuple[bool, ledger.Balance | None]:
        """Whether Redis has the change, and the wallet after it."""
        try:
            applied = (await self._projector.project(address)).get(change_no)
            if applied is not None and not applied.already and applied.balance is not None:
                return True, applied.balance
            found = await self._store.account_at(address)
            if found is None:
                # Its changes are all in the ledger, or Redis lost it meanwhile.
                await self._hydrator.hydrate(tenant_id, address)
                found = await self._store.account_at(address)
        except errors.MeterdError:
            return False, None
        if found is None or found[0].change_no < change_no:
            return False, None
        return True, _balance_of(found[0], wallet, found[1])

    async def revoke_grant(
        self, tenant_id: str, request: accounts_pb2.RevokeGrantRequest
    ) -> accounts_pb2.RevokeGrantResponse:
        """See Accounts.RevokeGrant in accounts.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        grant_id = _checked_grant_id(request.grant_id)
        reason = ids.checked_text(request.reason, "reason", requests.REASON_BYTES_MAX)
        with hydration.postgres():
            made, replayed = await self._catalog.revoke_grant(
                tenant_id, grant_id=grant_id, idempotency_key=key, reason=reason
            )
        projected, balance = await self._project(tenant_id, made.grant.address, made.grant.wallet, made.change_no)
        with hydration.postgres():
            found = await queries.revoked(self._connections, tenant_id, grant_id)
        revoked_micros = found.revoked_micros
        if projected:
            for record in await self._unflushed(found.partition, found.cursor, found.address, found.last_seq):
                revoked_micros += sum(draw.amount_micros for draw in record.revoked if draw.grant_id == grant_id)
        return accounts_pb2.RevokeGrantResponse(
            revoked_micros=revoked_micros,
            replayed=replayed,
            projected=projected,
            balance=replies.balance(balance) if balance else None,
        )

    async def _unflushed(self, partition: int, cursor: str, address: str, last_seq: int) -> list[ledger.Record]:
        """The account's records that Postgres did not have when it told cursor and last_seq.

        UnavailableError if Postgres lags far behind.
        """
        found: list[ledger.Record] = []
        count = 0
        async for entry_id, fields in audit.entries_after(self._run, partition, cursor):
            count += 1
            if count > OUTBOX_ENTRIES_MAX:
                raise errors.UnavailableError("Postgres lags far behind; retry later")
            if address.encode() not in fields.get(b"r", b""):
                continue
            record = redis_ledger.decode_record(entry_id, fields)
            if record.address == address and record.seq > last_seq:
                found.append(record)
        return found

    async def get_balance(
        self, tenant_id: str, request: accounts_pb2.GetBalanceRequest
    ) -> accounts_pb2.GetBalanceResponse:
        """See Accounts.GetBalance in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        state, now_ms = await self._live(tenant_id, ids.account_address(tenant_id, account_id))
        grant_ids = [grant.grant_id for wallet in state.wallets for grant in wallet.grants]
        with hydration.postgres():
            # After Redis: what Postgres has by now, it had when this was asked, or later.
            standing = await queries.standing(self._connections, tenant_id, account_id)
            rows = await queries.grants(self._connections, tenant_id, grant_ids) if grant_ids else {}
            live, sums = await self._plans.standing(tenant_id, account_id)
        response = accounts_pb2.GetBalanceResponse(
            account_id=account_id,
            wallets=[
                statements.wallet(wallet, account_id, rows, now_ms)
                for wallet in sorted(state.wallets, key=_wallet_name)
            ],
            freshness_ms=await self._freshness_ms(standing, state.seq, now_ms),
            lifetime=statements.lifetime(sums),
        )
        statements.put_plan(response, state, live, now_ms)
        return response

    async def _live(self, tenant_id: str, address: str) -> tuple[ledger.AccountState, int]:
        """The account as Redis has it, loaded if need be, and Redis' time (ms)."""
        found = await self._store.account_at(address)
        if found is None:
            await self._hydrator.hydrate(tenant_id, address)
            found = await self._store.account_at(address)
        if found is None:
            raise errors.UnavailableError("account_id: not loaded; retry")
        return found

    async def _freshness_ms(self, standing: queries.Standing, seq: int, now_ms: int) -> int:
        if standing.last_seq >= seq:
            return 0
        if standing.is_parked:
            # Its next record is older than the cursor: at most as old as the last one that was written.
            return max(0, now_ms - standing.last_ms)
        oldest_ms = await audit.oldest_after_ms(self._run, standing.partition, standing.cursor)
        return max(0, now_ms - oldest_ms) if oldest_ms is not None else 0

    async def list_holds(
        self, tenant_id: str, request: accounts_pb2.ListHoldsRequest
    ) -> accounts_pb2.ListHoldsResponse:
        """See Accounts.ListHolds in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        size = pages.checked_size(request.page_size)
        address = ids.account_address(tenant_id, account_id)
        scope = f"holds {address}"
        after = pages.place(scope, request.page_token)
        await self._live(tenant_id, address)
        deadlines = [f"{at_ms:015d} {hold.hex}" for at_ms, hold in await self._store.deadlines(address)]
        left = [deadline for deadline in deadlines if deadline > after]
        found: list[types_pb2.Hold] = []
        for deadline in left[:size]:
            # Holds that ended since the deadlines were read are left out.
            view = await self._store.hold(tenant_id, address, uuid.UUID(hex=deadline.split(" ")[1]))
            if isinstance(view, ledger.Held):
                found.append(replies.hold(view, requests.decode(view.terms), self._books))
        return accounts_pb2.ListHoldsResponse(
            holds=found, next_page_token=pages.token(scope, left[size - 1]) if len(left) > size else ""
        )

    async def list_transactions(
        self, tenant_id: str, request: accounts_pb2.ListTransactionsRequest
    ) -> accounts_pb2.ListTransactionsResponse:
        """See Accounts.ListTransactions in accounts.proto. As of Postgres: GetBalance's freshness_ms says how old that is."""
        account_id = ids.checked_id(request.account_id, "account_id")
        size = pages.checked_size(request.page_size)
        scope = f"transactions {ids.account_address(tenant_id, account_id)}"
        before = pages.place(scope, request.page_token)
        with hydration.postgres():
            found = await queries.transactions(
                self._connections, tenant_id, account_id, before_seq=int(before or 2**62), count_max=size + 1
            )
        more = len(found) > size
        return accounts_pb2.ListTransactionsResponse(
            transactions=[statements.transaction(one) for one in found[:size]],
            next_page_token=pages.token(scope, str(found[size - 1].record.seq)) if more else "",
        )

    async def explain_settlement(
        self, tenant_id: str, request: accounts_pb2.ExplainSettlementRequest
    ) -> accounts_pb2.ExplainSettlementResponse:
        """See Accounts.ExplainSettlement in accounts.proto. explanations.UnexplainedError if the ledger contradicts itself."""
        account_id = ids.checked_id(request.account_id, "account_id")
        kind, txn = _settlement_id(request.id, ids.account_address(tenant_id, account_id))
        with hydration.postgres():
            durables = await queries.settlements(self._connections, tenant_id, account_id, txn)
        found = list(durables.transactions)
        at = durables.standing
        if not any(kind is None or one.record.kind == kind for one in found):
            late = await self._unflushed(at.partition, at.cursor, at.address, at.last_seq)
            found += [
                queries.Transaction(record=one) for one in late if one.txn == txn and one.kind in statements.ENDINGS
            ]
        wanted = [one for one in found if kind is None or one.record.kind == kind]
        if not wanted:
            raise errors.NotFoundError("id: no such settlement")
        record = wanted[-1].record
        expired_micros = 0
        if record.kind == ledger.Kind.COMMIT_LATE:
            expired_micros = sum(one.record.charged_micros for one in found if one.record.kind == ledger.Kind.EXPIRE)
        told = explanations.explain(record, expired_micros=expired_micros, quote=await self._fixed_price(record))
        return accounts_pb2.ExplainSettlementResponse(
            transaction=statements.transaction(wanted[-1]),
            usage=types_pb2.Usage(**told.usage) if told.usage else None,
            margin=told.margin,
            credit_value_usd=told.credit_value_usd,
            exact_micros=told.exact_micros,
            rounded_micros=told.rounded_micros,
            held_micros=record.held_before_micros,
            steps=told.steps,
        )

    async def _fixed_price(self, record: ledger.Record) -> pricing.Quote | None:
        """The price behind a hold of a feature or rate that was charged as reserved; None for other charges, or without the book."""
        terms = requests.decode(record.terms)
        kind, _, name = str(terms.get("item", "")).partition(":")
        charge = record.charged_micros + record.uncollected_micros
        if kind not in ("feature", "rate") or charge != record.held_before_micros or charge == 0:
            return None
        try:
            book = self._books.find(terms["pv"]) or await self._books.fetch(terms["pv"])
            if kind == "feature":
                quote = pricing.quote_feature(book, name, int(terms["qty"]), terms["at"])
            else:
                quote = pricing.quote_rate(book, name, terms["qty"], terms["at"])
        except errors.MeterdError:
            return None
        return quote if quote.amount_micros == charge else None


def _checked_limit(value: int) -> int:
    if value < 0:
        raise errors.InvalidArgumentError("overdraft_limit_micros", "must not be negative")
    return money.checked_micros(value, "overdraft_limit_micros")


def _account_conflict(new: catalog.NewAccount, old: catalog.Account) -> errors.AlreadyExistsError:
    """Names what differs from the account as it is now; its settings may have been changed since it was created."""
    for field, name in (
        ("overage", "overage_policy"),
        ("overdraft_limit_micros", "overdraft_limit_micros"),
        ("strict_expiry", "strict_expiry"),
    ):
        if getattr(new, field) != getattr(old, field):
            return errors.AlreadyExistsError(f"account_id: the account exists with another {name}")
    return errors.AlreadyExistsError("account_id: the account was created with other settings")


def _checked_time_ms(value: Timestamp, field: str) -> int:
    """Milliseconds since 1970, rounded down; from 1970 to 9999."""
    if not 0 <= value.nanos < 1_000_000_000:
        raise errors.InvalidArgumentError(field, "nanos must be from 0 to 999999999")
    at_ms = value.seconds * 1000 + value.nanos // 1_000_000
    if not 0 < at_ms <= TIME_MAX_MS:
        raise errors.InvalidArgumentError(field, "must be after 1970 and before 10000")
    return at_ms


def _new_grant(tenant_id: str, request: accounts_pb2.GrantRequest) -> catalog.NewGrant:
    if not 1 <= request.category <= 7:
        raise errors.InvalidArgumentError("category", "must be set" if request.category == 0 else "unknown value")
    if abs(request.priority) > PRIORITY_MAX:
        raise errors.InvalidArgumentError("priority", f"must be from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    effective_ms = _checked_time_ms(request.effective_at, "effective_at") if request.HasField("effective_at") else None
    expires_ms = _checked_time_ms(request.expires_at, "expires_at") if request.HasField("expires_at") else 0
    if expires_ms and effective_ms is not None and expires_ms <= effective_ms:
        raise errors.InvalidArgumentError("expires_at", "must be after effective_at")
    return catalog.NewGrant(
        tenant_id=tenant_id,
        account_id=ids.checked_id(request.account_id, "account_id"),
        idempotency_key=ids.checked_id(request.idempotency_key, "idempotency_key"),
        wallet=ids.checked_wallet(request.wallet),
        amount_micros=requests.checked_amount(request.amount_micros, "amount_micros"),
        category=int(request.category),
        priority=request.priority,
        effective_ms=effective_ms,
        expires_ms=expires_ms,
        source_id=ids.checked_text(request.source_id, "source_id", ids.ID_BYTES_MAX),
    )


def _checked_grant_id(value: str) -> uuid.UUID:
    try:
        parsed = uuid.UUID(value)
    except ValueError as exc:
        raise errors.InvalidArgumentError("grant_id", "must be the grant_id that Grant answered") from exc
    if str(parsed) != value:
        raise errors.InvalidArgumentError("grant_id", "must be the grant_id that Grant answered")
    return parsed


def _settlement_id(value: str, address: str) -> tuple[ledger.Kind | None, uuid.UUID]:
    """The kind, if the id names one, and the UUID of a settlement. A hold of another account is as unknown as one that never was."""
    text = ids.checked_id(value, "id")
    head, dot, tail = text.partition(".")
    if dot and tail != address:
        ids.parse_hold_id(text, "id")
        raise errors.NotFoundError("id: no such settlement")
    kind = None
    if len(head) == 37:
        if head[0] not in {ending.value for ending in statements.ENDINGS}:
            raise errors.InvalidArgumentError("id", "must be a hold_id, an idempotency_key or a settlement_id")
        kind, head = ledger.Kind(head[0]), head[1:]
    try:
        parsed = uuid.UUID(head)
    except ValueError as exc:
        raise errors.InvalidArgumentError("id", "must be a hold_id, an idempotency_key or a settlement_id") from exc
    return kind, parsed


def _balance_of(state: ledger.AccountState, wallet: str, now_ms: int) -> ledger.Balance | None:
    for found in state.wallets:
        if found.wallet == wallet:
            free = ledger.available_micros(found, now_ms)
            return ledger.Balance(
                wallet=wallet, available_micros=free, held_micros=found.held_micros, seq=state.seq, epoch=state.epoch
            )
    return None


def _wallet_name(wallet: ledger.WalletState) -> str:
    return wallet.wallet
