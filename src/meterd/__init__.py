"""meterd: a gRPC metering sidecar for AI backends."""

__version__ = "0.1.0"
