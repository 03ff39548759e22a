"""One hold as a value: what is known of its call, and what that makes of its end. No I/O, no clock."""

from __future__ import annotations

import dataclasses
import enum

from meterd_client import bodies, errors, ids, requests, streams
from meterd_client.v1 import metering_pb2, types_pb2

Ending = metering_pb2.CommitRequest | metering_pb2.ReleaseRequest | metering_pb2.ChargeRequest
Advice = metering_pb2.ReportResponse.Advice

# Reports are cheap, but not free: as often as a person would notice, or sooner where the output runs fast.
REPORT_INTERVAL_S = 1.0
REPORT_TOKENS = 256
# A block that hangs must not keep its hold for ever.
EXTENDED_MAX_S = 24 * 3600.0
# The rest of the hold's life is for retries.
EXTEND_AT_SHARE = 2 / 3
# A report that fails so does no harm: the next one tells all of it again, and a hold that has ended takes a late Commit.
REPORT_LOST = (errors.UndecidedError, errors.HoldEndedError, errors.NotFoundError)


class Phase(enum.Enum):
    """OPEN: nothing was asked yet. ENDING: the end is on its way, and what it says is fixed. ENDED: it is decided, or in the spool."""

    OPEN = 1
    ENDING = 2
    ENDED = 3


@dataclasses.dataclass(slots=True)
class Holding:
    """`hold` None: nothing is set aside (on_undecided="allow"); what the call uses is charged afterwards."""

    request: metering_pb2.ReserveRequest
    hold: types_pb2.Hold | None
    phase: Phase = Phase.OPEN
    # Not one more output token is covered.
    is_stopped: bool = False
    # The caller has tried to commit: its call has been made, whatever comes after.
    has_finished: bool = False
    reported: types_pb2.Usage | None = None
    streams: list[streams.Progress] = dataclasses.field(default_factory=list)
    # Output tokens that the last advice covers; None as long as there is none.
    covered_tokens: int | None = None
    report_s: float = 0.0
    report_tokens: int = 0

    @property
    def hold_id(self) -> str:
        return self.request.hold_id if self.hold is None else self.hold.hold_id

    @property
    def amount_micros(self) -> int:
        return self.hold.amount_micros if self.hold is not None else 0

    @property
    def max_output_tokens(self) -> int:
        return self.hold.max_output_tokens if self.hold is not None else self.request.model.max_output_tokens

    @property
    def is_model(self) -> bool:
        return self.request.WhichOneof("charge") == "model"

    @property
    def input_tokens(self) -> int:
        """Of the prompt, as given or as meterd has counted it; a quarter of its bytes where neither is known."""
        if self.hold is not None and self.hold.input_tokens:
            return self.hold.input_tokens
        model = self.request.model
        return model.input_tokens or len(model.prompt.encode()) // streams.BYTES_PER_TOKEN

    @property
    def output_tokens(self) -> int:
        return sum(stream.output_tokens for stream in self.streams)

    @property
    def is_known(self) -> bool:
        """Whether anything is known of what the call used, or that it was made at all."""
        return self.has_finished or self.reported is not None or any(stream.chunks for stream in self.streams)

    def usage(self) -> types_pb2.Usage:
        """All so far: what the caller reported, or else what its streams told."""
        if self.reported is not None:
            return self.reported
        input_tokens = self.input_tokens
        return bodies.summed(stream.usage(input_tokens) for stream in self.streams if stream.chunks)

    # ---- progress

    def wants_report(self, now_s: float) -> bool:
        """Whether it is time for a Report. A yes counts as one that was sent."""
        if self.hold is None or not self.is_model or self.phase is not Phase.OPEN:
            return False
        tokens = self.output_tokens
        if now_s - self.report_s < REPORT_INTERVAL_S and tokens - self.report_tokens < REPORT_TOKENS:
            return False
        self.report_s, self.report_tokens = now_s, tokens
        return True

    def report_request(self) -> metering_pb2.ReportRequest:
        return metering_pb2.ReportRequest(hold_id=self.hold_id, usage=self.usage())

    def advise(self, asked: metering_pb2.ReportRequest, answer: metering_pb2.ReportResponse) -> None:
        """Takes the answer to a Report: how many output tokens in all are covered now."""
        if self.hold is not None and self.hold.unlimited:
            return
        # CONTINUE too: what was reserved is covered, but a provider that was not told may go on beyond it.
        self.covered_tokens = asked.usage.output_tokens + answer.affordable_output_tokens
        self.is_stopped = self.is_stopped or answer.advice == metering_pb2.ReportResponse.ADVICE_STOP
        self.check_covered()

    def check_covered(self) -> None:
        """Stops where the output has reached what is covered."""
        if self.covered_tokens is not None and self.output_tokens >= self.covered_tokens:
            self.is_stopped = True

    # ---- the end

    def committing(self, used: object) -> Ending:
        """The end that the caller asks for, with its response or Usage; None: the held amount, or what the streams told."""
        self.has_finished = True
        if used is not None:
            return self._ending(requests.actual(used))
        return self._told() if self.is_model else self._fixed()

    @property
    def is_known_by_streams(self) -> bool:
        return any(stream.chunks for stream in self.streams)

    def committing_quantity(self, quantity: requests.Quantity) -> Ending:
        """The end of a hold of a rate, by its real quantity."""
        self.has_finished = True
        return self._fixed(requests.decimal_text(quantity))

    def releasing(self, reason: str) -> Ending | None:
        """None: there is nothing to release."""
        return None if self.hold is None else metering_pb2.ReleaseRequest(hold_id=self.hold_id, reason=reason)

    def leaving(self, *, failed: bool) -> tuple[Ending | None, bool]:
        """The end of a block that has not ended its hold, and whether it should have said a usage and did not.

        failed (an exception or a cancellation): what is known, PARTIAL; everything back if nothing is.
        Otherwise what its streams told; for a feature, a rate or credits the held amount; for a model of which nothing is known the last
        report, or else the whole hold: a finished call is never free.
        """
        if not self.is_model:
            return (self.releasing("the call failed") if failed and not self.is_known else self._fixed()), False
        if self.is_known_by_streams or self.reported is not None:
            return self._told(partial=failed), False
        if failed and not self.has_finished:
            return self.releasing("the call failed before anything was used"), False
        return self._ending({"usage": requests.absent()}), not failed

    def leaving_otherwise(self) -> Ending:
        """The end of a model's block whose first end meterd could not read: its usage as this client reads it, or the last report."""
        if self.is_known_by_streams or self.reported is not None:
            return self._ending(requests.actual(self.usage(), types_pb2.USAGE_STATE_ESTIMATED))
        return self._ending({"usage": requests.absent()})

    def _told(self, *, partial: bool = False) -> Ending:
        """What the caller reported or the streams told, with the state that it deserves."""
        used = [stream for stream in self.streams if stream.chunks]
        if self.reported is not None:
            state = types_pb2.USAGE_STATE_PARTIAL if partial else types_pb2.USAGE_STATE_REPORTED
        elif all(stream.is_final for stream in used):
            if not used:
                return self._ending({"usage": requests.absent()})
            if len(used) == 1:
                return self._ending(requests.actual(used[0].body))
            state = types_pb2.USAGE_STATE_REPORTED
        elif partial or self.is_stopped or not all(stream.is_exhausted for stream in used):
            state = types_pb2.USAGE_STATE_PARTIAL
        else:
            state = types_pb2.USAGE_STATE_ESTIMATED
        return self._ending(requests.actual(self.usage(), state))

    def _ending(self, actual: dict[str, object]) -> Ending:
        if self.hold is not None:
            return metering_pb2.CommitRequest(hold_id=self.hold_id, **actual)  # type: ignore[arg-type]
        model = self.request.model
        usage = metering_pb2.ModelUsage(
            provider=model.provider,
            model=model.model,
            service_tier=model.service_tier,
            **actual,  # type: ignore[arg-type]
        )
        if usage.usage.usage_state == types_pb2.USAGE_STATE_ABSENT:
            # There is no hold that could be charged instead: what would have been held.
            most = types_pb2.Usage(input_tokens=self.input_tokens, output_tokens=model.max_output_tokens)
            usage.usage.CopyFrom(
                metering_pb2.ReportedUsage(usage=most, usage_state=types_pb2.USAGE_STATE_ESTIMATED),
            )
        return self._late(model_usage=usage)

    def _fixed(self, quantity: str = "") -> Ending:
        """The end of a hold that is not for a model."""
        if self.hold is not None:
            commit = metering_pb2.CommitRequest(hold_id=self.hold_id)
            if quantity:
                commit.quantity = quantity
            return commit
        match self.request.WhichOneof("charge"):
            case "feature":
                return self._late(feature=self.request.feature)
            case "rate":
                rate = types_pb2.RateCharge(
                    rate=self.request.rate.rate, quantity=quantity or self.request.rate.quantity
                )
                return self._late(rate=rate)
            case _:
                return self._late(credits=self.request.credits)

    def _late(self, **item: object) -> metering_pb2.ChargeRequest:
        """A charge for a call that was let pass. Not all or nothing: what the wallet does not cover is recorded as uncollected."""
        request = self.request
        return metering_pb2.ChargeRequest(
            idempotency_key=ids.uuid7(),
            account_id=request.account_id,
            wallet=request.wallet,
            subject=request.subject,
            metadata=request.metadata,
            overage_policy=request.overage_policy or types_pb2.OVERAGE_POLICY_DRAW,
            **item,  # type: ignore[arg-type]
        )
