"""`python -m benchmarks`: measures what the targets are about, on servers of its own, and prints figures next to targets."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import click
import rich.console

from benchmarks import flush, redis_inside, reports, results, serving

# In the order in which they run.
_SERVING = (*serving.PARTS, *serving.WORKER_PARTS)
PARTS = (*_SERVING, "flush", "redis", "reports")
_MEMORY = pathlib.Path("/dev/shm")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Extent:
    serving: serving.Extent
    flush_records: int
    redis_lifecycles: int
    reports: reports.Extent


_YEAR = reports.Extent(accounts=2_000, days=365, purchases=500_000)
_QUICK = _Extent(
    serving=serving.Extent(rounds=3, lag_s=5.0, memory_lifecycles=20_000),
    flush_records=40_000,
    redis_lifecycles=20_000,
    reports=reports.Extent(accounts=2_000, days=60, purchases=20_000),
)
_DEFAULT = _Extent(
    serving=serving.Extent(rounds=7, lag_s=15.0, memory_lifecycles=60_000),
    flush_records=200_000,
    redis_lifecycles=40_000,
    reports=_YEAR,
)
_LONG = _Extent(
    serving=serving.Extent(rounds=15, lag_s=60.0, memory_lifecycles=1_000_000),
    flush_records=200_000,
    redis_lifecycles=200_000,
    reports=_YEAR,
)


def _directory() -> str | None:
    """Memory where there is some: a disk shared with others would be what is measured. None is the system's temporary directory."""
    return str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None


def _load_line() -> results.Line:
    """Whether the machine was ours: neighbours slow the two sides of a ratio unequally, and a latency by their time slices."""
    load = os.getloadavg()[0]
    return results.Line(
        name="load of the machine before", measured=load, unit="", note="above 0.5 it is shared: repeat"
    )


def _fsync_line(directory: pathlib.Path) -> results.Line:
    """What an acknowledged write waits for on this disk."""
    path, times_s = directory / "fsync", list[float]()
    with path.open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(300))
            begin_s = time.perf_counter()
            os.fsync(file.fileno())
            times_s.append(time.perf_counter() - begin_s)
    path.unlink()
    return results.Line(
        name="fsync of the stores' disk, p50",
        measured=statistics.median(times_s) * 1e6,
        unit="µs",
        note="memory unless --directory names a disk",
    )


def _measure(
    parts: Sequence[str], extent: _Extent, directory: str | None, tell: Callable[[Sequence[results.Line]], None]
) -> bool:
    """Runs the parts, tells of each figure as it comes; whether all targets were met."""
    all_pass = True

    def told(lines: Sequence[results.Line]) -> None:
        nonlocal all_pass
        all_pass = all_pass and all(line.passes is not False for line in lines)
        tell(lines)

    # Unix users that a store may run as must be able to enter; temporary directories are their maker's alone.
    with tempfile.TemporaryDirectory(prefix="meterd-bench-", dir=directory) as temporary:
        root = pathlib.Path(temporary)
        root.chmod(0o711)
        told([_load_line(), _fsync_line(root)])
        if chosen := [part for part in parts if part in _SERVING]:
            serving.run(root / "serving", chosen, extent.serving, told)
        if "flush" in parts:
            told(flush.run(root / "flush", count=extent.flush_records))
        if "redis" in parts:
            told(redis_inside.run(root / "redis", count=extent.redis_lifecycles))
        if "reports" in parts:
            told(reports.run(root / "reports", extent.reports))
    return all_pass


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--quick", "extent", flag_value="quick", help="A minute or two; figures are rougher.")
@click.option("--long", "extent", flag_value="long", help="A million lifecycles for the memory's part.")
@click.option("--directory", help="Where the stores keep their data. [default: memory, /dev/shm, if there is any]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as figures come.")
def main(parts: tuple[str, ...], extent: str | None, directory: str | None, as_json: bool) -> None:
    """Measure all PARTS, or those named. Exit status 1 if a target was missed."""
    console, begin_s = rich.console.Console(), time.monotonic()
    lines = list[results.Line]()

    def tell(found: Sequence[results.Line]) -> None:
        lines.extend(found)
        for line in found:
            if as_json:
                click.echo(json.dumps(line.as_json()))
            else:
                # The table comes at the end; who waits for it sees how far it is.
                click.echo(f"  {line.name}: {results.number(line)}", err=True)

    extents = {"quick": _QUICK, "long": _LONG, None: _DEFAULT}
    all_pass = _measure(parts or PARTS, extents[extent], directory or _directory(), tell)
    if not as_json:
        results.show(console, f"meterd, {extent or 'default'} run of {time.monotonic() - begin_s:.0f} s", lines)
    sys.exit(0 if all_pass else 1)


if __name__ == "__main__":
    main()
