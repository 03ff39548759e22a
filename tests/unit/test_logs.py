"""Whatever stands in a message, a log entry is one line: nobody can write entries of their own into the log."""

from __future__ import annotations

import json
import logging

import pytest

from meterd.cli import logs

FORGED = "x\r\n2026-11-21 10:00:00 INFO    meterd: all is well\x1b[2J\u2028{}"


@pytest.fixture(autouse=True)
def _root() -> object:  # pyright: ignore[reportUnusedFunction]
    """The root logger's handlers, as they were."""
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)


def test_an_entry_in_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("meterd.test").exception("refused %s", FORGED)
    (line,) = capsys.readouterr().err.removesuffix("\n").split("\n")
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "meterd.test", f"refused {FORGED}")
    assert "ValueError" in entry["exception"]
    assert "\r" not in line and "\x1b" not in line


def test_a_line_of_text_ends_where_its_message_ends(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("meterd.test").warning("refused %s", FORGED)
    (line,) = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert line.endswith(r"x\r\n2026-11-21 10:00:00 INFO    meterd: all is well\x1b[2J\u2028{}")


def test_a_fault_of_the_program_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("meterd.test").exception("broken")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("broken") and "Traceback" in lines[1]
