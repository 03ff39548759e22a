"""`meterd health`: the probe that containers and scripts call."""

from __future__ import annotations

import os
import pathlib

import click

from meterd.cli import console


@click.command("health", short_help="Ask a running server whether it serves.")
@click.option("--server", envvar="METERD_SERVER", help="Its address; METERD_LISTEN if not given. [env: METERD_SERVER]")
@click.option(
    "--ca", "ca_path", type=click.Path(exists=True, path_type=pathlib.Path), help="CA certificate; plaintext without."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take to answer.",
)
@console.guarded
def health(server: str | None, ca_path: pathlib.Path | None, timeout_s: float) -> None:
    """Print SERVING and exit with 0 if the server can decide calls now; exit with 1 if it cannot, with 3 if it does not answer."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = server or os.environ.get("METERD_LISTEN") or console.SERVER_DEFAULT
    host, _, port = address.rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        # Where it listens for everyone, it listens for us.
        address = f"{'127.0.0.1' if host == '0.0.0.0' else '[::1]'}:{port}"
    if ca_path is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_path.read_bytes()))
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)  # pyright: ignore[reportAttributeAccessIssue]
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    click.echo(name)
    if name != "SERVING":
        raise console.Failure(f"{address} is up but does not serve; its /readyz says why")
