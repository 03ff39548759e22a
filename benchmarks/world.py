"""What the serving benchmarks measure: the stores, a server and the empty server, each on its core, with keys and funded accounts.

Both servers are held to one core and take turns on it; the load, Valkey and Postgres have the other. The server runs without workers
unless asked for, so that the comparison is of handlers: what the flusher costs a server that runs it too is a figure of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
from collections.abc import Generator

import grpc.aio
import psutil

from meterd.embedded import process
from meterd_client.v1 import accounts_pb2, accounts_pb2_grpc, types_pb2
from tests.acceptance import installation, processes

TENANT = "bench"
ACCOUNTS = 256
# Two, as the targets have it; together they cover any run.
GRANTS = 2
GRANT_MICROS = 10**14
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def cores() -> tuple[list[int] | None, list[int] | None]:
    """The servers' core and the others'; None where a process cannot be held to one, or there is only one."""
    if sys.platform != "linux":
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[:1], allowed[1:2]) if len(allowed) > 1 else (None, None)


@contextlib.contextmanager
def held_to(wanted: list[int] | None) -> Generator[None]:
    """Holds this process to the cores while the block runs."""
    if wanted is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _hold_to(pid: int, wanted: list[int]) -> None:
    """Holds all threads of a process to the cores."""
    if sys.platform == "linux":
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, wanted)


class Empty(process.Process):
    """The empty handlers' server."""

    def __init__(self, directory: pathlib.Path, redis_url: str, *, held_to: list[int] | None) -> None:
        super().__init__(directory, name="empty", cores=held_to)
        self._redis_url = redis_url

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.empty", str(self.port), self._redis_url]

    def environment(self) -> dict[str, str]:
        found = processes.meterd_environment(redis_url="", dsn="")
        return found | {"PYTHONPATH": os.pathsep.join((str(_ROOT), found["PYTHONPATH"]))}

    def is_ready(self) -> bool:
        return self.log_tail().strip() == str(self.port)


class World:
    """`key` is an admin's, who may meter too. `server_process` changes with `serve`."""

    def __init__(
        self, made: installation.Installation, yardstick: Empty, held: tuple[list[int], list[int]] | None
    ) -> None:
        """`held` has the servers' cores and the others'."""
        self._made = made
        self._cores = held
        self.server = made.server
        self.postgres = made.postgres
        self.empty = yardstick
        self.key = made.make_key(TENANT, "admin")
        self.accounts = [f"account-{number:04d}" for number in range(ACCOUNTS)]
        self.server_process = psutil.Process()
        self.empty_process = psutil.Process(yardstick.pid)
        # Commits that were answered so far; Postgres has them all once the workers are done.
        self.commits = 0
        # Of the calls over HTTP.
        self.http_port = process.free_port()

    def serve(self, *, workers: bool) -> None:
        """Starts the server anew, with or without flusher, sweeper and projector inside."""
        self.server.stop()
        self.server.settings = {
            "METERD_WORKERS": "true" if workers else "false",
            "METERD_LAME_DUCK_MS": "0",
            "METERD_HTTP_ADDRESS": f"127.0.0.1:{self.http_port}",
        }
        self.server.start()
        self.server_process = psutil.Process(self.server.pid)
        processes.wait_until(self._made.is_serving, "health SERVING")

    @contextlib.contextmanager
    def valkey_beside_servers(self) -> Generator[None]:
        """Holds Valkey to the servers' core while the block runs. Only where processes are held to cores."""
        assert self._cores is not None
        servers, others = self._cores
        _hold_to(self._made.valkey.pid, servers)
        try:
            yield
        finally:
            _hold_to(self._made.valkey.pid, others)

    @property
    def is_held(self) -> bool:
        """Whether processes are held to cores."""
        return self._cores is not None

    async def fund(self) -> None:
        """Makes the accounts, each with its grants. A repeat does nothing."""
        async with grpc.aio.insecure_channel(self.server.address) as channel:
            stub = accounts_pb2_grpc.AccountsStub(channel)
            metadata = [("authorization", f"Bearer {self.key}")]

            async def one(account_id: str) -> None:
                await stub.CreateAccount(accounts_pb2.CreateAccountRequest(account_id=account_id), metadata=metadata)
                for number in range(GRANTS):
                    request = accounts_pb2.GrantRequest(
                        idempotency_key=f"{account_id}/{number}",
                        account_id=account_id,
                        amount_micros=GRANT_MICROS,
                        category=types_pb2.GRANT_CATEGORY_PAID,
                    )
                    await stub.Grant(request, metadata=metadata)

            for start in range(0, ACCOUNTS, 32):
                await asyncio.gather(*(one(account_id) for account_id in self.accounts[start : start + 32]))


@contextlib.contextmanager
def opened(directory: pathlib.Path) -> Generator[World]:
    """A world in an empty directory, with a server without workers; this process is held to the load's core meanwhile."""
    servers, others = cores()
    with held_to(others), processes.stores(directory, cores=others) as (valkey, postgres):
        server = processes.Server(directory=directory, redis_url=valkey.url, dsn=postgres.dsn, cores=servers)
        yardstick = Empty(directory, valkey.url, held_to=servers)
        made = installation.Installation(valkey=valkey, postgres=postgres, server=server)
        made.meterd("migrate")
        try:
            yardstick.start()
            found = World(made, yardstick, (servers, others) if servers and others else None)
            found.serve(workers=False)
            asyncio.run(found.fund())
            yield found
        finally:
            server.kill()
            yardstick.kill()
