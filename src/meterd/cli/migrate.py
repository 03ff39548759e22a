"""`meterd migrate`: brings the ledger's database up to date."""

from __future__ import annotations

import asyncio
import sys

import click

from meterd.cli import console
from meterd.postgres import migrate as migrations

# As many as a Redis cluster has slots; the schema says the same.
PARTITIONS_MAX = 16_384


@click.command("migrate", short_help="Create or update the tables in Postgres.")
@console.postgres_option
@click.option("--check", is_flag=True, help="Only say what is pending.")
@click.option(
    "--partitions",
    type=click.IntRange(1, PARTITIONS_MAX),
    help="Partitions of the ledger, for ever; counts the first time only. [default: 64]",
)
@console.json_option
@console.guarded
def migrate(postgres: str, check: bool, partitions: int | None, as_json: bool) -> None:
    """Bring the database up to date. Any number of runs may happen at once; a repeat changes nothing.

    Example: meterd migrate --postgres postgresql://meterd@localhost/meterd

    Exit status: 0, or 1 if it failed or --check found something pending, 3 if Postgres is away.
    """
    try:
        if check:
            versions = asyncio.run(migrations.pending(postgres))
        else:
            versions = asyncio.run(
                migrations.migrate(
                    postgres,
                    partitions=migrations.PARTITIONS_DEFAULT if partitions is None else partitions,
                )
            )
    except migrations.MigrationError as exc:
        raise console.Failure(str(exc)) from exc
    if as_json:
        console.print_json({"pending" if check else "applied": versions})
    elif versions:
        click.echo(f"{'Pending' if check else 'Applied'}: {', '.join(versions)}.")
    else:
        click.echo("The database is up to date.")
    if check and versions:
        sys.exit(console.EXIT_FAILED)
