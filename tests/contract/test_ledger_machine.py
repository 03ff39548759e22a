"""Random histories: the scripts on a real Redis must agree with the exact ledger in memory after each step."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import uuid
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from meterd.core import errors, ids, ledger, memory, money
from tests import ledgers

T = TypeVar("T")

ADDRESS = ids.account_address("t", "acct")
# A small pool, so that ids meet again.
IDS = [ids.uuid7(ledgers.START_MS) for _ in range(6)]
AMOUNTS = st.one_of(
    st.integers(0, 60),
    st.integers(0, 400),
    st.sampled_from([0, 1, 2**31, 2**53 - 2, 2**53 - 1]),
    st.integers(0, money.AMOUNT_MAX_MICROS),
)
SLOW_IS_FINE = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
# None is the hold that was reserved last: most of what a machine does should meet a hold.
HOLDS = st.one_of(st.none(), st.none(), st.sampled_from(IDS))
WALLETS = st.sampled_from(["default", "default", "other"])
DIGESTS = st.sampled_from([b"digest_1", b"digest_2"])
MILLIS = st.sampled_from([1, 999, 1_000, 5_000, 60_000])


def comparable(outcome: Any) -> Any:
    """An outcome or error as a value that both ledgers share."""
    if isinstance(outcome, Exception):
        return type(outcome).__name__
    if dataclasses.is_dataclass(outcome) and not isinstance(outcome, type):
        values = {field.name: comparable(getattr(outcome, field.name)) for field in dataclasses.fields(outcome)}
        if isinstance(outcome, ledger.Held) and outcome.state != ledger.State.OPEN:
            # A tombstone does not keep when the hold was made and would have expired, nor what was reported.
            for name in ("created_ms", "expires_ms", "reported_micros"):
                values.pop(name)
        if isinstance(outcome, ledger.Applied | ledger.Denied) and values.get("balance"):
            values["balance"].pop("wallet")
        return values
    if isinstance(outcome, list | tuple):
        return [comparable(item) for item in outcome]  # pyright: ignore[reportUnknownVariableType]
    return outcome


class LedgerMachine(RuleBasedStateMachine):
    """Each rule runs one command on both ledgers."""

    redis_url: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.exact = memory.MemoryLedger(ledgers.START_MS)
        self.real = self.wait(ledgers.on_redis(self.redis_url))
        self.change_no = 0
        self.last_hold = IDS[0]
        self.last: tuple[str, tuple[Any, ...]] = ("expire_grants", (ADDRESS,))

    def wait(self, call: Awaitable[T]) -> T:
        return self.loop.run_until_complete(call)  # pyright: ignore[reportArgumentType]

    def teardown(self) -> None:
        self.wait(self.real.close())
        self.loop.close()

    def both(self, verb: str, *args: Any) -> None:
        self.last = verb, args
        outcomes: list[Any] = []
        for book in (self.exact, self.real.book):
            try:
                outcomes.append(comparable(self.wait(getattr(book, verb)(*args))))
            except errors.MeterdError as exc:
                outcomes.append(comparable(exc))
        assert outcomes[0] == outcomes[1], verb

    @initialize(
        overage=st.sampled_from([ledger.Overage.CAP, ledger.Overage.DRAW, ledger.Overage.OVERDRAFT]),
        overdraft=st.sampled_from([0, 50, 1_000]),
        strict=st.booleans(),
    )
    def open_account(self, overage: ledger.Overage, overdraft: int, strict: bool) -> None:
        state = ledgers.account_state(overage=overage, overdraft_limit_micros=overdraft, strict_expiry=strict)
        self.both("load", state)
        self.grant(500, "default", 1, 0, 0, 0)
        self.hold(IDS[0], 100)

    @rule(
        amount=st.one_of(st.integers(1, 600), st.integers(1, money.AMOUNT_MAX_MICROS)),
        wallet=WALLETS,
        category=st.integers(1, 7),
        priority=st.integers(-2, 2),
        effective=st.sampled_from([0, 1_000]),
        expires=st.sampled_from([0, 2_000, 60_000]),
    )
    def grant(self, amount: int, wallet: str, category: int, priority: int, effective: int, expires: int) -> None:
        self.change_no += 1
        change = ledgers.grant_change(
            self.change_no,
            amount,
            wallet=wallet,
            category=category,
            priority=priority,
            effective_ms=self.real.now_ms + effective if effective else 0,
            expires_ms=self.real.now_ms + expires if expires else 0,
        )
        self.both("apply", ADDRESS, change)

    @rule(back=st.integers(0, 3), wallet=WALLETS)
    def apply_a_grant_again(self, back: int, wallet: str) -> None:
        number = max(1, self.change_no - back)
        self.both("apply", ADDRESS, ledgers.grant_change(number, 7, wallet=wallet))
        self.change_no = max(self.change_no, number)

    @rule(grant=st.integers(1, 8), wallet=WALLETS)
    def revoke(self, grant: int, wallet: str) -> None:
        self.change_no += 1
        revocation = uuid.UUID(int=1_000_000 + self.change_no)
        change = ledger.RevokeChange(
            change_no=self.change_no, revocation_id=revocation, grant_id=uuid.UUID(int=grant), wallet=wallet
        )
        self.both("apply", ADDRESS, change)

    @rule(overage=st.sampled_from(list(ledger.Overage)[1:4]), overdraft=st.sampled_from([0, 80]), frozen=st.booleans())
    def change_settings(self, overage: ledger.Overage, overdraft: int, frozen: bool) -> None:
        self.change_no += 1
        change = ledger.SettingsChange(
            change_no=self.change_no,
            change_id=uuid.UUID(int=2_000_000 + self.change_no),
            overage=overage,
            overdraft_limit_micros=overdraft,
            strict_expiry=False,
            frozen=frozen,
        )
        self.both("apply", ADDRESS, change)

    @rule(
        hold=st.sampled_from(IDS),
        amount=AMOUNTS,
        least=st.sampled_from([0, 1, 100, None]),
        wallet=WALLETS,
        digest=DIGESTS,
        ttl=MILLIS,
        overage=st.sampled_from(list(ledger.Overage)[:4]),
        expiry=st.sampled_from(list(ledger.Expiry)),
        replay_only=st.sampled_from([False, False, False, True]),
    )
    def reserve(
        self,
        hold: uuid.UUID,
        amount: int,
        least: int | None,
        wallet: str,
        digest: bytes,
        ttl: int,
        overage: ledger.Overage,
        expiry: ledger.Expiry,
        replay_only: bool,
    ) -> None:
        command = ledgers.reserve(
            hold,
            amount,
            amount_min_micros=amount if least is None else min(least, amount),
            wallet=wallet,
            digest=digest,
            ttl_ms=ttl,
            overage=overage,
            expiry=expiry,
            replay_only=replay_only,
        )
        self.last_hold = hold
        self.both("reserve", command)

    @rule(hold=st.sampled_from(IDS), amount=st.integers(1, 60))
    def hold(self, hold: uuid.UUID, amount: int) -> None:
        """An ordinary one: of those that are drawn at random most are denied."""
        self.last_hold = hold
        self.both("reserve", ledgers.reserve(hold, amount, ttl_ms=60_000))

    @rule(hold=HOLDS, amount=st.one_of(st.none(), AMOUNTS), digest=DIGESTS)
    def commit(self, hold: uuid.UUID | None, amount: int | None, digest: bytes) -> None:
        self.both("commit", ledgers.commit(hold or self.last_hold, amount, digest=digest))

    @rule(hold=HOLDS)
    def release(self, hold: uuid.UUID | None) -> None:
        self.both("release", ledgers.release(hold or self.last_hold))

    @rule(hold=HOLDS, ttl=MILLIS, amount=AMOUNTS)
    def extend(self, hold: uuid.UUID | None, ttl: int, amount: int) -> None:
        command = ledger.Extend(
            tenant_id="t", address=ADDRESS, hold=hold or self.last_hold, ttl_ms=ttl, amount_micros=amount
        )
        self.both("extend", command)

    @rule(hold=HOLDS, used=AMOUNTS)
    def report(self, hold: uuid.UUID | None, used: int) -> None:
        command = ledger.Report(
            tenant_id="t", address=ADDRESS, hold=hold or self.last_hold, used_micros=used, detail=b'{"us":2}'
        )
        self.both("report", command)

    @rule(
        key=st.sampled_from([ids.uuid7(ledgers.START_MS) for _ in range(3)]),
        amount=AMOUNTS,
        wallet=WALLETS,
        digest=DIGESTS,
        overage=st.sampled_from(list(ledger.Overage)[1:]),
    )
    def charge(self, key: uuid.UUID, amount: int, wallet: str, digest: bytes, overage: ledger.Overage) -> None:
        self.both("charge", ledgers.charge(key, amount, wallet=wallet, digest=digest, overage=overage))

    @rule(hold=HOLDS)
    def expire(self, hold: uuid.UUID | None) -> None:
        self.both("expire", ADDRESS, hold or self.last_hold)

    @rule()
    def repeat(self) -> None:
        """What a caller does who has lost the answer; by chance alone the same command hardly comes twice."""
        self.both(self.last[0], *self.last[1])

    @rule()
    def expire_grants(self) -> None:
        self.both("expire_grants", ADDRESS)

    @rule(millis=MILLIS)
    def advance(self, millis: int) -> None:
        self.wait(self.real.advance(millis))
        self.exact.now_ms = self.real.now_ms

    @invariant()
    def states_agree_and_are_conserved(self) -> None:
        states: list[ledger.AccountState | None] = [
            self.wait(self.exact.account(ADDRESS)),
            self.wait(self.real.book.account(ADDRESS)),
        ]
        exact, real = states
        if exact is None or real is None:
            assert exact is None and real is None
            return
        names = {wallet.wallet: wallet for wallet in real.wallets}
        assert {wallet.wallet: comparable(wallet) for wallet in exact.wallets} == {
            name: comparable(wallet) for name, wallet in names.items()
        }
        assert comparable(dataclasses.replace(exact, wallets=())) == comparable(dataclasses.replace(real, wallets=()))
        worth = sum(sum(g.available_micros for g in w.grants) - w.debt_micros for w in real.wallets)
        ended = real.spent_micros + real.expired_micros + real.revoked_micros
        assert real.granted_micros == worth + real.held_micros + ended

    @invariant()
    def open_holds_agree(self) -> None:
        exact = self.wait(self.exact.holds(ADDRESS))
        real = self.wait(self.real.book.holds(ADDRESS))
        assert sorted(held.hold for held in exact) == sorted(held.hold for held in real)
        assert sum(held.amount_micros for held in real) == sum(held.amount_micros for held in exact)


def test_random_histories_agree(redis_url: str) -> None:
    LedgerMachine.redis_url = redis_url
    nightly = os.environ.get("METERD_TEST_NIGHTLY") == "1"
    run_state_machine_as_test(
        LedgerMachine,
        settings=hypothesis.settings(
            max_examples=2_000 if nightly else 60,
            stateful_step_count=60,
            deadline=None,
            derandomize=not nightly,
            suppress_health_check=SLOW_IS_FINE,
        ),
    )


@pytest.mark.parametrize("broken", ["replay", "burn order"])
def test_the_machine_finds_a_broken_ledger(redis_url: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is worth its time only if it fails on a ledger that is wrong."""
    if broken == "replay":
        original = memory.MemoryLedger.commit

        async def commit(self: memory.MemoryLedger, command: ledger.Commit) -> ledger.SettleOutcome:
            outcome = await original(self, command)
            return dataclasses.replace(outcome, replayed=False) if isinstance(outcome, ledger.Settled) else outcome

        monkeypatch.setattr(memory.MemoryLedger, "commit", commit)
    else:
        monkeypatch.setattr("meterd.core.memory._Grant.burn_key", lambda grant: grant.number)
    LedgerMachine.redis_url = redis_url
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            LedgerMachine,
            settings=hypothesis.settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=SLOW_IS_FINE,
            ),
        )
