"""The scripts themselves, called with what no caller may pass: refused, or failed before the first write."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger
from meterd.redis import ledger as redis_ledger
from meterd.redis import scripts
from tests import ledgers

ADDRESS = ids.account_address("t", "acct")
OPEN = ids.uuid7(ledgers.START_MS)
CHARGED = ids.uuid7(ledgers.START_MS)
NEW = ids.uuid7(ledgers.START_MS)
NO_NUMBERS = [
    "",
    "-1",
    "1.5",
    "nan",
    "inf",
    "0x10",
    "1e3",
    " 1",
    "1 ",
    "+1",
    "9007199254740992",
    "9" * 400,
    "1\0",
    "🦊",
]

# A call of each verb that would be done, and which of its ARGV are amounts, times and numbers of changes.
CASES: dict[str, tuple[Callable[[ledger.Ledger], Awaitable[object]], tuple[int, ...]]] = {
    "reserve": (lambda book: book.reserve(ledgers.reserve(NEW, 100)), ()),
    "commit": (lambda book: book.commit(ledgers.commit(OPEN, 90)), ()),
    "extend": (
        lambda book: book.extend(
            ledger.Extend(tenant_id="t", address=ADDRESS, hold=OPEN, ttl_ms=900_000, amount_micros=400)
        ),
        (3, 4),
    ),
    "report": (
        lambda book: book.report(ledger.Report(tenant_id="t", address=ADDRESS, hold=OPEN, used_micros=7, detail=b"{}")),
        (3,),
    ),
    "charge": (lambda book: book.charge(ledgers.charge(NEW, 100)), (3,)),
    "grant": (
        lambda book: book.apply(ADDRESS, ledgers.grant_change(9, 100, expires_ms=ledgers.START_MS + 1)),
        (2, 5, 8, 9),
    ),
    "revoke": (
        lambda book: book.apply(
            ADDRESS,
            ledger.RevokeChange(
                change_no=9, revocation_id=uuid.UUID(int=77), grant_id=uuid.UUID(int=1), wallet="default"
            ),
        ),
        (2,),
    ),
    "settings": (
        lambda book: book.apply(
            ADDRESS,
            ledger.SettingsChange(
                change_no=9,
                change_id=uuid.UUID(int=78),
                overage=ledger.Overage.CAP,
                overdraft_limit_micros=0,
                strict_expiry=False,
                frozen=False,
            ),
        ),
        (2, 5, 9, 11),
    ),
    "clawback": (
        lambda book: book.apply(
            ADDRESS,
            ledger.ClawBackChange(change_no=9, claw_back_id=uuid.UUID(int=79), wallet="default", amount_micros=5_000),
        ),
        (2, 5),
    ),
    "load": (lambda book: book.load(ledgers.account_state("new")), (7, 8, 9, 10, 12, 16, 18, 19, 20)),
}
# Of those that take packed numbers: the argument, how many doubles at its start are amounts and times, and which of them no 0 may be.
PACKED = {"reserve": (3, 3, {2}), "commit": (3, 1, set[int]())}
# What is not a number stands for all that is held.
NAN_ALLOWED = {"reserve": False, "commit": True}
NO_DOUBLES = [-1.0, -0.5, 1.5, 1e-300, math.inf, -math.inf, 2.0**53, 1e300]
HOLD_VERBS: dict[str, Callable[[redis_ledger.RedisLedger, str, uuid.UUID], Awaitable[object]]] = {
    "commit": lambda book, tenant, hold: book.commit(ledgers.commit(hold, 1, tenant_id=tenant)),
    "release": lambda book, tenant, hold: book.release(
        ledger.Release(tenant_id=tenant, address=ADDRESS, hold=hold, detail=b"")
    ),
    "extend": lambda book, tenant, hold: book.extend(
        ledger.Extend(tenant_id=tenant, address=ADDRESS, hold=hold, ttl_ms=900_000, amount_micros=400)
    ),
    "report": lambda book, tenant, hold: book.report(
        ledger.Report(tenant_id=tenant, address=ADDRESS, hold=hold, used_micros=7, detail=b"{}")
    ),
}


class World:
    """A loaded account with an open hold and a charge."""

    def __init__(self, clocked: ledgers.Clocked) -> None:
        assert isinstance(clocked.book, redis_ledger.RedisLedger) and clocked.run is not None
        self.book, self.run = clocked.book, clocked.run

    async def dump(self) -> dict[bytes, bytes]:
        return {key: await self.run.command(("DUMP", key)) for key in sorted(await self.run.command(("KEYS", "*")))}

    async def call_of(self, verb: str) -> tuple[scripts.Script, tuple[str, ...], tuple[Any, ...]]:
        """What the ledger would pass to the script."""
        passed: list[Any] = []

        def note(*given: Any) -> Any:
            passed.extend(given)
            raise InterruptedError

        untyped: Any = self.run
        untyped.evalsha = note
        with pytest.raises(InterruptedError):
            await CASES[verb][0](self.book)
        del untyped.evalsha
        return passed[0], passed[1], passed[2]

    async def refused(self, script: scripts.Script, names: tuple[str, ...], args: tuple[Any, ...]) -> str:
        """The code of the refusal, DONE if there was none, or ERROR if the script raised."""
        try:
            reply = await self.run.evalsha(script, names, args)
        except errors.UnavailableError:
            return "ERROR"
        return "DONE" if isinstance(reply, bytes) else reply[0].decode()


@pytest_asyncio.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    clocked = await ledgers.on_redis(redis_url)
    await clocked.book.load(ledgers.account_state())
    await clocked.book.apply(ADDRESS, ledgers.grant_change(1, 10_000))
    await clocked.book.reserve(ledgers.reserve(OPEN, 300))
    await clocked.book.charge(ledgers.charge(CHARGED, 50))
    yield World(clocked)
    await clocked.close()


@pytest.mark.parametrize("verb", sorted(CASES))
async def test_what_is_no_number_in_range_writes_nothing(world: World, verb: str) -> None:
    script, names, args = await world.call_of(verb)
    before = await world.dump()
    for place in CASES[verb][1]:
        for text in NO_NUMBERS:
            spoilt = (*args[: place - 1], text, *args[place:])
            code = await world.refused(script, names, spoilt)
            assert code in ("BADARG", "ERROR", "BROKEN"), (verb, place, text, code)
            assert await world.dump() == before, (verb, place, text)
    assert await world.refused(script, names, args) not in ("BADARG", "ERROR", "BROKEN", "FENCED")
    assert await world.dump() != before


@pytest.mark.parametrize("verb", sorted(PACKED))
async def test_what_is_no_packed_number_in_range_writes_nothing(world: World, verb: str) -> None:
    script, names, args = await world.call_of(verb)
    place, count, positive = PACKED[verb]
    whole, before = args[place - 1], await world.dump()
    spoilt = [b"", whole[: 8 * count - 1], whole[:8]] if count > 1 else [b"", whole[:7]]
    for at in range(count):
        for number in [*NO_DOUBLES, *([0.0] if at in positive else []), *([] if NAN_ALLOWED[verb] else [math.nan])]:
            spoilt.append(whole[: 8 * at] + struct.pack("<d", number) + whole[8 * at + 8 :])
    for packed in spoilt:
        code = await world.refused(script, names, (*args[: place - 1], packed, *args[place:]))
        assert code in ("BADARG", "ERROR"), (verb, packed, code)
        assert await world.dump() == before, (verb, packed)
    assert await world.refused(script, names, args) == "DONE"
    assert await world.dump() != before


async def test_a_least_amount_above_the_amount_writes_nothing(world: World) -> None:
    script, names, args = await world.call_of("reserve")
    before = await world.dump()
    spoilt = struct.pack("<dd", 100, 101) + args[2][16:]
    assert await world.refused(script, names, (*args[:2], spoilt, *args[3:])) == "BADARG"
    assert await world.dump() == before


@pytest.mark.parametrize("verb", sorted(HOLD_VERBS))
@pytest.mark.parametrize("tenant", ["", "T", "other", "t\0", "{m:00}"])
async def test_another_tenant_finds_no_hold(world: World, verb: str, tenant: str) -> None:
    before = await world.dump()
    try:
        outcome = await HOLD_VERBS[verb](world.book, tenant, OPEN)
    except errors.NotFoundError:
        outcome = ledger.AskDurable()
    assert outcome == ledger.AskDurable()
    assert await world.dump() == before


@pytest.mark.parametrize("verb", sorted(HOLD_VERBS))
async def test_a_charge_is_no_hold(world: World, verb: str) -> None:
    """It shares the keys of holds, so that its id cannot be used twice."""
    before = await world.dump()
    try:
        outcome = await HOLD_VERBS[verb](world.book, "t", CHARGED)
    except errors.NotFoundError:
        outcome = ledger.AskDurable()
    assert outcome == ledger.AskDurable()
    assert await world.dump() == before


@pytest.mark.parametrize("verb", ["reserve", "charge"])
async def test_an_id_that_is_in_use_is_a_conflict_for_the_other_verb(world: World, verb: str) -> None:
    before = await world.dump()
    with pytest.raises(errors.ConflictError):
        if verb == "reserve":
            await world.book.reserve(ledgers.reserve(CHARGED, 50))
        else:
            await world.book.charge(ledgers.charge(OPEN, 300))
    assert await world.dump() == before


@pytest.mark.parametrize("wallet", ["", "other", "default ", "{m:00}:e", "c", "w:default", "\0"])
async def test_a_wallet_that_is_not_there_writes_nothing(world: World, wallet: str) -> None:
    before = await world.dump()
    for call in (ledgers.reserve(NEW, 1, wallet=wallet), ledgers.charge(NEW, 1, wallet=wallet)):
        with pytest.raises(errors.NotFoundError, match="wallet: no such wallet"):
            await (world.book.reserve(call) if isinstance(call, ledger.Reserve) else world.book.charge(call))
    assert await world.dump() == before


async def test_a_grant_that_would_pass_the_largest_total_writes_nothing(world: World) -> None:
    before = await world.dump()
    with pytest.raises(errors.OutOfRangeError):
        await world.book.apply(ADDRESS, ledgers.grant_change(9, 2**53 - 1))
    assert await world.dump() == before
