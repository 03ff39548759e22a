"""`meterd keys`: makes, lists and revokes API keys, in Postgres itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from meterd.cli import console
from meterd.postgres import keys as stored
from meterd.postgres import pool, token_keys

T = TypeVar("T")

_tenant_option = click.option("--tenant", required=True, help="Tenant that the key acts for.")


@click.group("keys", short_help="Create, list and revoke API keys.")
def keys() -> None:
    """Create, list and revoke API keys. A key belongs to one tenant and has one role.

    meter: may call Metering and read accounts. read: may read accounts and call Estimate. admin: may also create accounts and grants.
    """


@keys.command("create", short_help="Create a key and print it, once.")
@_tenant_option
@click.option("--role", required=True, type=click.Choice(stored.ROLES), help="What it may call.")
@click.option("--name", default="", help="What it is for. Two keys of a tenant, role and name may live at once.")
@click.option(
    "--ttl",
    "ttl_s",
    type=console.duration_s,
    metavar="DURATION",
    help="Such as 90d; lasts until it is revoked if not given.",
)
@console.postgres_option
@console.json_option
@console.guarded
def create(tenant: str, role: str, name: str, ttl_s: int | None, postgres: str, as_json: bool) -> None:
    """Create a key and print it. Only its digest is kept: it cannot be shown again.

    To rotate: create the second key of the same name, give it to the clients, revoke the first. The tenant is created if it is new.

    Example: KEY=$(meterd keys create --tenant acme --role meter --name backend --ttl 90d)

    Exit status: 0, or 1 if two keys of that name live already, 2 for a bad option, 3 if Postgres is away.
    """
    created = asyncio.run(_with(postgres, lambda found: found.create(tenant, role, name=name, ttl_s=ttl_s)))
    if as_json:
        console.print_json({"key": created.key} | _document(created.row))
        return
    click.echo(created.key)
    until = f"until {console.time_text(created.row.expires_ms)}" if created.row.expires_ms else "until it is revoked"
    click.echo(f"Key {created.row.key_id} of tenant {tenant}, role {role}, {until}. It is not shown again.", err=True)


@keys.command("list", short_help="List keys; never their text.")
@click.option("--tenant", help="Only this tenant's.")
@console.postgres_option
@console.json_option
@console.guarded
def list_keys(tenant: str | None, postgres: str, as_json: bool) -> None:
    """List keys, revoked and expired ones too. The keys themselves are not kept, so they cannot be shown."""
    rows = asyncio.run(_with(postgres, lambda found: found.list(tenant)))
    if as_json:
        console.print_json([_document(row) for row in rows])
        return
    console.print_table(
        ("tenant", "key id", "role", "name", "created", "expires", "state"),
        [
            (
                row.tenant_id,
                row.key_id,
                row.role,
                row.name,
                console.time_text(row.created_ms),
                console.time_text(row.expires_ms),
                _state(row),
            )
            for row in rows
        ],
    )


@keys.command("revoke", short_help="Revoke a key.")
@click.argument("key_id", metavar="KEY_ID")
@_tenant_option
@console.postgres_option
@console.json_option
@console.guarded
def revoke(key_id: str, tenant: str, postgres: str, as_json: bool) -> None:
    """Revoke the key KEY_ID (see `meterd keys list`). Servers refuse it within 30 seconds. A repeat changes nothing.

    Exit status: 0, or 1 if there is no such key, 3 if Postgres is away.
    """
    row = asyncio.run(_with(postgres, lambda found: found.revoke(tenant, key_id)))
    if as_json:
        console.print_json(_document(row))
        return
    click.echo(f"Key {row.key_id} is revoked since {console.time_text(row.revoked_ms)}; servers refuse it within 30 s.")


@keys.command("rotate-tokens", short_help="Replace the key that signs accounts' tokens.")
@click.option("--at-once", is_flag=True, help="All tokens that were made so far are refused.")
@console.postgres_option
@console.json_option
@console.guarded
def rotate_tokens(at_once: bool, postgres: str, as_json: bool) -> None:
    """Replace the key that signs the tokens of accounts (CreateToken), for all tenants.

    Tokens that were made before stay good until they expire, at most a day; with --at-once, servers refuse them within 30 seconds.

    Exit status: 0, or 3 if Postgres is away.
    """
    key_id = asyncio.run(_rotated(postgres, at_once))
    if as_json:
        console.print_json({"key_id": key_id, "at_once": at_once})
        return
    click.echo(f"Key {key_id} signs tokens from now on." + (" All others are refused within 30 s." if at_once else ""))


async def _rotated(postgres: str, at_once: bool) -> str:
    connections = await pool.create(postgres, size_max=1, application_name="meterd keys")
    try:
        return await token_keys.TokenKeys(connections).rotate(at_once=at_once)
    finally:
        await connections.close()


async def _with(postgres: str, act: Callable[[stored.Keys], Awaitable[T]]) -> T:
    connections = await pool.create(postgres, size_max=1, application_name="meterd keys")
    try:
        return await act(stored.Keys(connections))
    finally:
        await connections.close()


def _state(row: stored.KeyRow) -> str:
    if row.revoked_ms:
        return "revoked"
    if row.expires_ms and row.expires_ms <= time.time_ns() // 1_000_000:
        return "expired"
    return "live"


def _document(row: stored.KeyRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "key_id": row.key_id,
        "role": row.role,
        "name": row.name,
        "state": _state(row),
        "created_at": console.time_text(row.created_ms),
        "expires_at": console.time_text(row.expires_ms) or None,
        "revoked_at": console.time_text(row.revoked_ms) or None,
    }
