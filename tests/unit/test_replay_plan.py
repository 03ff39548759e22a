"""A replay's steps are decided by the seed alone, in the asked shares."""

from __future__ import annotations

import collections

import pytest

from meterd.replay import plan, trace

REQUESTS = trace.generate(4_000, seed=1)


def mix(*, accounts: int = 10, abort_share: float = 0.0, late_share: float = 0.0, seed: int = 1) -> plan.Mix:
    return plan.Mix(accounts=accounts, abort_share=abort_share, late_share=late_share, seed=seed)


def test_the_same_seed_makes_the_same_steps() -> None:
    assert plan.make(REQUESTS, mix(abort_share=0.3)) == plan.make(REQUESTS, mix(abort_share=0.3))
    assert plan.make(REQUESTS, mix(abort_share=0.3)) != plan.make(REQUESTS, mix(abort_share=0.3, seed=2))


def test_without_shares_every_request_is_committed_with_its_own_tokens() -> None:
    steps = plan.make(REQUESTS, mix())
    assert [(request.context_tokens, request.generated_tokens) for request in REQUESTS] == [
        (step.input_tokens, step.output_tokens) for step in steps
    ]
    assert {plan.Fate.COMMIT} == {step.fate for step in steps}


def test_the_estimate_covers_the_output() -> None:
    steps = plan.make(REQUESTS, mix(abort_share=0.5))
    assert all(step.output_tokens < step.output_tokens_max for step in steps)


def test_the_shares_are_met_and_halved_between_their_kinds() -> None:
    fates = collections.Counter(step.fate for step in plan.make(REQUESTS, mix(abort_share=0.2, late_share=0.1)))
    for fate, expected in (
        (plan.Fate.RELEASE, 400),
        (plan.Fate.PARTIAL, 400),
        (plan.Fate.LATE, 200),
        (plan.Fate.ABANDON, 200),
    ):
        assert abs(fates[fate] - expected) < 90


def test_a_share_does_not_move_the_accounts() -> None:
    plain, aborted = plan.make(REQUESTS, mix()), plan.make(REQUESTS, mix(abort_share=0.4))
    assert [step.account for step in plain] == [step.account for step in aborted]


def test_every_account_is_used_and_the_first_most() -> None:
    accounts = collections.Counter(step.account for step in plan.make(REQUESTS, mix()))
    assert set(range(10)) == set(accounts)
    assert accounts[0] == max(accounts.values())


@pytest.mark.parametrize("bad", [{"accounts": 0}, {"abort_share": 0.6, "late_share": 0.5}, {"late_share": -0.1}])
def test_a_senseless_mix_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        plan.make(REQUESTS, plan.Mix(**({"accounts": 1, "abort_share": 0.0, "late_share": 0.0, "seed": 0} | bad)))  # type: ignore[arg-type]


def test_due_times_start_at_zero_and_follow_the_trace() -> None:
    steps = plan.make(REQUESTS, mix())
    assert steps[0].due_s == 0.0
    assert (REQUESTS[-1].at_ns - REQUESTS[0].at_ns) / 1e9 == steps[-1].due_s
