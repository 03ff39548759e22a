"""Traces are read exactly, refused by line number, and generated the same way each time."""

from __future__ import annotations

import itertools
import pathlib

import pytest

from meterd.replay import trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
ROW = "2023-11-16 18:17:03.9799600,4808,10\r\n"


def test_a_row_keeps_its_seventh_fractional_digit() -> None:
    (request,) = trace.parse([HEADER, "2023-11-16 18:17:03.9799601,4808,10\r\n"])
    assert trace.Request(at_ns=1_700_158_623_979_960_100, context_tokens=4808, generated_tokens=10) == request


def test_rows_are_put_in_the_order_of_their_time() -> None:
    found = trace.parse([HEADER, ROW, "2023-11-16 18:17:03.0000000,1,2\n"])
    assert [request.context_tokens for request in found] == [1, 4808]


def test_a_limit_stops_before_later_rows_are_looked_at() -> None:
    assert len(trace.parse([HEADER, ROW, "nonsense\n"], limit=1)) == 1


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([], 1, "the header must be"),
        (["TIMESTAMP,ContextTokens\n"], 1, "the header must be"),
        ([HEADER], 2, "no request follows"),
        ([HEADER, ROW, "2023-11-16 18:17:04,1\n"], 3, "expected 3 fields, found 2"),
        ([HEADER, "2023-11-16 18:17:04,1,2,3\n"], 2, "expected 3 fields, found 4"),
        ([HEADER, "2023-13-16 18:17:04.0000000,1,2\n"], 2, "TIMESTAMP '2023-13-16 18:17:04.0000000'"),
        ([HEADER, "2023-11-16T18:17:04,1,2\n"], 2, "TIMESTAMP"),
        ([HEADER, "2023-11-16 18:17:04.,1,2\n"], 2, "TIMESTAMP"),
        ([HEADER, "2023-11-16 18:17:04,-1,2\n"], 2, "ContextTokens '-1'"),
        ([HEADER, "2023-11-16 18:17:04,nan,2\n"], 2, "ContextTokens 'nan'"),
        ([HEADER, "2023-11-16 18:17:04,1,1.5\n"], 2, "GeneratedTokens '1.5'"),
        ([HEADER, "2023-11-16 18:17:04,1,\n"], 2, "GeneratedTokens ''"),
        ([HEADER, "2023-11-16 18:17:04,1,1000000000001\n"], 2, "GeneratedTokens '1000000000001'"),
        ([HEADER, "2023-11-16 18:17:04,1,١\n"], 2, "GeneratedTokens"),
        ([HEADER, ROW, "x" * 1000 + "\n"], 3, "expected 3 fields, found 1"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_number(lines: list[str], line: int, words: str) -> None:
    with pytest.raises(trace.TraceError, match=words.replace("'", "'")) as caught:
        trace.parse(lines)
    assert line == caught.value.line
    assert str(caught.value).startswith(f"line {line}: ")


def test_a_file_that_is_not_text_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(trace.TraceError, match="not UTF-8"):
        trace.read(path)


def test_the_same_seed_generates_the_same_trace_and_another_seed_another() -> None:
    assert trace.generate(50, seed=7) == trace.generate(50, seed=7)
    assert trace.generate(50, seed=7) != trace.generate(50, seed=8)


def test_a_generated_trace_reads_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    made = trace.generate(300, seed=1)
    path = tmp_path / "trace.csv"
    path.write_text(trace.format_csv(made), newline="")
    assert made == trace.read(path)


def test_a_generated_trace_has_bursts_and_pauses() -> None:
    made = trace.generate(2_000, seed=3)
    gaps_ns = [later.at_ns - earlier.at_ns for earlier, later in itertools.pairwise(made)]
    assert sum(gap_ns < 100_000_000 for gap_ns in gaps_ns) > 1_600
    assert sum(gap_ns > 1_000_000_000 for gap_ns in gaps_ns) > 100
