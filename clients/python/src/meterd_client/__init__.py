"""meterd's Python client: three lines around a model call. See Meter and Hold, and SyncMeter and SyncHold for code without asyncio."""

from meterd_client.asgi import MeterMiddleware
from meterd_client.decorators import metered, sync_metered
from meterd_client.errors import (
    AuthenticationError,
    ConflictError,
    DeniedError,
    HoldEndedError,
    InvalidArgumentError,
    MeterError,
    MissingUsageError,
    NotFoundError,
    RefusedError,
    SpoolFullError,
    StoppedError,
    UndecidedError,
)
from meterd_client.hold import Hold
from meterd_client.ids import uuid7
from meterd_client.meter import Meter
from meterd_client.spool import Spool
from meterd_client.sync import SyncHold, SyncMeter

__all__ = [
    "AuthenticationError",
    "ConflictError",
    "DeniedError",
    "Hold",
    "HoldEndedError",
    "InvalidArgumentError",
    "Meter",
    "MeterError",
    "MeterMiddleware",
    "MissingUsageError",
    "NotFoundError",
    "RefusedError",
    "Spool",
    "SpoolFullError",
    "StoppedError",
    "SyncHold",
    "SyncMeter",
    "UndecidedError",
    "metered",
    "sync_metered",
    "uuid7",
]
