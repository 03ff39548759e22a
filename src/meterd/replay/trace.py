"""LLM traces in the Azure format: read, checked row by row; or generated from a seed."""

from __future__ import annotations

import dataclasses
import datetime
import io
import itertools
import pathlib
import random
import re
from collections.abc import Iterable, Sequence

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
# What a Usage may carry at most in one class (types.proto).
TOKENS_MAX = 10**12
# A longer line is not a row of such a trace, and would only fill an error message.
LINE_CHARS_MAX = 256
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\Z", re.ASCII)
_COUNT = re.compile(r"\d{1,13}\Z", re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

# Shape of generated traces: the medians and spreads of the code-completion requests in Azure's 2023 trace.
_CONTEXT_LOG_MEAN, _CONTEXT_LOG_SIGMA, _CONTEXT_TOKENS_MAX = 7.0, 1.36, 7_437
_GENERATED_LOG_MEAN, _GENERATED_LOG_SIGMA, _GENERATED_TOKENS_MAX = 2.79, 0.85, 1_899
# Requests come in bursts: after each, the next one follows fast with this probability, otherwise after a pause.
_BURST_SHARE = 0.85
_BURST_GAP_MEAN_S, _PAUSE_MEAN_S = 0.02, 2.0
_GENERATED_START_NS = 1_700_158_623_000_000_000


class TraceError(ValueError):
    """A row that is not what the format says. `line` counts from 1, the header included."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One LLM call of a trace: when it came (ns since 1970, UTC), what went in and what came out."""

    at_ns: int
    context_tokens: int
    generated_tokens: int


def read(path: pathlib.Path, limit: int | None = None) -> list[Request]:
    """The first `limit` requests of a trace file, in the order of their time. Errors: TraceError, OSError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(lines, limit)
    except UnicodeDecodeError as exc:
        raise TraceError(0, "the file is not UTF-8 text") from exc


def parse(lines: Iterable[str], limit: int | None = None) -> list[Request]:
    """The first `limit` requests of a trace, in the order of their time. Raises TraceError at the first bad row, and if there is none."""
    numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
    number, header = next(numbered, (1, ""))
    if tuple(header.split(",")) != HEADER:
        raise TraceError(number, f"the header must be {','.join(HEADER)}")
    rows = (_row(number, line) for number, line in numbered if line)
    found = list(itertools.islice(rows, limit))
    if not found:
        raise TraceError(number + 1, "no request follows the header")
    return sorted(found, key=lambda request: request.at_ns)


def _row(number: int, line: str) -> Request:
    fields = line.split(",")
    if len(line) > LINE_CHARS_MAX or len(fields) != len(HEADER):
        raise TraceError(number, f"expected 3 fields, found {len(fields)} in {line[:LINE_CHARS_MAX]!r}")
    return Request(
        at_ns=_nanoseconds(number, fields[0]),
        context_tokens=_tokens(number, "ContextTokens", fields[1]),
        generated_tokens=_tokens(number, "GeneratedTokens", fields[2]),
    )


def _nanoseconds(number: int, text: str) -> int:
    # datetime knows microseconds; Azure writes 100 ns steps, which must not be rounded away.
    match = _TIMESTAMP.match(text)
    try:
        if match is None:
            raise ValueError("expected YYYY-MM-DD HH:MM:SS.fffffff")
        moment = datetime.datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC)
    except ValueError as exc:
        raise TraceError(number, f"TIMESTAMP {text!r} is not a time such as 2023-11-16 18:17:03.9799600") from exc
    return int((moment - _EPOCH).total_seconds()) * 10**9 + int((match[2] or "0").ljust(9, "0"))


def _tokens(number: int, field: str, text: str) -> int:
    if not _COUNT.match(text) or int(text) > TOKENS_MAX:
        raise TraceError(number, f"{field} {text!r} is not a whole number from 0 to 10^12")
    return int(text)


def generate(count: int, seed: int) -> list[Request]:
    """`count` requests with log-normal token counts that come in bursts. The same seed gives the same trace."""
    if count < 1:
        raise ValueError("count must be at least 1")
    dice = random.Random(seed)
    found = list[Request]()
    at_ns = _GENERATED_START_NS
    for _ in range(count):
        context = dice.lognormvariate(_CONTEXT_LOG_MEAN, _CONTEXT_LOG_SIGMA)
        generated = dice.lognormvariate(_GENERATED_LOG_MEAN, _GENERATED_LOG_SIGMA)
        found.append(
            Request(
                at_ns=at_ns,
                context_tokens=min(max(1, round(context)), _CONTEXT_TOKENS_MAX),
                generated_tokens=min(max(1, round(generated)), _GENERATED_TOKENS_MAX),
            )
        )
        gap_mean_s = _BURST_GAP_MEAN_S if dice.random() < _BURST_SHARE else _PAUSE_MEAN_S
        # Whole 100 ns, which is what the format holds.
        at_ns += round(dice.expovariate(1 / gap_mean_s) * 10**7) * 100
    return found


def format_csv(requests: Sequence[Request]) -> str:
    """The trace as Azure writes it: 7 fractional digits, CR LF."""
    out = io.StringIO()
    out.write(",".join(HEADER) + "\r\n")
    for request in requests:
        second, part_ns = divmod(request.at_ns, 10**9)
        moment = _EPOCH + datetime.timedelta(seconds=second)
        out.write(
            f"{moment:%Y-%m-%d %H:%M:%S}.{part_ns // 100:07d},{request.context_tokens},{request.generated_tokens}\r\n"
        )
    return out.getvalue()
