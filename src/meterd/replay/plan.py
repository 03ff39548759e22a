"""What a replay will do with each request of a trace, decided before it starts, from a seed."""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Sequence

from meterd.replay import trace

# Backends ask for a round number of output tokens that is well above what comes.
_OUTPUT_PADDING = 1.25
_OUTPUT_STEP_TOKENS = 64


class Fate(enum.StrEnum):
    """How a call ends."""

    COMMIT = "committed"
    RELEASE = "released"
    PARTIAL = "partial"
    LATE = "committed late"
    ABANDON = "expired"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One reserve and its end. `due_s` counts from the start of the replay, at the trace's own speed."""

    number: int
    due_s: float
    account: int
    input_tokens: int
    output_tokens: int
    output_tokens_max: int
    fate: Fate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Shares are from 0 to 1; their sum must not be above 1."""

    accounts: int
    abort_share: float
    late_share: float
    seed: int


def make(requests: Sequence[trace.Request], mix: Mix) -> list[Step]:
    """The steps of a replay. The same requests and mix give the same steps."""
    if mix.accounts < 1:
        raise ValueError("accounts must be at least 1")
    if not 0 <= mix.abort_share <= 1 or not 0 <= mix.late_share <= 1 or mix.abort_share + mix.late_share > 1:
        raise ValueError("the shares must lie between 0 and 1, and so must their sum")
    dice = random.Random(mix.seed)
    start_ns = requests[0].at_ns if requests else 0
    return [_step(number, request, start_ns, mix, dice) for number, request in enumerate(requests)]


def _step(number: int, request: trace.Request, start_ns: int, mix: Mix, dice: random.Random) -> Step:
    # The same number of throws for every step, so that one share does not move the accounts of another.
    account_throw, fate_throw, cut_throw, kind_throw = (dice.random() for _ in range(4))
    fate = _fate(fate_throw, kind_throw, mix)
    output = request.generated_tokens
    padded = int(output * _OUTPUT_PADDING) // _OUTPUT_STEP_TOKENS * _OUTPUT_STEP_TOKENS + _OUTPUT_STEP_TOKENS
    return Step(
        number=number,
        due_s=(request.at_ns - start_ns) / 1e9,
        # Squared, so that some accounts are much busier than others, as in life.
        account=int(account_throw * account_throw * mix.accounts),
        input_tokens=request.context_tokens,
        output_tokens=int(output * cut_throw) if fate is Fate.PARTIAL else output,
        output_tokens_max=padded,
        fate=fate,
    )


def _fate(throw: float, kind: float, mix: Mix) -> Fate:
    if throw < mix.abort_share:
        return Fate.RELEASE if kind < 0.5 else Fate.PARTIAL
    if throw < mix.abort_share + mix.late_share:
        return Fate.LATE if kind < 0.5 else Fate.ABANDON
    return Fate.COMMIT
