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

from meterd.core import errors, ids, ledger, limits, memory, money
from meterd.redis import ledger as redis_ledger
from tests import ledgers

T = TypeVar("T")

ADDRESS = ids.account_address("t", "acct")
# Who gets what the account gives away.
FRIEND = ids.account_address("t", "friend")
# GRANT_CATEGORY_ALLOWANCE and GRANT_CATEGORY_GIFT.
ALLOWANCE, GIFT = 3, 5
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
# So that days turn too.
JUMPS = st.sampled_from([1, 999, 1_000, 5_000, 60_000, 60_000, 3_600_000, ledger.DAY_MS])
TERMS = st.sampled_from(
    [
        b'{"item":"credits"}',
        b'{"item":"feature:f","qty":"3","user":"ann"}',
        b'{"item":"model:m","model":"m","in":40,"out":20,"cost":"0.0000400001","user":"ann","op":"o"}',
        b'{"item":"model:m","model":"m","in":4,"out":2,"cost":"0","extra":{"input_tokens":3},"user":"bob","op":"o"}',
    ]
)
DETAILS = st.sampled_from(
    [b'{"us":1}', b'{"us":1,"cost":"0.00005","usage":{"input_tokens":40,"output_tokens":5}}', b""]
)
# One limit of each kind of window; caps are drawn.
LIMITS = (
    (limits.Subject.ACCOUNT, limits.Metric.CREDITS, limits.Window.MINUTE),
    (limits.Subject.ACCOUNT, limits.Metric.CREDITS, limits.Window.MONTH),
    (limits.Subject.USER, limits.Metric.CREDITS, limits.Window.ROLLING_MINUTE),
    (limits.Subject.USER, limits.Metric.HOLDS, limits.Window.LIFETIME),
    (limits.Subject.USER, limits.Metric.CREDITS, limits.Window.OPERATION),
    (limits.Subject.FEATURE, limits.Metric.ACTIONS, limits.Window.ROLLING_HOUR),
    (limits.Subject.MODEL, limits.Metric.TOKENS, limits.Window.HOUR),
    (limits.Subject.MODEL, limits.Metric.COST, limits.Window.LIFETIME),
    (limits.Subject.ACCOUNT, limits.Metric.CREDITS, limits.Window.PERIOD),
)
# A billing month that turns 23 hours after the start.
PERIOD: dict[str, Any] = {
    "period": "billing_month",
    "anchor_ms": ledgers.START_MS - 30 * ledger.DAY_MS - 3_600_000,
}


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
        # A limit that comes back is another one.
        self.limit_numbers: dict[int, int] = {}
        # What was given away, by the charge's id, and in the order of the gifts.
        self.given: dict[uuid.UUID, int] = {}
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
                outcomes.append(self.wait(getattr(book, verb)(*args)))
            except errors.MeterdError as exc:
                outcomes.append(exc)
        assert comparable(outcomes[0]) == comparable(outcomes[1]), verb
        if verb == "charge" and isinstance(outcomes[1], ledger.Settled):
            self.give(args[0], outcomes[1])

    def give(self, command: ledger.Charge, settled: ledger.Settled) -> None:
        """The other end of a transfer: a grant that is keyed by the debit. It is made anew with each replay, as after a crash."""
        if not settled.replayed and command.overage == ledger.Overage.TRANSFER and settled.charged_micros:
            # Servers ask for room before the debit.
            assert settled.charged_micros + sum(self.given.values()) <= money.AMOUNT_MAX_MICROS
            self.given[command.charge] = settled.charged_micros
        if command.charge in self.given:
            number = list(self.given).index(command.charge) + 1
            gift = ledgers.grant_change(number, self.given[command.charge], wallet="gifts", category=GIFT)
            last = self.last
            self.both("apply", FRIEND, gift)
            self.last = last

    @initialize(
        overage=st.sampled_from([ledger.Overage.CAP, ledger.Overage.DRAW, ledger.Overage.OVERDRAFT]),
        overdraft=st.sampled_from([0, 50, 1_000]),
        strict=st.booleans(),
    )
    def open_account(self, overage: ledger.Overage, overdraft: int, strict: bool) -> None:
        state = ledgers.account_state(overage=overage, overdraft_limit_micros=overdraft, strict_expiry=strict)
        self.both("load", state)
        self.both("load", ledgers.account_state("friend"))
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

    @rule(amount=st.integers(1, 400), length_ms=st.sampled_from([1_000, 60_000, ledger.DAY_MS]), wallet=WALLETS)
    def grant_two_periods(self, amount: int, length_ms: int, wallet: str) -> None:
        """An allowance, and ahead of time the next period's: the clock alone turns the one into the other."""
        begin_ms, free = self.real.now_ms, [self.free(wallet)]
        for start_ms in (begin_ms, begin_ms + length_ms):
            self.change_no += 1
            change = ledgers.grant_change(
                self.change_no,
                amount,
                wallet=wallet,
                category=ALLOWANCE,
                effective_ms=start_ms,
                expires_ms=start_ms + length_ms,
            )
            self.both("apply", ADDRESS, change)
            free.append(self.free(wallet))
        # The next period's lets nobody spend more today.
        assert free[1] == free[2]

    def free(self, wallet: str) -> int:
        state = self.wait(self.real.book.account(ADDRESS))
        assert state is not None
        found = [one for one in state.wallets if one.wallet == wallet]
        return ledger.available_micros(found[0], self.real.now_ms) if found else 0

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

    @rule(
        amount=st.one_of(st.integers(1, 300), st.integers(1, money.AMOUNT_MAX_MICROS)),
        wallet=WALLETS,
        first=st.lists(st.integers(1, 8), max_size=3),
    )
    def claw_back(self, amount: int, wallet: str, first: list[int]) -> None:
        self.change_no += 1
        claw_back = uuid.UUID(int=3_000_000 + self.change_no)
        change = ledger.ClawBackChange(
            change_no=self.change_no,
            claw_back_id=claw_back,
            wallet=wallet,
            amount_micros=amount,
            grant_ids=[uuid.UUID(int=one) for one in first],
        )
        self.both("apply", ADDRESS, change)

    @rule(
        overage=st.sampled_from(list(ledger.Overage)[1:4]),
        overdraft=st.sampled_from([0, 80]),
        frozen=st.sampled_from([False, False, True]),
        plan_ms=st.sampled_from([0, 2_000, 60_000, 200_000_000]),
        unlimited=st.booleans(),
        per_day=st.sampled_from([0, 0, 1, 3]),
        blocked=st.sampled_from([(), ("other",), ("default", "other")]),
    )
    def change_settings(
        self,
        overage: ledger.Overage,
        overdraft: int,
        frozen: bool,
        plan_ms: int,
        unlimited: bool,
        per_day: int,
        blocked: tuple[str, ...],
    ) -> None:
        self.change_no += 1
        change = ledger.SettingsChange(
            change_no=self.change_no,
            change_id=uuid.UUID(int=2_000_000 + self.change_no),
            overage=overage,
            overdraft_limit_micros=overdraft,
            strict_expiry=False,
            frozen=frozen,
            plan=ledger.PlanRule(
                until_ms=self.real.now_ms + plan_ms if plan_ms else 0,
                unlimited=unlimited,
                actions_per_day=per_day,
                blocked_wallets=blocked,
            ),
        )
        self.both("apply", ADDRESS, change)

    @rule(
        caps=st.lists(st.sampled_from([None, None, 0, 60, 300, 2**53 - 1]), min_size=9, max_size=9),
        observe=st.booleans(),
    )
    def change_limits(self, caps: list[int | None], observe: bool) -> None:
        self.change_no += 1
        numbers = {place: self.limit_numbers.get(place, self.change_no * 10 + place) for place in range(len(LIMITS))}
        self.limit_numbers = {place: number for place, number in numbers.items() if caps[place] is not None}
        defined = [
            ledgers.limit(
                numbers[place],
                cap,
                subject=subject,
                metric=metric,
                window=window,
                observe=observe and place < 4,
                **(PERIOD if window == limits.Window.PERIOD else {}),
            )
            for place, (subject, metric, window) in enumerate(LIMITS)
            if (cap := caps[place]) is not None
        ]
        self.both("apply", ADDRESS, ledgers.limits_change(self.change_no, *defined))

    @rule()
    def tidy_limits(self) -> None:
        assert isinstance(self.real.book, redis_ledger.RedisLedger)
        self.wait(self.real.book.tidy_limits(ADDRESS))

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
        terms=TERMS,
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
        terms: bytes,
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
            terms=terms,
        )
        self.last_hold = hold
        self.both("reserve", command)

    @rule(hold=st.sampled_from(IDS), amount=st.integers(1, 60), terms=TERMS)
    def hold(self, hold: uuid.UUID, amount: int, terms: bytes = b'{"item":"credits"}') -> None:
        """An ordinary one: of those that are drawn at random most are denied."""
        self.last_hold = hold
        self.both("reserve", ledgers.reserve(hold, amount, ttl_ms=60_000, terms=terms))

    @rule(hold=HOLDS, amount=st.one_of(st.none(), AMOUNTS), digest=DIGESTS, detail=DETAILS)
    def commit(self, hold: uuid.UUID | None, amount: int | None, digest: bytes, detail: bytes) -> None:
        self.both("commit", ledgers.commit(hold or self.last_hold, amount, digest=digest, detail=detail))

    @rule(hold=HOLDS)
    def release(self, hold: uuid.UUID | None) -> None:
        self.both("release", ledgers.release(hold or self.last_hold))

    @rule(hold=HOLDS, ttl=MILLIS, amount=AMOUNTS)
    def extend(self, hold: uuid.UUID | None, ttl: int, amount: int) -> None:
        command = ledger.Extend(
            tenant_id="t", address=ADDRESS, hold=hold or self.last_hold, ttl_ms=ttl, amount_micros=amount
        )
        self.both("extend", command)

    @rule(hold=HOLDS, used=AMOUNTS, detail=DETAILS)
    def report(self, hold: uuid.UUID | None, used: int, detail: bytes) -> None:
        command = ledger.Report(
            tenant_id="t", address=ADDRESS, hold=hold or self.last_hold, used_micros=used, detail=detail
        )
        self.both("report", command)

    @rule(
        key=st.sampled_from([ids.uuid7(ledgers.START_MS) for _ in range(3)]),
        amount=AMOUNTS,
        wallet=WALLETS,
        digest=DIGESTS,
        overage=st.sampled_from([overage for overage in ledger.Overage if overage not in (0, ledger.Overage.FREE)]),
        terms=TERMS,
        detail=DETAILS,
    )
    def charge(
        self,
        key: uuid.UUID,
        amount: int,
        wallet: str,
        digest: bytes,
        overage: ledger.Overage,
        terms: bytes,
        detail: bytes,
    ) -> None:
        command = ledgers.charge(key, amount, wallet=wallet, digest=digest, overage=overage, terms=terms, detail=detail)
        self.both("charge", command)

    @rule(
        key=st.sampled_from([ids.uuid7(ledgers.START_MS) for _ in range(3)]),
        amount=st.one_of(st.integers(1, 60), st.integers(1, 1_000)),
        wallet=WALLETS,
    )
    def transfer(self, key: uuid.UUID, amount: int, wallet: str) -> None:
        """As charge, which gives away too, but of amounts that are often there."""
        terms = b'{"item":"transfer:friend","to":"friend"}'
        self.both("charge", ledgers.charge(key, amount, wallet=wallet, overage=ledger.Overage.TRANSFER, terms=terms))

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

    @rule(millis=JUMPS)
    def advance(self, millis: int) -> None:
        self.wait(self.real.advance(millis))
        self.exact.now_ms = self.real.now_ms

    def today(self, state: ledger.AccountState) -> ledger.AccountState:
        """What counts today: a day's actions that nobody asks for any more may stand or be forgotten."""
        return dataclasses.replace(state, wallets=(), actions=state.actions_on(self.real.now_ms), actions_day=0)

    @invariant()
    def states_agree_and_are_conserved(self) -> None:
        for address in (ADDRESS, FRIEND):
            exact = self.wait(self.exact.account(address))
            real = self.wait(self.real.book.account(address))
            if exact is None or real is None:
                assert exact is None and real is None
                continue
            assert {wallet.wallet: comparable(wallet) for wallet in exact.wallets} == {
                wallet.wallet: comparable(wallet) for wallet in real.wallets
            }
            assert comparable(self.today(exact)) == comparable(self.today(real))
            worth = sum(sum(g.available_micros for g in w.grants) - w.debt_micros for w in real.wallets)
            ended = real.spent_micros + real.expired_micros + real.revoked_micros
            assert real.granted_micros == worth + real.held_micros + ended

    @invariant()
    def what_was_given_away_arrived_once(self) -> None:
        friend = self.wait(self.real.book.account(FRIEND))
        assert friend is None or friend.granted_micros == sum(self.given.values())

    @invariant()
    def limits_agree(self) -> None:
        exact = [self.wait(book.limit_uses(ADDRESS)) for book in (self.exact, self.real.book) if self.change_no]
        # A counter at nothing and none are the same.
        counting = [[use for use in uses if use.used or use.over] for uses in exact]
        assert not counting or counting[0] == counting[1]

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


@pytest.mark.parametrize("broken", ["replay", "burn order", "limits", "periods", "transfers"])
def test_the_machine_finds_a_broken_ledger(redis_url: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is worth its time only if it fails on a ledger that is wrong."""
    if broken == "replay":
        original = memory.MemoryLedger.commit

        async def commit(self: memory.MemoryLedger, command: ledger.Commit) -> ledger.SettleOutcome:
            outcome = await original(self, command)
            return dataclasses.replace(outcome, replayed=False) if isinstance(outcome, ledger.Settled) else outcome

        monkeypatch.setattr(memory.MemoryLedger, "commit", commit)
    elif broken == "transfers":
        originally = memory.MemoryLedger.charge

        async def charge(self: memory.MemoryLedger, command: ledger.Charge) -> ledger.ChargeOutcome:
            is_transfer = command.overage == ledger.Overage.TRANSFER
            return await originally(
                self, dataclasses.replace(command, overage=ledger.Overage.DRAW) if is_transfer else command
            )

        monkeypatch.setattr(memory.MemoryLedger, "charge", charge)
    elif broken == "periods":
        monkeypatch.setattr(
            "meterd.core.memory_state.Grant.is_active", lambda grant, now_ms: not grant.is_expired(now_ms)
        )
    elif broken == "limits":
        monkeypatch.setattr("meterd.core.limits.slot_ms", lambda shape: shape.length_ms // shape.slots + 1)
    else:
        monkeypatch.setattr("meterd.core.memory_state.Grant.burn_key", lambda grant: grant.number)
    LedgerMachine.redis_url = redis_url
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            LedgerMachine,
            settings=hypothesis.settings(
                # The first that fails ends the run.
                max_examples=600,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=SLOW_IS_FINE,
            ),
        )
