"""What the commands share: options, amounts and times as people write them, tables and JSON, and exit codes."""

from __future__ import annotations

import datetime
import functools
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

import click
import rich.console
import rich.table
import rich.text

from meterd import settings
from meterd.core import errors, money

P = ParamSpec("P")
R = TypeVar("R")

# The command did not do what was asked, or found what should not be.
EXIT_FAILED = 1
EXIT_USAGE = 2
# A store or server is away; the same command may succeed later.
EXIT_UNAVAILABLE = 3

SERVER_DEFAULT = settings.Settings().listen

_CREDITS = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?\Z")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Postgres could not be reached or does not take part at present; all its other errors are failures.
_UNAVAILABLE_SQLSTATES = ("08", "53", "57P")
_UNAVAILABLE_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"})
_USAGE_CODES = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})


class Failure(click.ClickException):
    """Ends the command with one line on standard error."""

    exit_code = EXIT_FAILED


class Misuse(Failure):
    """What was asked for cannot be done, whatever the state of things."""

    exit_code = EXIT_USAGE


class Unavailable(Failure):
    """A store or server is away."""

    exit_code = EXIT_UNAVAILABLE


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turns the faults of stores and servers into one line and an exit code. What is left is a defect, and shows its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            failure = failure_of(exc)
            if failure is None:
                raise
            raise failure from exc

    return run


def failure_of(exc: Exception) -> Failure | None:
    """What a command says about a fault; None for a defect of the program. Passwords of URLs are masked."""
    text = settings.masked(str(exc)) or type(exc).__name__
    if isinstance(exc, errors.UnavailableError | errors.OverloadedError):
        return Unavailable(text)
    if isinstance(exc, errors.InvalidArgumentError | errors.OutOfRangeError | errors.ConfigError):
        return Misuse(text)
    if isinstance(exc, errors.MeterdError):
        return Failure(text)
    return _foreign_failure(exc, text)


def _foreign_failure(exc: Exception, text: str) -> Failure | None:
    """Only a command that has imported asyncpg or gRPC can have met their errors; importing either takes longer than most commands."""
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is not None and isinstance(exc, asyncpg.PostgresError):
        state = str(getattr(exc, "sqlstate", None) or "")
        kind = Unavailable if state.startswith(_UNAVAILABLE_SQLSTATES) else Failure
        return kind(f"Postgres: {text}")
    if asyncpg is not None and isinstance(exc, asyncpg.InterfaceError | asyncpg.InternalClientError):
        # A DSN that cannot be read is a ValueError too.
        kind = Misuse if isinstance(exc, ValueError) else Unavailable
        return kind(f"Postgres: {text}")
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(exc, grpc.RpcError):
        # A call that failed is its own error.
        call: Any = exc
        code: str = call.code().name
        kind = Unavailable if code in _UNAVAILABLE_CODES else Misuse if code in _USAGE_CODES else Failure
        return kind(f"{code}: {_advised(call.details() or '')}")
    if asyncpg is not None and isinstance(exc, ConnectionError | TimeoutError | socket.gaierror):
        # Of the stores only Postgres' client lets the system's own errors through.
        return Unavailable(f"Postgres: {text}")
    return Unavailable(text) if isinstance(exc, OSError) else None


def _advised(details: str) -> str:
    """A call's fault; where nothing speaks gRPC, with what to do."""
    if not details.startswith("failed to connect to all addresses"):
        return details
    cause = details.rpartition("last error: ")[2]
    return f"no server speaks gRPC there: {cause}. Is it running? --server or METERD_SERVER names its gRPC port"


def _from_file(variable: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """Secret stores provide files; the server's settings read them, and so do commands that run beside it."""

    def value(_context: click.Context, parameter: click.Parameter, given: str) -> str:
        if given:
            return given
        if os.environ.get(f"{variable}_FILE"):
            try:
                return getattr(settings.read(os.environ), variable.removeprefix(settings.PREFIX).lower())
            except errors.ConfigError as exc:
                raise click.UsageError(str(exc)) from exc
        raise click.UsageError(f"name the store: {parameter.opts[0]} or {variable}")

    return value


postgres_option = click.option(
    "--postgres",
    envvar="METERD_POSTGRES_DSN",
    default="",
    metavar="DSN",
    callback=_from_file("METERD_POSTGRES_DSN"),
    help="The ledger's Postgres, postgresql://… [env: METERD_POSTGRES_DSN]",
)
redis_option = click.option(
    "--redis",
    "redis_url",
    envvar="METERD_REDIS_URL",
    default="",
    metavar="URL",
    callback=_from_file("METERD_REDIS_URL"),
    help="The ledger's Redis or Valkey, redis://… [env: METERD_REDIS_URL]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def credits_micros(text: str) -> int:
    """An option's amount in credits such as "12.5", exactly, as micro-credits. click.BadParameter says what is wrong with it."""
    if not _CREDITS.match(text):
        raise click.BadParameter(f"{text!r} is not an amount in credits such as 12.5")
    micros = money.scaled(Decimal(text), 6)
    if micros is None:
        raise click.BadParameter(f"{text}: the smallest amount is a micro-credit, 0.000001")
    if micros > money.AMOUNT_MAX_MICROS:
        raise click.BadParameter(f"{text}: the largest amount is {credits_text(money.AMOUNT_MAX_MICROS)} credits")
    return micros


def duration_s(text: str) -> int:
    """An option's duration such as "90d" (s, m, h, d or w) in seconds."""
    match = _DURATION.match(text)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{text!r} is not a duration such as 90d, 12h or 30m")
    return int(match[1]) * _UNIT_S[match[2]]


def time_of(text: str) -> datetime.datetime:
    """An option's date or time in ISO 8601; UTC unless it says otherwise."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not a date or time such as 2026-12-31 or 2026-12-31T12:00:00Z") from exc
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def credits_text(amount_micros: int) -> str:
    """Micro-credits as exact credits: 12_500_000 -> "12.5"."""
    return f"{'-' if amount_micros < 0 else ''}{money.decimal_string(abs(amount_micros), 6)}"


def time_text(time_ms: int) -> str:
    """Milliseconds since 1970 as UTC to the second; "" for 0, which stands for none."""
    if not time_ms:
        return ""
    return (_EPOCH + datetime.timedelta(milliseconds=time_ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", right: Sequence[str] = ()
) -> None:
    """`right` names the columns of numbers. Ids are never shortened: they are there to be copied."""
    table = rich.table.Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # Text from the ledger is text, whatever brackets it has.
        table.add_row(*(rich.text.Text(printable(str(value))) for value in row))
    # A pipe has no width to wrap at.
    width = None if sys.stdout.isatty() else 240
    rich.console.Console(width=width).print(table)


def printable(text: str) -> str:
    """Without characters that would steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
