"""Migrations, roles and rules of the schema, on a real Postgres."""

from __future__ import annotations

import asyncio
import pathlib
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from meterd.core import errors
from meterd.postgres import catalog, migrate, pool

SCHEMA = sorted((pathlib.Path(migrate.__file__).parent / "schema").glob("*.sql"))

# What a schema consists of, from the catalogs. Months differ from day to day, so the ledger's partitions but the default are left out.
_DESCRIPTION = """
WITH tables AS (
    SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.reloptions FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname !~ '^ledger_[0-9]'
        AND c.relname <> 'schema_migrations'
)
SELECT format('table %s rls=%s,%s %s', relname, relrowsecurity, relforcerowsecurity, reloptions) FROM tables
UNION ALL
SELECT format('column %s.%s %s %s %s %s', relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
    pg_get_expr(adbin, adrelid))
FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT format('constraint %s.%s %s', relname, conname, pg_get_constraintdef(k.oid))
FROM tables JOIN pg_constraint AS k ON conrelid = tables.oid
WHERE contype <> 'n'
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM tables JOIN pg_index ON indrelid = tables.oid
UNION ALL
SELECT pg_get_triggerdef(t.oid) FROM tables JOIN pg_trigger AS t ON tgrelid = tables.oid WHERE NOT tgisinternal
UNION ALL
SELECT format('policy %s.%s %s %s %s', relname, polname, polcmd, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM tables JOIN pg_policy ON polrelid = tables.oid
UNION ALL
SELECT format('function %s(%s) %s %s %s %s', proname, pg_get_function_arguments(oid), prosecdef, provolatile, proconfig,
    coalesce(pg_get_function_sqlbody(oid), prosrc))
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT format('grant %s %s %s %s', table_name, grantee, privilege_type, is_grantable) FROM information_schema.table_privileges
WHERE table_schema = 'public' AND grantee ~ '^meterd_' AND table_name !~ '^ledger_[0-9]'
UNION ALL
SELECT format('grant %s.%s %s %s', table_name, column_name, grantee, privilege_type) FROM information_schema.column_privileges
WHERE table_schema = 'public' AND grantee ~ '^meterd_' AND table_name !~ '^ledger_[0-9]'
ORDER BY 1
"""


@pytest_asyncio.fixture
async def connection(empty_database: str) -> AsyncIterator[Any]:
    made = await asyncpg.connect(empty_database)
    yield made
    await made.close()


async def _description(connection: Any) -> list[str]:
    return [row[0] for row in await connection.fetch(_DESCRIPTION)]


async def test_the_sum_of_the_migrations_is_the_schema(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    migrated = await _description(connection)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert len(SCHEMA) > 1
    for path in SCHEMA:
        await connection.execute(path.read_text(encoding="utf-8"))
    assert await _description(connection) == migrated


async def test_migrating_twice_or_from_two_servers_at_once_applies_each_version_once(
    empty_database: str, connection: Any
) -> None:
    assert await migrate.pending(empty_database) == list(migrate.versions())
    applied = await asyncio.gather(*(migrate.migrate(empty_database, partitions=8) for _ in range(3)))
    assert sorted(version for versions in applied for version in versions) == list(migrate.versions())
    assert await migrate.migrate(empty_database, partitions=99) == []
    assert await migrate.pending(empty_database) == []
    assert await connection.fetchval("SELECT count(*) FROM partitions") == 8
    connections = await pool.create(empty_database)
    found = await catalog.installation(connections)
    assert found == catalog.Installation(partitions=8)
    await connections.close()


async def test_a_database_of_a_newer_program_is_refused(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    await connection.execute("INSERT INTO schema_migrations VALUES ('9999')")
    with pytest.raises(migrate.MigrationError, match="9999"):
        await migrate.migrate(empty_database)


async def test_what_goes_up_comes_down(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    folder = pathlib.Path(migrate.__file__).parent / "migrations"
    for path in sorted(folder.glob("*.sql"), reverse=True):
        await connection.execute(re.split(r"^-- migrate:down.*\n", path.read_text(), flags=re.MULTILINE)[1])
    left = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    assert [row[0] for row in left] == ["schema_migrations"]
    assert await connection.fetchval("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == 0


async def test_an_owner_without_superuser_migrates_beside_other_databases_and_uses_its_rows(
    empty_database: str, connection: Any
) -> None:
    owner = f"owner_{uuid.uuid4().hex[:8]}"
    name = urlsplit(empty_database).path[1:]
    await connection.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'secret'")
    await connection.execute(f"GRANT meterd_app TO {owner}" if await _has_role(connection) else "SELECT 1")
    await connection.execute(f"GRANT meterd_worker TO {owner}" if await _has_role(connection) else "SELECT 1")
    await connection.execute(f"ALTER DATABASE {name} OWNER TO {owner}")
    await connection.execute(f"ALTER SCHEMA public OWNER TO {owner}")
    parts = urlsplit(empty_database)
    dsn = parts._replace(netloc=f"{owner}:secret@{parts.hostname}:{parts.port}").geturl()
    await migrate.migrate(dsn, partitions=4)
    connections = await pool.create(dsn)
    made = catalog.Catalog(connections, partitions=4)
    await made.create_tenant("t")
    account, replayed = await made.create_account(catalog.NewAccount(tenant_id="t", account_id="a"))
    assert (account.account_id, replayed) == ("a", False)
    assert await connections.fetchval("SELECT count(*) FROM accounts") == 1
    await connections.close()
    await connection.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
    await connection.execute(f"REASSIGN OWNED BY {owner} TO CURRENT_USER")
    await connection.execute(f"DROP OWNED BY {owner}")
    await connection.execute(f"DROP ROLE {owner}")


async def _has_role(connection: Any) -> bool:
    return await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'meterd_app')")


async def test_every_table_with_a_tenant_forces_row_level_security(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    rows = await connection.fetch("""
        SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced,
            (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'tenant_rows') AS policies, c.relispartition
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')""")
    assert len(rows) >= 8
    assert [row["relname"] for row in rows if not row["forced"]] == []
    # A partition has none, so nobody but a superuser reads it past the ledger's own.
    assert [row["relname"] for row in rows if row["policies"] != (0 if row["relispartition"] else 1)] == []


async def test_the_app_role_sees_its_tenant_and_nothing_without_one(empty_database: str) -> None:
    await migrate.migrate(empty_database, partitions=4)
    connections = await pool.create(empty_database)
    made = catalog.Catalog(connections, partitions=4)
    for tenant_id in ("t1", "t2"):
        await made.create_tenant(tenant_id)
        await made.create_account(catalog.NewAccount(tenant_id=tenant_id, account_id="a"))
    async with pool.as_tenant(connections, "t1") as connection:
        assert [row[0] for row in await connection.fetch("SELECT tenant_id FROM accounts")] == ["t1"]
        assert await connection.execute("UPDATE accounts SET frozen = true WHERE tenant_id = 't2'") == "UPDATE 0"
    async with pool.as_tenant(connections, "") as connection:
        assert await connection.fetch("SELECT tenant_id FROM accounts") == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with pool.as_tenant(connections, "t1") as connection:
            await connection.execute("INSERT INTO tenants (tenant_id) VALUES ('t3')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with pool.as_tenant(connections, "t1") as connection:
            await connection.execute("UPDATE accounts SET spent_micros = 0")
    # Neither role nor tenant outlive the transaction.
    assert await connections.fetchval("SELECT count(*) FROM accounts") == 2
    with pytest.raises(errors.NotFoundError):
        await made.account("t1", "b")
    await connections.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ledger SET charged_micros = 0", "DELETE FROM ledger", "TRUNCATE ledger", "TRUNCATE ledger_default"],
)
async def test_the_ledger_only_grows(empty_database: str, connection: Any, statement: str) -> None:
    await migrate.migrate(empty_database)
    await connection.execute("""
        INSERT INTO ledger SELECT 1, 't', meterd_uuid_time(txn), 'C', txn, '', 1, 1, now(), now(), 0, '1-0', 'default', 0, 0, 0, 0, 0, 0, 0,
            '{}', '{}', '{}', 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, '', ''
        FROM gen_random_uuid() AS txn""")
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute(statement)
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 1


async def test_the_number_of_partitions_never_changes(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("UPDATE installation SET partitions = 128")
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("DELETE FROM installation")


async def test_months_are_made_ahead_once(empty_database: str, connection: Any) -> None:
    await migrate.migrate(empty_database)
    assert await connection.fetchval("SELECT meterd_create_months(3)") == 0
    assert await connection.fetchval("SELECT meterd_create_months(5)") == 2
