"""`meterd serve` and `meterd worker`: the long-running processes, set up by METERD_* variables."""

from __future__ import annotations

import gc
import os
import sys

import click

from meterd import settings
from meterd.cli import console


@click.command("serve", short_help="Serve gRPC, and run the workers.")
@click.option("--listen", metavar="HOST:PORT", help="Where gRPC listens. [env: METERD_LISTEN; default 127.0.0.1:8260]")
@click.option(
    "--http-listen", metavar="HOST:PORT", help="Where /metrics, /healthz and /readyz are. [env: METERD_HTTP_LISTEN]"
)
@click.option(
    "--http-address",
    metavar="HOST:PORT",
    help="Where calls over HTTP are taken. [env: METERD_HTTP_ADDRESS; default 127.0.0.1:8262]",
)
@click.option(
    "--workers/--no-workers",
    default=None,
    help="Whether flusher, sweeper and projector run here. [env: METERD_WORKERS]",
)
@click.option(
    "--migrate/--no-migrate", default=None, help="Whether pending migrations are applied first. [env: METERD_MIGRATE]"
)
@click.option("--allow-unsafe", is_flag=True, default=None, help="Start on stores whose settings may lose money. [env: METERD_ALLOW_UNSAFE]")  # fmt: skip  # noqa: E501
@console.guarded
def serve(
    listen: str | None,
    http_listen: str | None,
    http_address: str | None,
    workers: bool | None,
    migrate: bool | None,
    allow_unsafe: bool | None,
) -> None:
    """Serve gRPC and HTTP until SIGTERM. Settings are METERD_* variables, listed in docs/OPERATING.md; at least METERD_POSTGRES_DSN and
    METERD_REDIS_URL.

    SIGHUP reads the price file at once. Exit status: 0 after an orderly stop, 1 after a fault, 2 for settings that cannot work.
    """
    read = settings.read(
        os.environ,
        listen=listen,
        http_listen=http_listen,
        http_address=http_address,
        workers=workers,
        migrate=migrate,
        allow_unsafe=allow_unsafe,
    )
    sys.exit(_run(read, "serve"))


@click.command("worker", short_help="Run the workers apart from the server.")
@click.option(
    "--http-listen", metavar="HOST:PORT", help="Where /metrics, /healthz and /readyz are. [env: METERD_HTTP_LISTEN]"
)
@console.guarded
def worker(http_listen: str | None) -> None:
    """Run flusher, sweeper and projector until SIGTERM. Any number may run, beside servers with or without workers."""
    sys.exit(_run(settings.read(os.environ, http_listen=http_listen), "work"))


def _settle(_address: str) -> None:
    """Price books, messages and modules are loaded by now, and stay: a full collection that looked through them stopped all calls for some
    50 ms (docs/BENCHMARKS.md)."""
    gc.collect()
    gc.freeze()


def _run(read: settings.Settings, how: str) -> int:
    import asyncio

    import uvloop

    from meterd.cli import logs
    from meterd.server import app

    logs.configure(read.log_level, read.log_format)

    async def run() -> int:
        made = app.App(read)
        return await (made.serve(_settle) if how == "serve" else made.work())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
