"""`meterd dev`: Valkey, Postgres and a server on this machine, with a demo tenant, in one command."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from meterd import settings
from meterd.cli import console
from meterd.core import errors

if TYPE_CHECKING:
    from meterd.embedded import postgres, process, valkey
    from meterd.server import app

TENANT = "demo"
ACCOUNT = "demo-account"
GRANT_CREDITS = 100_000
READY_TIMEOUT_S = 30.0
# Soon enough for a person who has killed a store to see what the server does then; after a failure there is something to read first.
STORES_WATCH_INTERVAL_S = 1.0
STORES_RETRY_INTERVAL_S = 5.0
PRICES = """\
# Prices of the demo tenant. Edit this file: it is read again within two seconds, without a restart. docs/PRICES.md explains the format.
features:
  cover_letter: {credits: 12}
rates:
  vm_minute: {credits: 0.5}
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Keys:
    admin: str = dataclasses.field(repr=False)
    meter: str = dataclasses.field(repr=False)


@click.command("dev", short_help="Run everything on this machine, with a demo tenant.")
@click.option(
    "--play", type=click.IntRange(0), default=0, metavar="N", help="Play N generated requests once it serves."
)
@click.option(
    "--directory",
    type=click.Path(path_type=pathlib.Path, file_okay=False),
    default=pathlib.Path(".meterd"),
    show_default=True,
    help="Where data, keys and logs are kept.",
)
@click.option("--listen", default=console.SERVER_DEFAULT, show_default=True, help="Where gRPC listens.")
@click.option(
    "--http-listen", default=settings.Settings().http_listen, show_default=True, help="Where /metrics and probes are."
)
@click.option(
    "--http-address",
    default=settings.Settings().http_address,
    show_default=True,
    help="Where calls over HTTP are taken; empty: nowhere.",
)
@console.guarded
def dev(play: int, directory: pathlib.Path, listen: str, http_listen: str, http_address: str) -> None:
    """Run Valkey, Postgres and a server with a demo tenant until Ctrl-C. What they hold is there again at the next start, with the same
    keys and ports; to begin anew, delete the directory. A store that ends, killed or not, is started again.

    A key of Stripe's test mode in METERD_STRIPE_API_KEY lets it sell; of other settings of servers it reads none.

    The stores are those on PATH, or the ones that `pip install 'meterd[embedded]'` brings.
    """
    # A terminal that is closed stops it like Ctrl-C, and leaves no stores behind; under nohup it serves on.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with _stores(directory) as (cache, database):
        _check_free({"--listen": listen, "--http-listen": http_listen, "--http-address": http_address})
        keys = _prepared(directory, database)
        read = settings.read(
            # So that a key of Stripe's test mode lets it sell: docs/STRIPE.md.
            {name: value for name, value in os.environ.items() if name.startswith("METERD_STRIPE_")},
            listen=listen,
            http_listen=http_listen,
            http_address=http_address,
            redis_url=cache.url,
            postgres_dsn=database.dsn,
            prices_file=str(directory / "prices.yaml"),
            reflection=True,
            # Pages under development come from any port; what they may read is up to their token.
            http_cors_origins="*",
            lame_duck_ms=0,
            drain_ms=2_000,
            log_level="warning",
        )
        status = _serve(read, keys, play)
        click.echo("\nStopping.", err=True)
    sys.exit(status)


@contextlib.contextmanager
def _stores(directory: pathlib.Path) -> Generator[tuple[valkey.Valkey, postgres.Postgres]]:
    from meterd.embedded import postgres, process, valkey

    ports_path = directory / "ports.json"
    ports = _ports(ports_path)
    cache = valkey.Valkey(directory / "valkey", port=ports["valkey"])
    database = postgres.Postgres(directory / "postgres", port=ports["postgres"])
    stopping = threading.Event()
    watch = threading.Thread(target=_watch, args=((cache, database), stopping), name="meterd-stores", daemon=True)
    try:
        for one in (cache, database):
            click.echo(f"Starting {one.name} in {one.directory}", err=True)
            one.start()
        # Not before: until here another one may run in the directory, and the file be its own.
        ports_path.write_text(json.dumps(ports), encoding="utf-8")
        watch.start()
        yield cache, database
    except process.EmbeddedError as exc:
        raise console.Failure(str(exc)) from exc
    finally:
        stopping.set()
        if watch.ident is not None:
            watch.join()
        # In this order the server's last records are on both disks.
        cache.stop()
        database.stop()


def _ports(path: pathlib.Path) -> dict[str, int]:
    """Of the stores, the same at each start unless another program has taken one: what a terminal has exported stays true."""
    from meterd.embedded import process

    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: found[name] if name in found and process.is_free(found[name]) else process.free_port()
        for name in ("valkey", "postgres")
    }


def _watch(stores: Sequence[process.Process], stopping: threading.Event) -> None:
    """Starts a store again that has ended: there is nobody else who would."""
    delay_s = STORES_WATCH_INTERVAL_S
    while not stopping.wait(delay_s):
        delay_s = STORES_WATCH_INTERVAL_S
        for one in stores:
            if one.is_running:
                continue
            click.echo(f"{one.name} has ended, and is started again; {one.log_path} may say why", err=True)
            try:
                one.start()
            except (errors.MeterdError, OSError) as exc:
                click.echo(f"{one.name} was not started: {exc}", err=True)
                delay_s = STORES_RETRY_INTERVAL_S


def _check_free(listeners: Mapping[str, str]) -> None:
    """console.Failure naming the option whose address another program has."""
    from meterd.server import addresses

    for option, address in listeners.items():
        if addresses.is_taken(address):
            raise console.Failure(
                f"{address} is in use, perhaps by another meterd: end it, or choose another address with {option}"
            )


def _prepared(directory: pathlib.Path, database: postgres.Postgres) -> _Keys:
    """Tables, demo tenant, its keys and prices; what is there from an earlier start is kept."""
    import asyncio

    prices = directory / "prices.yaml"
    if not prices.exists():
        prices.write_text(PRICES, encoding="utf-8")
    return asyncio.run(_migrated(directory / "keys.json", database.dsn))


async def _migrated(path: pathlib.Path, dsn: str) -> _Keys:
    from meterd.postgres import keys, migrate, pool

    await migrate.migrate(dsn)
    connections = await pool.create(dsn, size_max=2, application_name="meterd dev")
    try:
        store = keys.Keys(connections)
        if path.exists():
            found = _Keys(**json.loads(path.read_text(encoding="utf-8")))
            rows = await store.find([keys.digest_of(found.admin), keys.digest_of(found.meter)])
            if sum(not row.revoked_ms for row in rows) == 2:
                return found
        made = _Keys(
            admin=(await store.create(TENANT, "admin", name="dev")).key,
            meter=(await store.create(TENANT, "meter", name="dev")).key,
        )
        path.touch(mode=0o600)
        path.write_text(json.dumps(dataclasses.asdict(made)), encoding="utf-8")
        return made
    finally:
        await connections.close()


def _serve(read: settings.Settings, keys: _Keys, play: int) -> int:
    import asyncio

    import uvloop

    from meterd.cli import logs
    from meterd.server import app

    logs.configure(read.log_level, read.log_format)
    server = app.App(read)
    on_hangup = signal.getsignal(signal.SIGHUP)

    def on_serving(address: str) -> None:
        # The server's own meaning of it, to read the prices anew, is none here: their file is watched.
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, (lambda: None) if on_hangup is signal.SIG_IGN else server.stop
        )
        threading.Thread(
            target=_demonstrate, args=(server, read, address, keys, play), name="meterd-demo", daemon=True
        ).start()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server.serve(on_serving))


def _demonstrate(server: app.App, read: settings.Settings, address: str, keys: _Keys, play: int) -> None:
    """The demo account, a played trace if asked for, and how to call."""
    try:
        _wait_ready(server)
        _fund(address, keys)
    except Exception as exc:
        # The server serves on: this is not its fault, or it says so itself.
        click.echo(f"The demo account was not made: {console.failure_of(exc) or repr(exc)}", err=True)
        return
    if play:
        click.echo(f"Playing {play} generated requests over gRPC", err=True)
        _play(read, address, keys, play)
    click.echo(_how_to_call(read, address, keys))


def _wait_ready(server: app.App) -> None:
    """Calls are taken before they are decided: first each partition is compared with Postgres."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while server.unready:
        if time.monotonic() > deadline_s:
            raise errors.UnavailableError(f"not serving: {server.unready}")
        time.sleep(0.02)


def _fund(address: str, keys: _Keys) -> None:
    from meterd.cli import remote
    from meterd.core import money
    from meterd_client.v1 import accounts_pb2, types_pb2

    with remote.accounts(address, keys.admin, None) as accounts:
        accounts.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=ACCOUNT), wait=True)
        grant = accounts_pb2.GrantRequest(
            idempotency_key="demo-grant",
            account_id=ACCOUNT,
            amount_micros=GRANT_CREDITS * money.MICROS_PER_CREDIT,
            category=types_pb2.GRANT_CATEGORY_PROMOTIONAL,
        )
        accounts.call("Grant", grant, wait=True)


def _play(read: settings.Settings, address: str, keys: _Keys, count: int) -> None:
    environment: dict[str, Any] = os.environ | {
        "METERD_KEY": keys.meter,
        "METERD_ADMIN_KEY": keys.admin,
        "METERD_POSTGRES_DSN": read.postgres_dsn,
        "METERD_REDIS_URL": read.redis_url,
    }
    command = [
        sys.executable,
        "-m",
        "meterd.cli",
        "replay",
        "--generate",
        str(count),
        "--server",
        address,
        "--in-flight",
        "8",
    ]
    subprocess.run(command, env=environment, check=False)


def _how_to_call(read: settings.Settings, address: str, keys: _Keys) -> str:
    return f"""
meterd serves on {address}, over HTTP on {read.http_address or "none"}; metrics are on http://{read.http_listen}/metrics.
Ctrl-C stops all of it.

  export METERD_SERVER={address}
  export METERD_KEY={keys.meter}
  export METERD_ADMIN_KEY={keys.admin}
  export METERD_POSTGRES_DSN={read.postgres_dsn}
  export METERD_REDIS_URL={read.redis_url}

The keys are of tenant {TENANT}: METERD_KEY of role meter, METERD_ADMIN_KEY of role admin.
Account {ACCOUNT} has {GRANT_CREDITS:,} credits to spend. Reserve some, and commit what was used (README.md shows it):

  {_reserve(read, address)}
"""


def _reserve(read: settings.Settings, address: str) -> str:
    """A first call, by what most machines have: curl, where calls over HTTP are taken."""
    model = '{"model": "gpt-4o-mini", "input_tokens": 1200, "max_output_tokens": 400}'
    if read.http_address:
        command, url = "curl -H 'content-type: application/json'", f"http://{read.http_address}"
    else:
        command, url = "buf curl --protocol grpc --http2-prior-knowledge", f"http://{address}"
    return f"""{command} -H "authorization: Bearer $METERD_KEY" \\
    -d '{{"account_id": "{ACCOUNT}", "model": {model}}}' \\
    {url}/meterd.v1.Metering/Reserve"""
