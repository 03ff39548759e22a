"""gRPC's own limits. The benchmark's empty server has the same."""

from __future__ import annotations

from typing import Any

# The largest honest request carries a prompt or a raw response of 1 MiB.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
METADATA_BYTES_MAX = 16 * 1024
# grpc drops calls beyond its default of 1000 while they wait for the event loop; a burst of 3,000 is a normal morning.
PENDING_REQUESTS_MAX = 100_000


def server_options() -> list[tuple[str, Any]]:
    return [
        ("grpc.server.max_pending_requests", PENDING_REQUESTS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_REQUESTS_MAX),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES_MAX),
        # A second server on the same port would take a share of the calls without anyone noticing.
        ("grpc.so_reuseport", 0),
        # Dead clients are found within two minutes; live ones may ask as often as every ten seconds.
        ("grpc.keepalive_time_ms", 90_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
