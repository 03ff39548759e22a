"""A Redis that comes back without its tail, a failover to a replica, and a Redis that stands still: nothing is lost or paid twice."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from collections.abc import AsyncIterator, Callable

import pytest_asyncio
import redis

from meterd.replay import play
from meterd_client.v1 import metering_pb2
from tests import places
from tests.acceptance import installation, processes
from tests.client import proxy

Install = Callable[..., installation.Installation]
REQUESTS = 150
# Longer than the server waits for an answer of Redis.
STANDSTILL_S = 6.0


def _log_of(valkey: processes.Valkey) -> pathlib.Path:
    """The file to which Valkey appends."""
    (found,) = (valkey.directory / "appendonlydir").glob("*.incr.aof")
    return found


def _restart_without(valkey: processes.Valkey, size_bytes: int) -> None:
    """Kills Valkey, cuts its log in the middle of what came after `size_bytes`' first command, and starts it again."""
    valkey.kill()
    log = _log_of(valkey)
    assert log.stat().st_size > size_bytes + 20
    os.truncate(log, size_bytes + 20)
    valkey.start()


async def _played(made: installation.Installation) -> None:
    found = await play.play(made.generated(REQUESTS), made.options())
    assert found.problems == ()
    assert found.verified


async def _recovered(made: installation.Installation) -> None:
    """The partitions that lost their tail stay fenced until an operator forces a new epoch; then all is whole and goes on."""
    spent = await asyncio.to_thread(made.sql, "SELECT sum(spent_micros) AS micros FROM accounts")
    told = "Redis lost its tail"
    await asyncio.to_thread(processes.wait_until, lambda: told in made.server.log_tail(), "a message of what disagrees")
    assert not await asyncio.to_thread(made.is_serving)
    for arguments in (["recover", "--check"], ["recover"]):
        refused = await asyncio.to_thread(processes.meterd, arguments, redis_url=made.valkey.url, dsn=made.postgres.dsn)
        assert refused.returncode == 1
        assert told in refused.stdout + refused.stderr
    await asyncio.to_thread(made.meterd, "recover", "--force")
    await asyncio.to_thread(processes.wait_until, made.is_serving, "health SERVING after recover")
    await asyncio.to_thread(made.verify)
    assert await asyncio.to_thread(made.sql, "SELECT sum(spent_micros) AS micros FROM accounts") == spent
    await _played(made)


async def test_a_redis_without_what_postgres_has_is_fenced_until_recover(install: Install) -> None:
    made = install()
    await _played(made)
    size_bytes = _log_of(made.valkey).stat().st_size
    await _played(made)
    await asyncio.to_thread(_restart_without, made.valkey, size_bytes)
    await _recovered(made)


def test_a_tail_that_nobody_has_is_as_if_it_had_not_been(install: Install) -> None:
    made = install()
    with made.client() as client:
        account = client.funded("acct", 1_000_000)
        hold_id = client.reserve_credits(account, 300_000).hold.hold_id
        size_bytes = _log_of(made.valkey).stat().st_size
        made.postgres.kill()
        commit = metering_pb2.CommitRequest(hold_id=hold_id, amount_micros=200_000)
        first = client.call("Commit", commit)
        assert (first.settlement.charged_micros, first.replayed) == (200_000, False)
        _restart_without(made.valkey, size_bytes)
        made.postgres.start()
        processes.wait_until(made.is_serving, "health SERVING without recover")
        # The hold is open again. Who asks again with the same id pays once.
        again = client.call("Commit", commit)
        assert (again.settlement.charged_micros, again.replayed) == (200_000, False)
        assert client.call("Commit", commit).replayed
    processes.wait_until(lambda: len(made.sql("SELECT FROM ledger WHERE kind = 'C'")) == 1, "one settlement")
    made.verify()


class _Replica(processes.Valkey):
    def __init__(self, directory: pathlib.Path, master: str) -> None:
        super().__init__(directory)
        self._master = master

    def command(self) -> list[str]:
        host, _, port = self._master.rpartition(":")
        return [*super().command(), "--replicaof", host, port]


class Pair:
    """An installation whose Redis has a replica. The server, and the replica, reach Redis through proxies."""

    def __init__(
        self, made: installation.Installation, replica: _Replica, front: proxy.Proxy, link: proxy.Proxy
    ) -> None:
        self.made, self.master, self.replica, self.front, self.link = made, made.valkey, replica, front, link

    async def in_step(self) -> None:
        """Returns when the replica has all that the master has."""
        await asyncio.to_thread(processes.wait_until, self._is_in_step, "a replica that is in step")

    def _is_in_step(self) -> bool:
        with redis.Redis.from_url(self.master.url) as master, redis.Redis.from_url(self.replica.url) as replica:
            below = replica.info("replication")
            return (
                below["master_link_status"] == "up"
                and master.info("replication")["master_repl_offset"] == below["slave_repl_offset"]
            )

    async def fail_over(self) -> None:
        """The master dies, the replica takes its place."""
        await asyncio.to_thread(self.master.kill)
        # Before it is the master, as a failover may look from outside: it refuses all writes.
        self.front.lead_to(f"127.0.0.1:{self.replica.port}")
        told = "Redis is a read-only replica"
        log = self.made.server.log_tail
        await asyncio.to_thread(processes.wait_until, lambda: told in log(), "a message of the replica")
        await asyncio.to_thread(processes.wait_until, lambda: not self.made.is_serving(), "health NOT_SERVING")
        await asyncio.sleep(1)
        assert not await asyncio.to_thread(self.made.is_serving)
        await asyncio.to_thread(self._promote)
        self.made.valkey = self.replica

    def _promote(self) -> None:
        with redis.Redis.from_url(self.replica.url) as replica:
            replica.execute_command("REPLICAOF", "NO", "ONE")


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    with (
        places.store_directory("acceptance") as directory,
        places.store_directory("acceptance") as beside,
        processes.stores(pathlib.Path(directory)) as (valkey, postgres),
    ):
        with redis.Redis.from_url(valkey.url) as client:
            client.config_set("repl-diskless-sync-delay", 0)
        async with (
            proxy.running(f"127.0.0.1:{valkey.port}") as front,
            proxy.running(f"127.0.0.1:{valkey.port}") as link,
        ):
            server = processes.Server(pathlib.Path(directory), redis_url=f"redis://{front.address}/0", dsn=postgres.dsn)
            made = installation.Installation(valkey=valkey, postgres=postgres, server=server)
            replica = _Replica(pathlib.Path(beside), link.address)
            try:
                await asyncio.to_thread(made.meterd, "migrate")
                made.admin_key = await asyncio.to_thread(made.make_key, "acme", "admin")
                made.meter_key = await asyncio.to_thread(made.make_key, "acme", "meter")
                await asyncio.to_thread(replica.start)
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(processes.wait_until, made.is_serving, "health SERVING")
                yield Pair(made, replica, front, link)
            finally:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(replica.kill)


async def test_a_failover_to_a_replica_in_step_goes_on_by_itself(pair: Pair) -> None:
    await _played(pair.made)
    await pair.in_step()
    await pair.fail_over()
    await asyncio.to_thread(processes.wait_until, pair.made.is_serving, "health SERVING without recover")
    await _played(pair.made)


async def test_a_failover_to_a_stale_replica_is_fenced_until_recover(pair: Pair) -> None:
    await _played(pair.made)
    await pair.in_step()
    pair.link.hold()
    await _played(pair.made)
    await pair.fail_over()
    await _recovered(pair.made)


async def test_a_redis_that_stands_still_for_longer_than_calls_wait_does_no_harm(install: Install) -> None:
    made = install()
    done, stands = 0, list[asyncio.Future[None]]()

    async def stand() -> None:
        os.kill(made.valkey.pid, signal.SIGSTOP)
        await asyncio.sleep(STANDSTILL_S)
        os.kill(made.valkey.pid, signal.SIGCONT)

    def on_step(count: int) -> None:
        nonlocal done
        done += count
        if done == REQUESTS:
            stands.append(asyncio.ensure_future(stand()))

    found = await play.play(made.generated(3 * REQUESTS), made.options(), on_step=on_step)
    await asyncio.gather(*stands)
    assert len(stands) == 1
    assert found.problems == ()
    assert found.outcome.fates == {"committed": 3 * REQUESTS}
    assert found.verified
    made.verify()
