"""Real stores for tests: one Valkey and one Postgres per worker, started by the first test that wants them.

METERD_TEST_REDIS_URL and METERD_TEST_POSTGRES_DSN name servers to use instead. All data of that Redis is deleted again and again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pathlib
import uuid
from collections.abc import Iterator

import hypothesis
import pytest
import redis

from meterd.embedded import postgres, valkey
from meterd.postgres import migrate
from tests import places

# The same examples in every run, and no clock: a busy machine is no fault. METERD_TEST_NIGHTLY=1 tries new ones.
hypothesis.settings.register_profile(
    "meterd",
    deadline=None,
    database=None,
    derandomize=os.environ.get("METERD_TEST_NIGHTLY") != "1",
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("meterd")

# Few, so that a test can look at all of them.
PARTITIONS = 4


@pytest.fixture(scope="session")
def store_directory() -> Iterator[pathlib.Path]:
    with places.store_directory("tests") as directory:
        yield pathlib.Path(directory)


@pytest.fixture(scope="session")
def redis_server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    if url := os.environ.get("METERD_TEST_REDIS_URL"):
        if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
            raise pytest.UsageError("METERD_TEST_REDIS_URL is one Redis, and each worker needs its own: run with -n 0")
        yield url
        return
    server = valkey.Valkey(request.getfixturevalue("store_directory"), durable=False)
    server.start()
    yield server.url
    server.kill()


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """An empty Redis that knows no scripts."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushall()
        client.script_flush()
    return redis_server_url


@pytest.fixture(scope="session")
def postgres_server_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    if dsn := os.environ.get("METERD_TEST_POSTGRES_DSN"):
        yield dsn
        return
    server = postgres.Postgres(request.getfixturevalue("store_directory"), durable=False)
    server.start()
    yield server.dsn
    server.kill()


@pytest.fixture(scope="session")
def database_template(postgres_server_dsn: str) -> Iterator[str]:
    """The name of a migrated database with PARTITIONS partitions, to which nobody is connected."""
    name = f"meterd_template_{uuid.uuid4().hex}"
    dsn = postgres.create_database(postgres_server_dsn, name)
    # In a thread of its own: the loops of this one are pytest-asyncio's.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, migrate.migrate(dsn, partitions=PARTITIONS)).result()
    yield name
    postgres.drop_database(postgres_server_dsn, name)


@pytest.fixture
def database(postgres_server_dsn: str, database_template: str) -> Iterator[str]:
    """The DSN of a fresh, migrated database with PARTITIONS partitions."""
    name = f"meterd_{uuid.uuid4().hex}"
    yield postgres.create_database(postgres_server_dsn, name, database_template)
    postgres.drop_database(postgres_server_dsn, name)


@pytest.fixture
def empty_database(postgres_server_dsn: str) -> Iterator[str]:
    """The DSN of a fresh database that was never migrated."""
    name = f"meterd_{uuid.uuid4().hex}"
    yield postgres.create_database(postgres_server_dsn, name)
    postgres.drop_database(postgres_server_dsn, name)
