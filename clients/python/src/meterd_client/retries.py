"""When a call is tried again: always with the same bytes, so with the same id, and never past its time."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import grpc

# Doubled from try to try; each is between half of it and all of it, so that callers do not return in step.
DELAY_FIRST_S = 0.05
DELAY_MAX_S = 1.0
PUSHBACK = "grpc-retry-pushback-ms"
# After these the effect may have happened, or not yet: the id makes a repeat harmless. CANCELLED is here for servers and proxies that
# cancel; a call that its caller cancels never comes here. INTERNAL and UNKNOWN are also how a connection cut in mid-answer looks.
_RETRIED = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    )
)


def is_retried(code: grpc.StatusCode) -> bool:
    """Whether a call that ended so may be decided another time."""
    return code in _RETRIED or code is grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclasses.dataclass(slots=True)
class Attempts:
    """The tries of one call. Times are monotonic seconds."""

    deadline_s: float
    attempt_timeout_s: float
    count: int = 0

    def timeout_s(self, now_s: float) -> float:
        """The deadline of the next try."""
        return max(0.001, min(self.attempt_timeout_s, self.deadline_s - now_s))

    def delay_s(self, code: grpc.StatusCode, trailers: object, now_s: float) -> float | None:
        """How long to wait before the next try; None if there is none."""
        pushback_s = _pushback_s(trailers)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Without a pushback it is a message that is too large, which no repeat makes smaller.
            if pushback_s is None:
                return None
        elif code not in _RETRIED:
            return None
        most_s = min(DELAY_MAX_S, DELAY_FIRST_S * 2**self.count)
        self.count += 1
        delay_s = (pushback_s or 0.0) + most_s * random.uniform(0.5, 1.0)
        return delay_s if now_s + delay_s < self.deadline_s else None


def _pushback_s(trailers: object) -> float | None:
    """What the server asks to wait; None if it does not say, or says never (a negative number)."""
    if not isinstance(trailers, Iterable):
        return None
    for pair in trailers:
        if isinstance(pair, tuple) and len(pair) == 2 and pair[0] == PUSHBACK:
            text = pair[1].decode() if isinstance(pair[1], bytes) else str(pair[1])
            return int(text) / 1000 if text.isdigit() else None
    return None
