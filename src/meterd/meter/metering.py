"""The hot path's use cases: price it, ask the ledger once, answer.

They speak the protobuf messages themselves, so that no layer between the wire and the ledger only copies fields.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from meterd.core import errors, ids, ledger, pricing
from meterd.meter import holds, quotes, replies, requests
from meterd.pricing import books as price_books
from meterd_client.v1 import metering_pb2, types_pb2

T = TypeVar("T")

# How long a replay waits for what only Postgres can add to it. It has its answer already.
RETELL_S = 0.5


class Hydration(Protocol):
    """Loads an account from Postgres into the ledger; NotFoundError if there is none."""

    async def hydrate(self, tenant_id: str, address: str) -> None: ...


class Durable(Protocol):
    """The flushed ledger's answer for an id; UnavailableError while records may be missing."""

    async def settled(self, tenant_id: str, address: str, txn: uuid.UUID) -> holds.Durable | None: ...


class Metering:
    """Reserve, Commit, Release, Extend, Report, Charge and Estimate for one tenant's request at a time."""

    def __init__(
        self,
        book_ledger: ledger.Ledger,
        books: price_books.Books,
        *,
        hydration: Hydration,
        durable: Durable,
        count_tokens: Callable[[str, str], Awaitable[int]],
        clock_ms: Callable[[], int],
        tombstone_ttl_ms: int,
    ) -> None:
        self._ledger = book_ledger
        self._books = books
        self._hydration = hydration
        self._durable = durable
        self._count_tokens = count_tokens
        self._clock_ms = clock_ms
        # An id older than this may have lost its tombstone; 5 minutes are for clients whose clocks run ahead.
        self._young_ms = max(0, tombstone_ttl_ms - ids.ID_AHEAD_MAX_MS)
        self._terms = holds.TermsCache()

    async def reserve(self, tenant_id: str, request: metering_pb2.ReserveRequest) -> metering_pb2.ReserveResponse:
        """See Metering.Reserve in metering.proto."""
        now_ms = self._clock_ms()
        own_id, account_id = request.hold_id, request.account_id
        hold = ids.checked_uuid7(own_id, "hold_id", now_ms) if own_id else ids.uuid7(now_ms)
        address = ids.checked_address(tenant_id, account_id)
        own_wallet, ttl_ms, overage, expiry = requests.checked_conditions(
            request.wallet, request.ttl_ms, request.overage_policy, request.expiry_policy
        )
        digest = requests.digest(request)
        tokens = await self._prompt_tokens(request) if request.model.prompt else 0
        book = self._books.of(tenant_id)
        item = quotes.reserved(request, book, tokens, now_ms)
        wallet = own_wallet if request.wallet or not item.wallet else ids.checked_wallet(item.wallet)
        terms = item.terms
        terms["acct"] = account_id
        terms["rd"] = digest.hex()
        requests.add_subject(terms, request.subject)
        requests.add_metadata(terms, request.metadata)
        command = ledger.Reserve(
            tenant_id=tenant_id,
            address=address,
            hold=hold,
            wallet=wallet,
            amount_micros=item.amount_micros,
            amount_min_micros=item.amount_min_micros,
            digest=digest,
            ttl_ms=ttl_ms,
            overage=overage,
            expiry=expiry,
            terms=requests.encode(terms),
            replay_only=self._may_be_forgotten(address, hold, now_ms),
            said=terms,
        )
        # As `_with_account`, without the coroutine that every call would pay for.
        try:
            outcome = await self._ledger.reserve(command)
        except errors.AccountNotLoadedError:
            outcome = await self._reserve_loaded(command, terms)
        except errors.ConflictError as exc:
            raise requests.conflict("hold_id", exc.terms, terms) from exc
        if isinstance(outcome, ledger.AskDurable):
            outcome = await self._reserve_old(command, terms)
        if isinstance(outcome, ledger.Denied):
            return replies.denied_reserve(outcome, item, book)
        if isinstance(outcome, holds.Durable):
            return replies.durable_hold(outcome, account_id, address)
        if outcome.state is ledger.State.OPEN:
            if outcome.replayed:
                terms = requests.decode(outcome.terms)
            self._terms.put(tenant_id, holds.Terms(hold=hold, address=address, terms=terms))
        return replies.held(outcome, account_id, terms, self._books)

    async def _prompt_tokens(self, request: metering_pb2.ReserveRequest | metering_pb2.EstimateRequest) -> int:
        """Tokens of a prompt that is given as text."""
        prompt = request.model.prompt
        requests.check_prompt(prompt)
        return await self._count_tokens(request.model.model, prompt)

    async def _reserve_loaded(self, command: ledger.Reserve, terms: requests.Terms) -> ledger.ReserveOutcome:
        """Reserve of an account that Redis did not have."""
        await self._hydration.hydrate(command.tenant_id, command.address)
        try:
            return await self._ledger.reserve(command)
        except errors.ConflictError as exc:
            raise requests.conflict("hold_id", exc.terms, terms) from exc

    async def _reserve_old(
        self, command: ledger.Reserve, terms: requests.Terms
    ) -> ledger.Held | ledger.Denied | holds.Durable:
        """Reserve with an id so old that the durable record has to say whether it had its effect."""
        found = await self._durable.settled(command.tenant_id, command.address, command.hold)
        if found is not None:
            if found.terms.get("rd") != command.digest.hex():
                raise requests.conflict("hold_id", requests.encode(found.terms), terms)
            return found
        outcome = await self._ledger.reserve(ledger.fresh(command))
        assert not isinstance(outcome, ledger.AskDurable)
        return outcome

    async def commit(self, tenant_id: str, request: metering_pb2.CommitRequest) -> metering_pb2.CommitResponse:
        """See Metering.Commit in metering.proto."""
        id_text, kind = request.hold_id, request.WhichOneof("actual")
        digest = requests.digest(request)
        known = None if quotes.wants_reported(request, kind) else self._terms.get(tenant_id, id_text)
        if known is not None:
            hold, address = known.hold, known.address
        else:
            hold_id = ids.parse_hold_id(id_text)
            hold, address = hold_id.uuid, hold_id.address
            known = await self._peeked_terms(tenant_id, hold_id)
            if isinstance(known, holds.Durable):
                return await self._commit_durable(tenant_id, hold_id, request, digest, known)
        actual = quotes.NOTHING
        if known is not None:
            version = known.terms.get("pv", "")
            book = self._books.find(version) or await self._books.fetch(version)
            actual = quotes.committed(known.terms, request, kind, book, known.reported_micros)
        command = ledger.Commit(
            tenant_id=tenant_id,
            address=address,
            hold=hold,
            amount_micros=actual.amount_micros,
            digest=digest,
            detail=actual.detail,
            said=actual.said,
        )
        # As `_settle`, without the coroutines that every call would pay for.
        try:
            outcome = await self._ledger.commit(command)
        except errors.AccountNotLoadedError:
            await self._hydration.hydrate(tenant_id, address)
            outcome = await self._settle(tenant_id, address, lambda: self._ledger.commit(command))
        except errors.ConflictError as exc:
            raise _other_usage() from exc
        self._terms.drop(tenant_id, id_text)
        if isinstance(outcome, ledger.AskDurable):
            hold_id = ids.parse_hold_id(id_text)
            found = await self._ended(tenant_id, hold_id)
            return await self._commit_durable(tenant_id, hold_id, request, digest, found)
        response = replies.settled(metering_pb2.CommitResponse(), outcome, actual, id_text)
        if outcome.replayed:
            await self._retell(tenant_id, address, outcome, response.settlement)
        return response

    async def _book(self, terms: requests.Terms) -> pricing.PriceBook:
        version = terms.get("pv", "")
        return self._books.find(version) or await self._books.fetch(version)

    async def _commit_durable(
        self,
        tenant_id: str,
        hold_id: ids.HoldId,
        request: metering_pb2.CommitRequest,
        digest: bytes,
        found: holds.Durable,
    ) -> metering_pb2.CommitResponse:
        """Commit of a hold that Redis has forgotten: a replay, a late commit, or a refusal."""
        if found.kind in (ledger.Kind.COMMIT, ledger.Kind.COMMIT_LATE):
            if found.request_digest != digest:
                raise _other_usage()
            return metering_pb2.CommitResponse(settlement=replies.durable_settlement(found, hold_id), replayed=True)
        if found.kind != ledger.Kind.EXPIRE:
            raise errors.FailedPreconditionError("hold_id: the hold has ended as released")
        kind, book = request.WhichOneof("actual"), await self._book(found.terms)
        actual = quotes.committed(found.terms, request, kind, book, found.charged_micros)
        commit = ledger.Commit(
            tenant_id=tenant_id,
            address=hold_id.address,
            hold=hold_id.uuid,
            amount_micros=actual.amount_micros,
            digest=digest,
            detail=actual.detail,
        )
        late = ledger.CommitLate(
            commit=commit,
            wallet=found.wallet,
            overage=found.overage,
            terms=requests.encode(found.terms),
            held_micros=found.held_micros,
            charged_micros=found.charged_micros,
        )
        outcome = await self._settle(tenant_id, hold_id.address, lambda: self._ledger.commit_late(late))
        assert isinstance(outcome, ledger.Settled)
        return replies.settled(metering_pb2.CommitResponse(), outcome, actual, request.hold_id)

    async def _peeked_terms(self, tenant_id: str, hold_id: ids.HoldId) -> holds.Terms | holds.Durable | None:
        """What the hold is priced by, as the ledger has it; None for one that has ended in a way that needs no price."""
        view = await self._with_account(
            tenant_id, hold_id.address, lambda: self._ledger.hold(tenant_id, hold_id.address, hold_id.uuid)
        )
        match view:
            case ledger.Held():
                terms, reported_micros = view.terms, view.reported_micros
            case ledger.Settled(kind=ledger.Kind.CHARGE):
                # A charge shares the holds' keys; what has its id is no hold all the same.
                raise errors.NotFoundError("hold_id: no such hold")
            case ledger.Settled(kind=ledger.Kind.EXPIRE):
                terms, reported_micros = view.terms, view.charged_micros
            case ledger.Settled():
                return None
            case None:
                return await self._ended(tenant_id, hold_id)
        return holds.Terms(
            hold=hold_id.uuid, address=hold_id.address, terms=requests.decode(terms), reported_micros=reported_micros
        )

    def _may_be_forgotten(self, address: str, txn: uuid.UUID, now_ms: int) -> bool:
        """Whether Redis may have lost what the id did: its tombstone's time is over, or the partition was rebuilt since."""
        made_ms = ids.uuid7_ms(txn)
        return now_ms - made_ms > self._young_ms or made_ms < self._ledger.forgot_before_ms(address)

    async def _ended(self, tenant_id: str, hold_id: ids.HoldId) -> holds.Durable:
        """The durable end of a hold that Redis does not know; NotFoundError if there is none."""
        if self._may_be_forgotten(hold_id.address, hold_id.uuid, self._clock_ms()):
            found = await self._durable.settled(tenant_id, hold_id.address, hold_id.uuid)
            if found is not None and found.kind != ledger.Kind.CHARGE:
                return found
        raise errors.NotFoundError("hold_id: no such hold")

    async def release(self, tenant_id: str, request: metering_pb2.ReleaseRequest) -> metering_pb2.ReleaseResponse:
        """See Metering.Release in metering.proto."""
        hold_id = ids.parse_hold_id(request.hold_id)
        reason = ids.checked_text(request.reason, "reason", requests.REASON_BYTES_MAX)
        command = ledger.Release(
            tenant_id=tenant_id,
            address=hold_id.address,
            hold=hold_id.uuid,
            detail=requests.encode({"reason": reason}) if reason else b"",
        )
        outcome = await self._settle(tenant_id, hold_id.address, lambda: self._ledger.release(command))
        self._terms.drop(tenant_id, request.hold_id)
        if isinstance(outcome, ledger.AskDurable):
            found = await self._ended(tenant_id, hold_id)
            if found.kind != ledger.Kind.RELEASE:
                raise errors.FailedPreconditionError(f"hold_id: the hold has ended as {found.state.name.lower()}")
            return metering_pb2.ReleaseResponse(settlement=replies.durable_settlement(found, hold_id), replayed=True)
        return replies.settled(metering_pb2.ReleaseResponse(), outcome, quotes.NOTHING, request.hold_id)

    async def extend(self, tenant_id: str, request: metering_pb2.ExtendRequest) -> metering_pb2.ExtendResponse:
        """See Metering.Extend in metering.proto."""
        hold_id = ids.parse_hold_id(request.hold_id)
        if request.amount_micros:
            requests.checked_amount(request.amount_micros, "amount_micros")
        if request.ttl_ms == 0:
            raise errors.InvalidArgumentError("ttl_ms", "must be given")
        command = ledger.Extend(
            tenant_id=tenant_id,
            address=hold_id.address,
            hold=hold_id.uuid,
            ttl_ms=requests.checked_ttl_ms(request.ttl_ms),
            amount_micros=request.amount_micros,
        )
        outcome = await self._with_account(tenant_id, hold_id.address, lambda: self._ledger.extend(command))
        if isinstance(outcome, ledger.Denied):
            return metering_pb2.ExtendResponse(denial=replies.denial(outcome), balance=replies.balance(outcome.balance))
        terms = requests.decode(outcome.terms)
        reply = replies.held(outcome, terms.get("acct", ""), terms, self._books)
        return metering_pb2.ExtendResponse(hold=reply.hold, balance=reply.balance)

    async def report(self, tenant_id: str, request: metering_pb2.ReportRequest) -> metering_pb2.ReportResponse:
        """See Metering.Report in metering.proto."""
        hold_id = ids.parse_hold_id(request.hold_id)
        known = self._terms.get(tenant_id, request.hold_id)
        if known is None:
            known = await self._peeked_terms(tenant_id, hold_id)
        if not isinstance(known, holds.Terms):
            raise errors.FailedPreconditionError("hold_id: the hold has ended")
        book = await self._book(known.terms)
        progress = quotes.reported(known.terms, request, book)
        assert progress.amount_micros is not None
        command = ledger.Report(
            tenant_id=tenant_id,
            address=hold_id.address,
            hold=hold_id.uuid,
            used_micros=progress.amount_micros,
            detail=progress.detail,
        )
        held = await self._with_account(tenant_id, hold_id.address, lambda: self._ledger.report(command))
        return replies.reported(held, known.terms, request, progress, book)

    async def charge(self, tenant_id: str, request: metering_pb2.ChargeRequest) -> metering_pb2.ChargeResponse:
        """See Metering.Charge in metering.proto."""
        now_ms = self._clock_ms()
        if not request.idempotency_key:
            raise errors.InvalidArgumentError("idempotency_key", "must be a UUIDv7")
        charge = ids.checked_uuid7(request.idempotency_key, "idempotency_key", now_ms)
        account_id = ids.checked_id(request.account_id, "account_id")
        address = ids.account_address(tenant_id, account_id)
        terms: requests.Terms = {"acct": account_id}
        requests.add_subject(terms, request.subject)
        requests.add_metadata(terms, request.metadata)
        overage = requests.checked_overage(request.overage_policy) or ledger.Overage.ALL_OR_NOTHING
        actual = quotes.charged(request, self._books.of(tenant_id), now_ms)
        assert actual.amount_micros is not None
        command = ledger.Charge(
            tenant_id=tenant_id,
            address=address,
            charge=charge,
            wallet=ids.checked_wallet(request.wallet or actual.wallet),
            amount_micros=actual.amount_micros,
            digest=requests.digest(request),
            overage=overage,
            terms=requests.encode(terms | actual.terms),
            detail=actual.detail,
        )
        outcome = await self.settle_charge(command)
        own_id = ids.HoldId(uuid=charge, address=command.address)
        if isinstance(outcome, holds.Durable):
            return metering_pb2.ChargeResponse(settlement=replies.durable_settlement(outcome, own_id), replayed=True)
        if isinstance(outcome, ledger.Denied):
            return metering_pb2.ChargeResponse(denial=replies.denial(outcome), balance=replies.balance(outcome.balance))
        response = replies.settled(metering_pb2.ChargeResponse(), outcome, actual, str(own_id))
        if outcome.replayed:
            await self._retell(tenant_id, command.address, outcome, response.settlement)
        return response

    async def settle_charge(self, command: ledger.Charge) -> ledger.Settled | ledger.Denied | holds.Durable:
        """A charge that was priced already, once whatever comes: the ledger's answer, or that of a record which only Postgres has.

        AlreadyExistsError: the id was used with other content.
        """
        is_old = self._may_be_forgotten(command.address, command.charge, self._clock_ms())
        command = dataclasses.replace(command, replay_only=is_old)
        try:
            call = lambda: self._ledger.charge(command)  # noqa: E731
            outcome = await self._with_account(command.tenant_id, command.address, call)
        except errors.ConflictError as exc:
            raise errors.AlreadyExistsError("idempotency_key: used before with other content") from exc
        if not isinstance(outcome, ledger.AskDurable):
            return outcome
        found = await self._durable.settled(command.tenant_id, command.address, command.charge)
        if found is not None:
            if found.kind != ledger.Kind.CHARGE or found.request_digest != command.digest:
                raise errors.AlreadyExistsError("idempotency_key: used before with other content")
            return found
        outcome = await self._ledger.charge(ledger.fresh(command))
        assert not isinstance(outcome, ledger.AskDurable)
        return outcome

    async def estimate(self, tenant_id: str, request: metering_pb2.EstimateRequest) -> metering_pb2.EstimateResponse:
        """See Metering.Estimate in metering.proto."""
        now_ms = self._clock_ms()
        tokens = await self._prompt_tokens(request) if request.model.prompt else 0
        book = self._books.of(tenant_id)
        item = quotes.reserved(request, book, tokens, now_ms)
        if not request.account_id:
            return replies.estimate(item, book)
        account_id = ids.checked_id(request.account_id, "account_id")
        address = ids.account_address(tenant_id, account_id)
        wallet = ids.checked_wallet(request.wallet or item.wallet)
        state = await self._ledger.account(address)
        if state is None:
            await self._hydration.hydrate(tenant_id, address)
            state = await self._ledger.account(address)
        if state is None:
            raise errors.UnavailableError("account_id: not loaded; retry")
        return replies.estimate(item, book, state=state, wallet=wallet, now_ms=now_ms)

    async def _settle(
        self, tenant_id: str, address: str, call: Callable[[], Awaitable[ledger.SettleOutcome]]
    ) -> ledger.SettleOutcome:
        try:
            return await self._with_account(tenant_id, address, call)
        except errors.ConflictError as exc:
            raise _other_usage() from exc

    async def _retell(
        self, tenant_id: str, address: str, outcome: ledger.Settled, message: types_pb2.Settlement
    ) -> None:
        """Adds usage and prices to a replay, since a tombstone has no room for them. Nothing if Postgres does not have the record yet."""
        asking = asyncio.ensure_future(self._durable.settled(tenant_id, address, outcome.txn))
        # Left alone if it takes too long: a query that is cancelled waits for Postgres too.
        done, _ = await asyncio.wait((asking,), timeout=RETELL_S)
        if not done:
            asking.add_done_callback(_looked_at)
        elif not isinstance(asking.exception(), errors.UnavailableError):
            found = asking.result()
            if found is not None and found.kind is outcome.kind:
                replies.retell(message, found)

    async def _with_account(self, tenant_id: str, address: str, call: Callable[[], Awaitable[T]]) -> T:
        """`call`'s result; once more after hydration if the account was not loaded."""
        try:
            return await call()
        except errors.AccountNotLoadedError:
            await self._hydration.hydrate(tenant_id, address)
            return await call()


def _looked_at(done: asyncio.Future[holds.Durable | None]) -> None:
    if not done.cancelled():
        done.exception()


def _other_usage() -> errors.AlreadyExistsError:
    return errors.AlreadyExistsError("hold_id: committed before with other usage")
