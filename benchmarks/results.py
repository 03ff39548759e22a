"""What a benchmark answers: measured figures, each with the target that it has to meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure. `target` is what it must reach (at_least) or stay below (at_most); None: for information.

    `measured` None: it could not be measured here, and the note says why.
    """

    name: str
    measured: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def passes(self) -> bool | None:
        """None without a target or a figure."""
        if self.measured is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.measured >= self.at_least
        return low and (self.at_most is None or self.measured <= self.at_most)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"passes": self.passes}


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 or value == int(value) else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def number(line: Line) -> str:
    """The figure with its unit."""
    return _number(line.measured, line.unit)


def _target(line: Line) -> str:
    parts = list[str]()
    if line.at_least is not None:
        parts.append(f"≥ {_number(line.at_least, line.unit)}")
    if line.at_most is not None:
        parts.append(f"≤ {_number(line.at_most, line.unit)}")
    return ", ".join(parts) or "–"


def show(console: rich.console.Console, title: str, lines: Sequence[Line]) -> None:
    """Prints the lines as a table."""
    table = rich.table.Table("figure", title=title, title_justify="left")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("")
    table.add_column("note")
    marks = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: ""}
    for line in lines:
        table.add_row(line.name, _number(line.measured, line.unit), _target(line), marks[line.passes], line.note)
    console.print(table)
