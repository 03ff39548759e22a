"""The player over real gRPC, against a server that answers as told."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import grpc
import grpc.aio
import pytest

from meterd.replay import plan, play, player, report, trace, wire
from meterd_client.v1 import accounts_pb2, accounts_pb2_grpc, metering_pb2, metering_pb2_grpc, types_pb2

ADDRESS = "A" * 22


@dataclasses.dataclass
class Script(metering_pb2_grpc.MeteringServicer, accounts_pb2_grpc.AccountsServicer):
    """Answers every call; first refuses each of them `refusals` times with `refusal`."""

    refusals: int = 0
    refusal: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    deny: bool = False
    seen: dict[str, list[Any]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    keys: set[str] = dataclasses.field(default_factory=set[str])
    running: int = 0
    running_max: int = 0

    async def _answer(self, verb: str, name: str, request: Any, context: Any) -> None:
        self.keys.add(dict(context.invocation_metadata())["authorization"])
        self.seen[verb].append(request)
        if sum(earlier == request for earlier in self.seen[verb]) <= self.refusals:
            await context.abort(self.refusal, f"{name}: told to")
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        await asyncio.sleep(0)
        self.running -= 1

    async def CreateAccount(self, request: Any, context: Any) -> accounts_pb2.CreateAccountResponse:
        await self._answer("CreateAccount", request.account_id, request, context)
        return accounts_pb2.CreateAccountResponse()

    async def Grant(self, request: Any, context: Any) -> accounts_pb2.GrantResponse:
        await self._answer("Grant", request.account_id, request, context)
        return accounts_pb2.GrantResponse()

    async def Reserve(self, request: Any, context: Any) -> metering_pb2.ReserveResponse:
        await self._answer("Reserve", request.hold_id, request, context)
        if self.deny:
            reason = types_pb2.Denial.Reason(code=types_pb2.Denial.CODE_INSUFFICIENT_CREDITS)
            return metering_pb2.ReserveResponse(denial=types_pb2.Denial(reasons=[reason]))
        return metering_pb2.ReserveResponse(hold=types_pb2.Hold(hold_id=f"{request.hold_id}.{ADDRESS}"))

    async def Commit(self, request: Any, context: Any) -> metering_pb2.CommitResponse:
        await self._answer("Commit", request.hold_id, request, context)
        cost = Decimal(request.usage.usage.input_tokens) * Decimal("0.00000015")
        cost += Decimal(request.usage.usage.output_tokens) * Decimal("0.0000006")
        settlement = types_pb2.Settlement(state=types_pb2.HOLD_STATE_COMMITTED, charged_micros=7, cost_usd=f"{cost:f}")
        return metering_pb2.CommitResponse(settlement=settlement)

    async def Release(self, request: Any, context: Any) -> metering_pb2.ReleaseResponse:
        await self._answer("Release", request.hold_id, request, context)
        return metering_pb2.ReleaseResponse(settlement=types_pb2.Settlement(state=types_pb2.HOLD_STATE_RELEASED))


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[wire.Target]:
    server = grpc.aio.server()
    metering_pb2_grpc.add_MeteringServicer_to_server(script, server)
    accounts_pb2_grpc.add_AccountsServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield wire.Target(address=f"127.0.0.1:{port}", key="mk_meter", admin_key="mk_admin", patience_s=5)
    finally:
        await server.stop(0)


def options(
    target: wire.Target,
    *,
    abort_share: float = 0.0,
    late_share: float = 0.0,
    speed: float = 0.0,
    in_flight_max: int = 8,
) -> play.Options:
    return play.Options(
        target=target,
        mix=plan.Mix(accounts=3, abort_share=abort_share, late_share=late_share, seed=1),
        settings=player.Settings(
            run_id="replay-test", model="gpt-4o-mini", provider="openai", speed=speed, in_flight_max=in_flight_max
        ),
        check_cost=True,
    )


async def test_every_request_is_reserved_and_committed_with_its_own_tokens() -> None:
    requests = trace.generate(40, seed=1)
    script = Script()
    async with serving(script) as target:
        found = await play.play(requests, options(target))
    committed = [(call.usage.usage.input_tokens, call.usage.usage.output_tokens) for call in script.seen["Commit"]]
    assert sorted(committed) == sorted((request.context_tokens, request.generated_tokens) for request in requests)
    assert found.outcome.fates == {"committed": 40}
    assert found.outcome.charged_micros == 280
    assert found.problems == ()


async def test_the_cost_is_held_against_genai_prices() -> None:
    requests = [trace.Request(at_ns=0, context_tokens=4808, generated_tokens=10)]
    async with serving(Script()) as target:
        found = await play.play(requests, options(target))
    assert found.outcome.cost_usd == Decimal("0.0007272")
    assert found.expected_usd == Decimal("0.0007272")


async def test_a_wrong_cost_is_a_problem() -> None:
    class Dear(Script):
        async def Commit(self, request: Any, context: Any) -> metering_pb2.CommitResponse:
            return metering_pb2.CommitResponse(settlement=types_pb2.Settlement(cost_usd="0.0007273"))

    requests = [trace.Request(at_ns=0, context_tokens=4808, generated_tokens=10)]
    async with serving(Dear()) as target:
        found = await play.play(requests, options(target))
    assert found.problems == ("the answers cost 0.0007273 USD, genai-prices asks for 0.0007272 USD",)


async def test_an_undecided_call_is_repeated_with_the_same_content() -> None:
    script = Script(refusals=2)
    async with serving(script) as target:
        found = await play.play(trace.generate(3, seed=1), options(target))
    assert collections.Counter(call.hold_id for call in script.seen["Reserve"]).most_common(1)[0][1] == 3
    assert len({call.hold_id for call in script.seen["Reserve"]}) == 3
    assert found.tally.retries["Reserve UNAVAILABLE"] == 6
    assert found.tally.retries["Commit UNAVAILABLE"] == 6
    assert found.problems == ()


async def test_a_refused_call_is_not_repeated_and_fails_the_replay() -> None:
    class Refusing(Script):
        async def Commit(self, request: Any, context: Any) -> metering_pb2.CommitResponse:
            self.seen["Commit"].append(request)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "hold_id: released")
            raise AssertionError

    script = Refusing()
    async with serving(script) as target:
        found = await play.play(trace.generate(2, seed=1), options(target))
    assert len(script.seen["Commit"]) == 2
    assert found.outcome.faults == {"FAILED_PRECONDITION": 2}
    assert found.problems[0] == "2 requests failed"


async def test_denials_are_counted_by_their_code_and_nothing_is_committed() -> None:
    script = Script(deny=True)
    async with serving(script) as target:
        found = await play.play(trace.generate(5, seed=1), options(target))
    assert found.outcome.denials == {"INSUFFICIENT_CREDITS": 5}
    assert script.seen["Commit"] == []


async def test_aborted_requests_are_released_or_committed_in_part() -> None:
    script = Script()
    async with serving(script) as target:
        await play.play(trace.generate(40, seed=1), options(target, abort_share=1.0))
    assert len(script.seen["Release"]) + len(script.seen["Commit"]) == 40
    assert script.seen["Release"]
    assert {call.usage.usage_state for call in script.seen["Commit"]} == {types_pb2.USAGE_STATE_PARTIAL}


async def test_late_requests_take_the_shortest_hold_and_commit_after_it_or_never() -> None:
    script = Script()
    async with serving(script) as target:
        found = await play.play(trace.generate(20, seed=1), options(target, late_share=1.0, in_flight_max=1))
    assert {call.ttl_ms for call in script.seen["Reserve"]} == {player.LATE_TTL_MS}
    assert found.outcome.fates["expired"] == 20 - len(script.seen["Commit"])
    # All of them waited at the same time, although one call at a time was allowed.
    assert 1.0 < found.outcome.wall_s < 4.0


async def test_no_more_calls_are_in_flight_than_allowed() -> None:
    script = Script()
    async with serving(script) as target:
        await play.play(trace.generate(50, seed=1), options(target, in_flight_max=4))
    assert script.running_max <= 4


async def test_a_speed_keeps_the_pace_of_the_trace() -> None:
    requests = [trace.Request(at_ns=second * 10**9, context_tokens=1, generated_tokens=1) for second in range(5)]
    async with serving(Script()) as target:
        found = await play.play(requests, options(target, speed=10.0))
    assert found.outcome.wall_s >= 0.4


async def test_accounts_are_made_with_the_admin_key_and_granted_once_per_replay() -> None:
    script = Script()
    async with serving(script) as target:
        await play.play(trace.generate(30, seed=1), options(target))
    assert sorted(call.account_id for call in script.seen["CreateAccount"]) == [
        "replay-0000",
        "replay-0001",
        "replay-0002",
    ]
    assert {call.idempotency_key for call in script.seen["Grant"]} == {f"replay-test/replay-000{at}" for at in range(3)}
    assert script.keys == {"Bearer mk_meter", "Bearer mk_admin"}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.95, 4.0), (0.25, 1.0), (1.0, 4.0), (0.0, 1.0)])
def test_a_quantile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert report.quantile([1.0, 2.0, 3.0, 4.0], share) == expected


def test_credits_and_dollars_are_written_exactly() -> None:
    assert report.credits_text(-1_234_567_890_001) == "-1,234,567.890001"
    assert report.usd_text(Decimal("0.00072720")) == "0.0007272"
    assert report.usd_text(Decimal("1E+2")) == "100"
