"""Plays the steps of a replay, at the trace's pace or as fast as a bounded number of calls in flight allows."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from decimal import Decimal

import grpc.aio

from meterd.core import ids, ledger, money
from meterd.replay import plan, wire
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2

# A hold that is left to expire lives as short as the contract allows.
LATE_TTL_MS = ledger.TTL_MIN_MS
# Redis ends such a hold when the sweeper comes by; a commit is late as soon as the time is up.
LATE_COMMIT_AFTER_S = LATE_TTL_MS / 1000 + 0.25
# Creating accounts is not what is measured, and goes through Postgres.
SETUP_IN_FLIGHT_MAX = 8
# Faults beyond these are counted only.
FAULTS_KEPT_MAX = 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to play. `speed` multiplies the trace's own pace; 0 is as fast as possible."""

    # Names the replay in every record of it (subject.key), and its accounts' grants.
    run_id: str
    model: str
    # "": found from the model's name.
    provider: str = ""
    speed: float = 0.0
    in_flight_max: int = 64
    account_prefix: str = "replay"
    grant_micros: int = 1_000_000 * money.MICROS_PER_CREDIT


@dataclasses.dataclass(slots=True)
class Outcome:
    """What the answers said."""

    steps: int = 0
    begin_s: float = 0.0
    wall_s: float = 0.0
    # The largest distance of a step behind the trace's pace; 0 at speed 0.
    behind_max_s: float = 0.0
    fates: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])
    denials: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])
    replayed: int = 0
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])
    fault_messages: list[str] = dataclasses.field(default_factory=list[str])
    held: int = 0
    charged_micros: int = 0
    uncollected_micros: int = 0
    # As far as the answers tell: a Commit whose first answer was lost is told its charge again, but not its cost.
    cost_usd: Decimal = Decimal(0)
    costs_untold: int = 0
    # Steps whose usage was committed and answered.
    committed: list[plan.Step] = dataclasses.field(default_factory=list[plan.Step])


class Player:
    """One replay. `play` may be called once."""

    def __init__(self, caller: wire.Caller, settings: Settings, on_step: Callable[[int], None] | None = None) -> None:
        self._caller = caller
        self._settings = settings
        self._on_step = on_step
        self._room = asyncio.Semaphore(settings.in_flight_max)
        self.outcome = Outcome()

    async def prepare(self, accounts: Sequence[int]) -> None:
        """Creates the accounts and their grants; a repeat with the same run_id grants nothing more."""
        room = asyncio.Semaphore(SETUP_IN_FLIGHT_MAX)

        async def one(number: int) -> None:
            async with room:
                await self._prepare_account(self.account_id(number))

        await asyncio.gather(*(one(number) for number in accounts))

    def account_id(self, number: int) -> str:
        return f"{self._settings.account_prefix}-{number:04d}"

    async def _prepare_account(self, account_id: str) -> None:
        create = accounts_pb2.CreateAccountRequest(account_id=account_id)
        await self._caller.accounts("CreateAccount", create, accounts_pb2.CreateAccountResponse)
        grant = accounts_pb2.GrantRequest(
            idempotency_key=f"{self._settings.run_id}/{account_id}",
            account_id=account_id,
            amount_micros=self._settings.grant_micros,
            category=types_pb2.GRANT_CATEGORY_ADJUSTMENT,
            source_id=self._settings.run_id,
        )
        await self._caller.accounts("Grant", grant, accounts_pb2.GrantResponse)

    async def play(self, steps: Sequence[plan.Step]) -> Outcome:
        """Plays all steps to their end, the late ones included."""
        outcome, speed = self.outcome, self._settings.speed
        outcome.steps = len(steps)
        begin_s = outcome.begin_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for step in steps:
                if speed > 0:
                    wait_s = begin_s + step.due_s / speed - time.monotonic()
                    outcome.behind_max_s = max(outcome.behind_max_s, -wait_s)
                    await asyncio.sleep(max(0.0, wait_s))
                await self._room.acquire()
                group.create_task(self._step(step))
        outcome.wall_s = time.monotonic() - begin_s
        return outcome

    async def _step(self, step: plan.Step) -> None:
        in_room = True
        try:
            hold_id = await self._reserve(step)
            if hold_id and step.fate is plan.Fate.LATE:
                # Waiting takes no place from those who could call meanwhile.
                self._room.release()
                in_room = False
                await asyncio.sleep(LATE_COMMIT_AFTER_S)
                await self._room.acquire()
                in_room = True
            if hold_id:
                await self._end(step, hold_id)
        except grpc.aio.AioRpcError as fault:
            self._note(step, fault)
        finally:
            if in_room:
                self._room.release()
        if self._on_step is not None:
            self._on_step(1)

    def _note(self, step: plan.Step, fault: grpc.aio.AioRpcError) -> None:
        outcome = self.outcome
        outcome.faults[fault.code().name] += 1
        if len(outcome.fault_messages) < FAULTS_KEPT_MAX:
            outcome.fault_messages.append(f"request {step.number + 1}: {fault.code().name}: {fault.details()}")

    async def _reserve(self, step: plan.Step) -> str:
        """The id of the hold; "" if it was denied."""
        settings, outcome = self._settings, self.outcome
        is_short = step.fate in (plan.Fate.LATE, plan.Fate.ABANDON)
        request = metering_pb2.ReserveRequest(
            hold_id=str(ids.uuid7(time.time_ns() // 1_000_000)),
            account_id=self.account_id(step.account),
            subject=types_pb2.Subject(key=settings.run_id),
            model=types_pb2.ModelCharge(
                provider=settings.provider,
                model=settings.model,
                input_tokens=step.input_tokens,
                max_output_tokens=step.output_tokens_max,
            ),
            ttl_ms=LATE_TTL_MS if is_short else 0,
        )
        reply = await self._caller.metering("Reserve", request, metering_pb2.ReserveResponse)
        outcome.replayed += reply.replayed
        if reply.WhichOneof("outcome") == "denial":
            for reason in reply.denial.reasons:
                outcome.denials[types_pb2.Denial.Code.Name(reason.code).removeprefix("CODE_")] += 1
            return ""
        outcome.held += 1
        return reply.hold.hold_id

    async def _end(self, step: plan.Step, hold_id: str) -> None:
        if step.fate is plan.Fate.ABANDON:
            self.outcome.fates[step.fate.value] += 1
            return
        if step.fate is plan.Fate.RELEASE:
            request = metering_pb2.ReleaseRequest(hold_id=hold_id, reason="aborted")
            released = await self._caller.metering("Release", request, metering_pb2.ReleaseResponse)
            self._settle(step, released.settlement, released.replayed)
            return
        state = types_pb2.USAGE_STATE_PARTIAL if step.fate is plan.Fate.PARTIAL else types_pb2.USAGE_STATE_REPORTED
        usage = types_pb2.Usage(input_tokens=step.input_tokens, output_tokens=step.output_tokens)
        commit = metering_pb2.CommitRequest(
            hold_id=hold_id, usage=metering_pb2.ReportedUsage(usage=usage, usage_state=state)
        )
        committed = await self._caller.metering("Commit", commit, metering_pb2.CommitResponse)
        self._settle(step, committed.settlement, committed.replayed)
        self.outcome.committed.append(step)

    def _settle(self, step: plan.Step, settlement: types_pb2.Settlement, replayed: bool) -> None:
        outcome = self.outcome
        fate = step.fate
        if settlement.state == types_pb2.HOLD_STATE_COMMITTED_LATE:
            fate = plan.Fate.LATE
        elif fate is plan.Fate.LATE:
            # Its commit came before the sweeper.
            fate = plan.Fate.COMMIT
        outcome.fates[fate.value] += 1
        outcome.replayed += replayed
        outcome.charged_micros += settlement.charged_micros
        outcome.uncollected_micros += settlement.uncollected_micros
        if settlement.cost_usd:
            outcome.cost_usd += Decimal(settlement.cost_usd)
        elif replayed and settlement.charged_micros:
            outcome.costs_untold += 1
