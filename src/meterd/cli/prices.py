"""`meterd prices`: looks into price books, compares them and checks price files."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import pathlib
import re
import sys
import time

import asyncpg
import click
import orjson
import rich.console
import rich.table

from meterd.core import errors, pricing
from meterd.postgres import catalog, pool
from meterd.pricing import books, listing, yaml_file

_VERSION = re.compile(r"[0-9a-f]{12}\Z")
BUNDLED = "bundled"

_prices_option = click.option(
    "--prices",
    "source",
    envvar=("METERD_PRICES", "METERD_PRICES_FILE"),
    default=BUNDLED,
    show_default=True,
    metavar="BOOK",
    help="Price file, dumped book, version or 'bundled'. [env: METERD_PRICES or METERD_PRICES_FILE]",
)
_postgres_option = click.option(
    "--postgres",
    envvar="METERD_POSTGRES_DSN",
    default="",
    metavar="DSN",
    help="Postgres of the ledger, where versions are kept. [env: METERD_POSTGRES_DSN]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _Unreadable(click.ClickException):
    """A book that cannot be compared; apart from the status for books that differ."""

    exit_code = 2


@click.group("prices", short_help="Look into prices, compare and check them.")
def prices() -> None:
    """Look into price books, compare them and check price files.

    A BOOK is the path of a price file (YAML) or of a dumped book (JSON), a version such as 0f7b6c194711 (with --postgres), or
    'bundled': the prices that come with meterd.
    """


@prices.command("show", short_help="What a model costs.")
@click.argument("model")
@click.option("--provider", default="", help="Its provider; found from the model's name if not given.")
@click.option("--tier", default="", help="Service tier, such as batch, flex or priority.")
@click.option(
    "--at", default="", metavar="TIME", help="Date or time (2026-01-31, 2026-01-31T12:00:00Z); now if not given."
)
@_prices_option
@_postgres_option
@_json_option
def show(model: str, provider: str, tier: str, at: str, source: str, postgres: str, as_json: bool) -> None:
    """What MODEL costs: USD, and credits with the margin, by class of usage.

    Example: meterd prices show gpt-4o-mini --tier batch

    Exit status: 0, or 1 if the model has no price.
    """
    book = _book(source, postgres)
    at_ms = _at_ms(at)
    try:
        rows = listing.rows(book, provider, model, tier, at_ms)
        basis = pricing.resolve(book, provider, model).basis
    except errors.MeterdError as exc:
        raise click.ClickException(str(exc)) from exc
    if as_json:
        answer = {
            "item": basis.item,
            "price_version": basis.price_version,
            "margin": basis.margin,
            "credit_value_usd": book.credit_value_usd,
            "quarantined": basis.quarantined,
            "prices": [dataclasses.asdict(row) for row in rows],
        }
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(
        f"{basis.item}{f' ({tier})' if tier else ''}, margin × {basis.margin}, price version {basis.price_version}"
    )
    table = rich.table.Table("class", "input above", "units", "USD", "credits")
    for row in rows:
        above = f"{row.above_input_tokens:,}" if row.above_input_tokens else ""
        table.add_row(row.usage_class, above, f"{row.per:,}", row.usd, row.credits)
    rich.console.Console().print(table)
    if basis.quarantined:
        click.echo("Unknown model, priced at the ceiling rate of the price file (quarantine).")


@prices.command("diff", short_help="What differs between two price books.")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@_postgres_option
@_json_option
def diff(before: str, after: str, postgres: str, as_json: bool) -> None:
    """What B charges differently from A; model prices in USD per million tokens or thousand calls.

    Exit status: 0 if they charge the same, 1 if they differ, 2 if one cannot be read.
    """
    try:
        old, new = _book(before, postgres), _book(after, postgres)
    except click.ClickException as exc:
        raise _Unreadable(exc.message) from exc
    changes = listing.changes(old, new)
    if as_json:
        rows = [dataclasses.asdict(change) for change in changes]
        click.echo(json.dumps({"before": old.version, "after": new.version, "changes": rows}, indent=2))
    elif changes:
        table = rich.table.Table("item", "price", f"A {old.version}", f"B {new.version}")
        for change in changes:
            table.add_row(change.item, change.name, change.before or "-", change.after or "-")
        rich.console.Console().print(table)
    else:
        click.echo(f"Both charge the same ({old.version}).")
    sys.exit(1 if changes else 0)


@prices.command("check", short_help="Check a price file.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=pathlib.Path, dir_okay=False))
@_json_option
def check(path: pathlib.Path, as_json: bool) -> None:
    """Read FILE as the server would, and say what is wrong with it and where, or what is in it.

    Exit status: 0 if it is right, 1 if it is not.
    """
    try:
        book = books.compiled_file(path)
    except yaml_file.FileError as exc:
        if as_json:
            problem = {"line": exc.line, "place": exc.place, "reason": exc.reason}
            click.echo(json.dumps({"ok": False, "error": problem}, indent=2))
            sys.exit(1)
        raise click.ClickException(str(exc)) from exc
    counts = listing.counts(book)
    if as_json:
        click.echo(json.dumps({"ok": True, "price_version": book.version, **counts}, indent=2))
        return
    click.echo(
        f"{path}: right. Version {book.version}: {counts['own_models']} own models, {counts['features']} features, "
        f"{counts['rates']} rates, on top of {counts['models']} known models."
    )


def _book(source: str, postgres: str) -> pricing.PriceBook:
    if source == BUNDLED:
        return books.compiled()
    path = pathlib.Path(source)
    try:
        if path.exists():
            return books.load(path.read_bytes()) if path.suffix == ".json" else books.compiled_file(path)
        if not _VERSION.match(source):
            raise click.ClickException(f"{source}: no such file")
        if not postgres:
            raise click.ClickException(f"{source}: a version is kept in Postgres; name it with --postgres")
        return asyncio.run(_stored(source, postgres))
    except (errors.MeterdError, asyncpg.PostgresError, *pool.AWAY) as exc:
        raise click.ClickException(f"{source}: {exc}" if source not in str(exc) else str(exc)) from exc


async def _stored(version: str, postgres: str) -> pricing.PriceBook:
    connections = await pool.create(postgres, size_max=1, application_name="meterd prices")

    async def load(asked: str) -> pricing.PriceBook:
        return await books.load_any(orjson.dumps(await catalog.price_book(connections, asked)), load)

    try:
        return await load(version)
    finally:
        await connections.close()


def _at_ms(text: str) -> int:
    if not text:
        return time.time_ns() // 1_000_000
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter("must be a date or a time such as 2026-01-31T12:00:00Z", param_hint="--at") from exc
    at = at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
    return (at - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
