"""Named SQL: each .sql file here holds blocks that begin with `-- name: …`."""

from __future__ import annotations

import pathlib
import re

_NAME = re.compile(r"^-- name: ([a-z_]+)\n", re.MULTILINE)


def read(file: str) -> dict[str, str]:
    """The blocks of `file` (without its ending) by name."""
    text = (pathlib.Path(__file__).parent / f"{file}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    blocks = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    assert len(blocks) * 2 == len(parts) - 1, f"{file}.sql: a name stands twice"
    return blocks
