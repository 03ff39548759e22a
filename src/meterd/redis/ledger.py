"""The ledger in Redis: each verb is one script call."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from meterd.core import errors, ids, ledger
from meterd.core import limits as core_limits
from meterd.redis import decoding, keys, limits, packing, runner, scripts

# The outbox keeps what Postgres has not got yet and a retention window; beyond this Reserve and Charge are refused.
OUTBOX_LENGTH_MAX = 2_000_000
TOMBSTONE_TTL_MS = 60 * 60 * 1000
# One expiry sweep of a wallet writes at most this many records, so that no script runs long.
GRANT_EXPIRIES_PER_CALL_MAX = 50
_SCAN_COUNT = 500

# By the first word of an ending.
_KINDS = {
    "2": ledger.Kind.COMMIT,
    "3": ledger.Kind.COMMIT_LATE,
    "4": ledger.Kind.RELEASE,
    "5": ledger.Kind.EXPIRE,
    "6": ledger.Kind.CHARGE,
}
_STATES = {
    "C": ledger.State.COMMITTED,
    "L": ledger.State.COMMITTED_LATE,
    "R": ledger.State.RELEASED,
    "E": ledger.State.EXPIRED,
}
# What the scripts have in the place of a hold's state for a charge, which is no hold.
_CHARGE = 6
# The overage policy of a hold that an unlimited plan paid for.
_FREE = str(int(ledger.Overage.FREE))


class RedisLedger:
    """Implements core.ledger.Ledger on one Redis.

    `sentinels` holds each partition's expected sentinel, None while the partition is fenced; the fence keeps it. `on_fence` is told of a
    partition whose Redis is not what it should be.
    """

    def __init__(
        self,
        run: runner.Runner,
        *,
        partitions: int,
        tombstone_ttl_ms: int = TOMBSTONE_TTL_MS,
        outbox_length_max: int = OUTBOX_LENGTH_MAX,
        holds_max: int = ledger.HOLDS_PER_ACCOUNT_MAX,
        on_fence: Callable[[int, str], None] | None = None,
    ) -> None:
        self._run = run
        self.partitions = partitions
        self.tombstone_ttl_ms = tombstone_ttl_ms
        self._ttl = str(tombstone_ttl_ms)
        self._outbox_length_max = outbox_length_max
        self._holds_max = holds_max
        self._on_fence = on_fence
        self.sentinels: list[bytes | None] = [None] * partitions
        self.scripts = dict(scripts.read_all())

    async def reserve(self, command: ledger.Reserve) -> ledger.ReserveOutcome:
        place = keys.places(command.address, self.partitions)
        hold = command.hold
        args = (
            command.wallet,
            packing.wants(command, self._holds_max, self._outbox_length_max),
            packing.head(command),
            hold.hex + command.address,
        )
        try:
            reply = await self._evalsha("reserve", place, hold, args)
        except runner.NoScriptError:
            self._unloaded(place.partition)
            raise
        if isinstance(reply, bytes):
            return self._reserved(reply, command, place.partition)
        code = reply[0]
        if code == b"HELD":
            return self._held(reply, hold, command.address, place.partition)
        if code == b"SETTLED":
            return self._ended_hold(reply, command, place.partition)
        return self._undecided_reserve(reply, command.wallet, place.partition)

    async def commit(self, command: ledger.Commit, late: tuple[str | bytes, ...] = ()) -> ledger.SettleOutcome:
        """`late` is what the script needs of a hold that only Postgres remembers."""
        place = keys.places(command.address, self.partitions)
        hold = command.hold
        hold_hex = hold.hex
        args = (
            command.tenant_id,
            packing.comes_to(command),
            command.digest.hex(),
            command.detail,
            self._ttl,
            hold_hex + command.address,
            hold_hex,
            command.address,
            *late,
        )
        try:
            reply = await self._evalsha("commit", place, hold, args)
        except runner.NoScriptError:
            self._unloaded(place.partition)
            raise
        return self._settled(reply, hold, place.partition)

    async def commit_late(self, command: ledger.CommitLate) -> ledger.SettleOutcome:
        late = (
            command.wallet,
            str(int(command.overage)),
            command.terms,
            str(command.held_micros),
            str(command.charged_micros),
        )
        return await self.commit(command.commit, late)

    async def release(self, command: ledger.Release) -> ledger.SettleOutcome:
        partition, names = self._hold_keys(command.address, command.hold)
        hold_hex = command.hold.hex
        args = (command.tenant_id, command.detail, self._ttl, hold_hex + command.address, hold_hex, command.address)
        return self._settled(await self._call("release", partition, names, args), command.hold, partition)

    async def extend(self, command: ledger.Extend) -> ledger.Held | ledger.Denied:
        partition, names = self._hold_keys(command.address, command.hold)
        member = keys.deadline_member(command.address, command.hold)
        args = (command.tenant_id, str(command.ttl_ms), str(command.amount_micros), member)
        reply = await self._call("extend", partition, names, args)
        if reply[0] == b"DENIED":
            return self._denied(reply, "", partition)
        return self._open_hold(reply, command.hold, command.address, partition)

    async def report(self, command: ledger.Report) -> ledger.Held:
        partition, names = self._hold_keys(command.address, command.hold)
        args = (command.tenant_id, str(command.used_micros), command.detail)
        reply = await self._call("report", partition, names, args)
        return self._open_hold(reply, command.hold, command.address, partition)

    async def charge(self, command: ledger.Charge) -> ledger.ChargeOutcome:
        partition, names = self._hold_keys(command.address, command.charge)
        args = (
            command.wallet,
            str(command.amount_micros),
            command.digest.hex(),
            str(int(command.overage)),
            command.terms,
            command.detail,
            self._ttl,
            "1" if command.replay_only else "0",
            str(self._outbox_length_max),
            command.charge.hex,
            command.address,
        )
        reply = await self._call("charge", partition, names, args)
        if reply[0] == b"DENIED":
            return self._denied(reply, command.wallet, partition)
        return self._settled(reply, command.charge, partition)

    async def hold(self, tenant_id: str, address: str, hold: uuid.UUID) -> ledger.Held | ledger.Settled | None:
        partition, names = self._hold_keys(address, hold)
        reply = await self._call("peek", partition, names, (tenant_id,))
        if reply[0] == b"NOHOLD":
            return None
        if reply[0] == b"HELD":
            return self._held(reply, hold, address, partition)
        outcome = self._settled(reply, hold, partition)
        assert isinstance(outcome, ledger.Settled)
        late = reply[1].partition(b"\n")[2]
        return dataclasses.replace(outcome, terms=late.split(b" ", 3)[3]) if late else outcome

    async def expire(self, address: str, hold: uuid.UUID) -> ledger.Settled | None:
        """Ends a hold whose time is up; None if there is nothing to end (yet)."""
        partition, names = self._hold_keys(address, hold)
        args = (self._ttl, keys.deadline_member(address, hold), hold.hex, address)
        reply = await self._call("expire", partition, names, args)
        if reply[0] in (b"EARLY", b"GONE"):
            return None
        outcome = self._settled(reply, hold, partition)
        assert isinstance(outcome, ledger.Settled)
        return outcome

    async def expire_grants(self, address: str) -> int:
        """Forfeits what is left of the account's grants whose time is up; answers how many it ended."""
        state = await self.account(address)
        partition = ids.partition_of(address, self.partitions)
        ended, soonest = 0, 0
        for wallet in state.wallets if state else ():
            names = (keys.account(partition, address), keys.outbox(partition), keys.grant_expiries(partition))
            args = (address, wallet.wallet, str(GRANT_EXPIRIES_PER_CALL_MAX))
            reply = await self._call("expire_grants", partition, names, args)
            self._raise_unless(reply, b"EXPIRED", partition)
            ended += reply[1]
            if (after := reply[2]) and (soonest == 0 or after < soonest):
                soonest = after
        names = (keys.account(partition, address), keys.grant_expiries(partition))
        await self._call("deadline", partition, names, (address, str(soonest), str(state.change_no if state else 0)))
        return ended

    async def apply(self, address: str, change: ledger.Change) -> ledger.Applied:
        partition = ids.partition_of(address, self.partitions)
        number = str(change.change_no)
        names: tuple[str, ...] = (
            keys.account(partition, address),
            keys.outbox(partition),
            keys.grant_expiries(partition),
        )
        wallet = ""
        match change:
            case ledger.GrantChange():
                verb, wallet = "grant", change.wallet
                args = (
                    number,
                    change.grant_id.hex,
                    wallet,
                    str(change.amount_micros),
                    str(change.category),
                    str(change.priority),
                    str(change.effective_ms),
                    str(change.expires_ms),
                    address,
                    str(ledger.GRANTS_PER_WALLET_MAX),
                )
            case ledger.RevokeChange():
                verb, wallet = "revoke", change.wallet
                args = (number, change.revocation_id.hex, wallet, change.grant_id.hex, address)
            case ledger.ClawBackChange():
                verb, wallet = "clawback", change.wallet
                preferred = "".join(grant_id.hex for grant_id in change.grant_ids)
                args = (number, change.claw_back_id.hex, wallet, str(change.amount_micros), address, preferred)
            case ledger.SettingsChange():
                verb, names = "settings", (*names[:2], keys.counters(partition, address))
                flags = (str(int(change.strict_expiry)), str(int(change.frozen)))
                overage = str(int(change.overage))
                head = (number, change.change_id.hex, overage, str(change.overdraft_limit_micros))
                args = (*head, *flags, address, *packing.plan_args(change.plan), packing.limits_arg(change.limits))
        reply = await self._call(verb, partition, names, args)
        if reply[0] not in (b"APPLIED", b"ALREADY"):
            self._raise(reply, partition)
        return self._applied(reply, wallet, partition)

    def _applied(self, reply: runner.Reply, wallet: str, partition: int) -> ledger.Applied:
        already = reply[0] == b"ALREADY"
        rest = reply[1:] if already else reply[2:]
        balance = self._balance(wallet, rest[0], rest[1], rest[2], partition) if rest else None
        amount = 0 if already or len(reply) < 2 else reply[1]
        return ledger.Applied(already=already, amount_micros=amount, balance=balance)

    async def load(self, state: ledger.AccountState) -> bool:
        """Puts the folded account into Redis; False if it was there already."""
        partition = ids.partition_of(state.address, self.partitions)
        address = state.address
        names = (
            keys.account(partition, address),
            keys.grant_expiries(partition),
            keys.counters(partition, address),
        )
        reply = await self._call("load", partition, names, packing.load_args(state))
        if reply[0] == b"ALREADY":
            return False
        self._raise_unless(reply, b"LOADED", partition)
        return True

    async def limit_uses(self, address: str) -> Sequence[core_limits.Use]:
        """What the account's limits have counted, by limit and value. Scans its counters; not for the hot path."""
        partition = ids.partition_of(address, self.partitions)
        names = (keys.account(partition, address), keys.counters(partition, address))
        found, cursor = dict[str, core_limits.Use](), b"0"
        while True:
            reply = await self._call("uses", partition, names, (cursor, str(_SCAN_COUNT)))
            self._raise_unless(reply, b"USES", partition)
            found |= {use.field: use for use in limits.uses(reply[2], reply[4], now_ms=reply[1])}
            cursor = reply[3]
            if cursor == b"0":
                return sorted(found.values(), key=core_limits.use_key)

    async def tidy_limits(self, address: str, cursor: bytes = b"0") -> tuple[int, bytes]:
        """Removes some counters that count no more; answers how many, and where to go on (b"0": at the end)."""
        partition = ids.partition_of(address, self.partitions)
        names = (keys.account(partition, address), keys.counters(partition, address))
        reply = await self._call("tidy", partition, names, (cursor, str(_SCAN_COUNT)))
        self._raise_unless(reply, b"TIDIED", partition)
        return reply[1], reply[2]

    async def account(self, address: str) -> ledger.AccountState | None:
        """The account as Redis has it, None if it is not loaded."""
        found = await self.account_at(address)
        return found[0] if found else None

    async def account_at(self, address: str) -> tuple[ledger.AccountState, int] | None:
        """The account and the Redis time (ms) at which it was so."""
        partition = ids.partition_of(address, self.partitions)
        reply = await self._call("account", partition, (keys.account(partition, address),), ())
        if reply[0] == b"NOTLOADED":
            return None
        self._raise_unless(reply, b"ACCOUNT", partition)
        return self.account_state(reply, address), reply[1]

    async def deadlines(self, address: str) -> list[tuple[int, uuid.UUID]]:
        """When the account's open holds expire (ms), soonest first. Scans the partition's deadlines; not for the hot path."""
        partition = ids.partition_of(address, self.partitions)
        cursor, found = b"0", set[tuple[int, uuid.UUID]]()
        while True:
            command = ("ZSCAN", keys.deadlines(partition), cursor, "MATCH", f"*{address}", "COUNT", str(_SCAN_COUNT))
            cursor, pairs = await self._run.command(command)
            for member, score in zip(pairs[::2], pairs[1::2], strict=True):
                found.add((int(float(score)), keys.parse_deadline_member(member.decode())[0]))
            if cursor == b"0":
                return sorted(found)

    async def holds(self, address: str) -> Sequence[ledger.Held]:
        """Open holds of the account, soonest to expire first; as costly as `deadlines`."""
        found = await self.deadlines(address)
        state = await self.account(address)
        views = [await self.hold(state.tenant_id, address, hold) for _, hold in found] if state else []
        return [view for view in views if isinstance(view, ledger.Held)]

    def forgot_before_ms(self, address: str) -> int:
        born_ms = decoding.born_ms_of(self.sentinels[ids.partition_of(address, self.partitions)])
        return born_ms + ids.ID_AHEAD_MAX_MS if born_ms else 0

    def _hold_keys(self, address: str, hold: uuid.UUID) -> tuple[int, tuple[str, ...]]:
        place = keys.places(address, self.partitions)
        return place.partition, (place.account, place.outbox, place.deadlines, place.hold(hold), place.counters)

    def _evalsha(
        self, verb: str, place: keys.Places, hold: uuid.UUID, args: tuple[bytes | str, ...]
    ) -> asyncio.Future[runner.Reply]:
        """The reply to come of a verb about a hold: `_call` for the hot path, which saves a coroutine."""
        sentinel = self.sentinels[place.partition]
        if sentinel is None:
            raise self._fenced(place.partition)
        names = (place.sentinel, place.account, place.outbox, place.deadlines, place.hold(hold), place.counters)
        return self._run.evalsha(self.scripts[verb], names, (sentinel, *args))

    async def _call(
        self, verb: str, partition: int, names: tuple[str, ...], args: tuple[bytes | str, ...]
    ) -> runner.Reply:
        sentinel = self.sentinels[partition]
        if sentinel is None:
            raise self._fenced(partition)
        try:
            return await self._run.evalsha(self.scripts[verb], (keys.sentinel(partition), *names), (sentinel, *args))
        except runner.NoScriptError:
            self._unloaded(partition)
            raise

    def _fenced(self, partition: int) -> errors.UnavailableError:
        return errors.UnavailableError(f"partition {partition} is fenced; retry with the same id")

    def _unloaded(self, partition: int) -> None:
        self._fence(partition, "scripts are not loaded: Redis was restarted or flushed")

    def _fence(self, partition: int, reason: str) -> None:
        self.sentinels[partition] = None
        if self._on_fence is not None:
            self._on_fence(partition, reason)

    def _raise_unless(self, reply: runner.Reply, code: bytes, partition: int) -> None:
        if reply[0] != code:
            self._raise(reply, partition)

    def _raise(self, reply: runner.Reply, partition: int) -> Any:
        match reply[0]:
            case b"FENCED":
                found = (
                    f"the sentinel {reply[1].decode()!r}" if reply[1] else "no sentinel: it is empty, or was flushed"
                )
                self._fence(partition, f"Redis has {found}")
                raise self._fenced(partition)
            case b"NOTLOADED":
                raise errors.AccountNotLoadedError("account_id: not loaded")
            case b"NOHOLD":
                raise errors.NotFoundError("hold_id: no such hold")
            case b"NOWALLET":
                raise errors.NotFoundError("wallet: no such wallet")
            case b"STATE" if reply[1] == _CHARGE:
                raise errors.NotFoundError("hold_id: no such hold")
            case b"STATE":
                state = ledger.State(reply[1]).name.lower()
                raise errors.FailedPreconditionError(f"hold_id: the hold has ended as {state}")
            case b"STRICT":
                raise errors.FailedPreconditionError(
                    "hold_id: the hold has expired, and the account refuses late commits"
                )
            case b"CONFLICT":
                raise errors.ConflictError(reply[3] if len(reply) > 3 else b"")
            case b"FULL":
                raise errors.OverloadedError("too many records wait for Postgres, or the wallet has too many grants")
            case b"RANGE":
                raise errors.OutOfRangeError("amount_micros", "the account's total would pass 2^53 − 1 micro-credits")
            case b"BADARG":
                raise errors.OutOfRangeError("amount_micros", f"Redis refused argument {reply[1].decode()}")
            case _:
                raise AssertionError(f"ledger: {reply!r}")

    def _balance(self, wallet: str, available: int, held: int, seq: int, partition: int) -> ledger.Balance:
        epoch = decoding.epoch_of(self.sentinels[partition])
        return ledger.Balance(wallet=wallet, available_micros=available, held_micros=held, seq=seq, epoch=epoch)

    def _reserved(self, reply: bytes, command: ledger.Reserve, partition: int) -> ledger.Held:
        available, held, seq, amount, created_ms, overage, draws = decoding.new_hold(reply)
        return ledger.Held(
            hold=command.hold,
            address=command.address,
            wallet=command.wallet,
            amount_micros=amount,
            state=ledger.State.OPEN,
            created_ms=created_ms,
            expires_ms=created_ms + command.ttl_ms,
            draws=draws,
            terms=command.terms,
            replayed=False,
            balance=self._balance(command.wallet, available, held, seq, partition),
            unlimited=overage == ledger.Overage.FREE,
        )

    def _held(self, reply: runner.Reply, hold: uuid.UUID, address: str, partition: int) -> ledger.Held:
        wallet, amount, created, expires, reported, available, held, seq, slices, overage = reply[2].decode().split(" ")
        return ledger.Held(
            hold=hold,
            address=address,
            wallet=wallet,
            amount_micros=int(amount),
            state=ledger.State.OPEN,
            created_ms=int(created),
            expires_ms=int(expires),
            draws=decoding.draws(slices),
            terms=reply[3],
            replayed=reply[1] == 1,
            balance=self._balance(wallet, int(available), int(held), int(seq), partition),
            reported_micros=int(reported),
            unlimited=overage == _FREE,
        )

    def _open_hold(self, reply: runner.Reply, hold: uuid.UUID, address: str, partition: int) -> ledger.Held:
        self._raise_unless(reply, b"HELD", partition)
        return self._held(reply, hold, address, partition)

    def _ended_hold(self, reply: runner.Reply, command: ledger.Reserve, partition: int) -> ledger.Held:
        settled = self._settled(reply, command.hold, partition)
        assert isinstance(settled, ledger.Settled)
        return ledger.Held(
            hold=command.hold,
            address=command.address,
            wallet=settled.balance.wallet,
            amount_micros=int(reply[1].split(b" ", 9)[8]),
            state=_STATES[settled.kind],
            created_ms=ids.uuid7_ms(command.hold),
            expires_ms=settled.at_ms,
            draws=(),
            terms=b"",
            replayed=True,
            balance=settled.balance,
        )

    def _settled(self, reply: runner.Reply, txn: uuid.UUID, partition: int) -> ledger.Settled | ledger.AskDurable:
        replayed = not isinstance(reply, bytes)
        if replayed:
            if reply[0] == b"ASK" or reply[0] == b"NOHOLD":
                return ledger.AskDurable()
            self._raise_unless(reply, b"SETTLED", partition)
            reply = reply[1]
        ended: str = reply.decode().partition("\n")[0]
        state, _, _, available, held, seq, at, wallet, _, _, *amounts, drawn, _, _ = ended.split(" ")
        charged, returned, uncollected, forfeited, _revoked = amounts
        return ledger.Settled(
            kind=_KINDS[state],
            txn=txn,
            charged_micros=int(charged),
            returned_micros=int(returned),
            uncollected_micros=int(uncollected),
            forfeited_micros=int(forfeited),
            at_ms=int(at),
            draws=decoding.draws(drawn),
            replayed=replayed,
            balance=self._balance(wallet, int(available), int(held), int(seq), partition),
        )

    def _denied(self, reply: runner.Reply, wallet: str, partition: int) -> ledger.Denied:
        code, balance = ledger.DenialCode(reply[1]), self._balance(wallet, reply[2], reply[5], reply[6], partition)
        if code == ledger.DenialCode.LIMIT_EXCEEDED:
            return ledger.Denied(
                code=code,
                available_micros=reply[2],
                required_micros=reply[3],
                limit=0,
                balance=balance,
                exceeded=limits.exceeded(reply[7]),
                also=ledger.DenialCode(reply[4]) if reply[4] else None,
            )
        return ledger.Denied(
            code=code,
            available_micros=reply[2],
            required_micros=reply[3],
            limit=reply[4],
            balance=balance,
            used=reply[7] if len(reply) > 7 else 0,
            resets_ms=reply[8] if len(reply) > 7 else 0,
        )

    def _undecided_reserve(self, reply: runner.Reply, wallet: str, partition: int) -> ledger.Denied | ledger.AskDurable:
        if reply[0] == b"DENIED":
            return self._denied(reply, wallet, partition)
        if reply[0] == b"ASK":
            return ledger.AskDurable()
        return self._raise(reply, partition)

    def account_state(self, reply: runner.Reply, address: str) -> ledger.AccountState:
        """What the script `account` answered, as a value."""
        sentinel = self.sentinels[ids.partition_of(address, self.partitions)]
        tenant, account, txn, seq, change, granted, _worth, held, spent, expired, revoked, holds, *settings = reply[2]
        policy, overdraft, strict, frozen, until_ms, unlimited, per_day, day, actions = settings
        return ledger.AccountState(
            tenant_id=tenant.decode(),
            account_id=account.decode(),
            address=address,
            seq=seq,
            last_txn=txn.decode(),
            change_no=change,
            granted_micros=granted,
            spent_micros=spent,
            expired_micros=expired,
            revoked_micros=revoked,
            overage=ledger.Overage(policy),
            overdraft_limit_micros=overdraft,
            strict_expiry=strict == 1,
            frozen=frozen == 1,
            wallets=[packing.wallet_state(wallet) for wallet in sorted(reply[3])],
            held_micros=held,
            epoch=decoding.epoch_of(sentinel),
            holds_open=holds,
            plan=ledger.PlanRule(
                until_ms=until_ms,
                unlimited=unlimited == 1,
                actions_per_day=per_day,
                blocked_wallets=reply[4].decode().split(),
            ),
            actions=actions,
            actions_day=day,
            limits=limits.defined(reply[5]),
        )


def decode_record(entry_id: str, fields: dict[bytes, bytes]) -> ledger.Record:
    """One outbox entry as a value; KeyError or ValueError if it is not one."""
    parts = fields[b"r"].decode().split(" ")
    kind, txn, prev, address, epoch, seq, at, wallet, *amounts = parts[:15]
    held, granted, charged, returned, uncollected, expired, revoked = amounts
    drawn, forfeits, revocations, balance, debt, wallet_held, held_after, change, digest, policy = parts[15:]
    return ledger.Record(
        entry_id=entry_id,
        kind=ledger.Kind(kind),
        txn=ids.parsed_uuid(txn),
        prev_txn="" if prev == "-" else prev,
        address=address,
        epoch=int(epoch),
        seq=int(seq),
        at_ms=int(at),
        wallet="" if wallet == "-" else wallet,
        held_before_micros=int(held),
        granted_micros=int(granted),
        charged_micros=int(charged),
        returned_micros=int(returned),
        uncollected_micros=int(uncollected),
        expired_micros=int(expired),
        revoked_micros=int(revoked),
        drawn=decoding.draws(drawn),
        expired=decoding.draws(forfeits),
        revoked=decoding.draws(revocations),
        balance_after_micros=int(balance),
        debt_after_micros=int(debt),
        wallet_held_after_micros=int(wallet_held),
        held_after_micros=int(held_after),
        change_no=int(change),
        request_digest=b"" if digest == "-" else bytes.fromhex(digest),
        overage=ledger.Overage(int(policy)),
        terms=fields[b"m"],
        detail=fields[b"j"],
    )
