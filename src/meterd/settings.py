"""The settings of a server, read from METERD_* environment variables once at the start.

Every setting may instead name a file that holds its value, with _FILE appended to the variable, as secret stores provide them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from meterd.core import errors

PREFIX = "METERD_"
_FILE_BYTES_MAX = 64 * 1024
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an operator may decide. docs/OPERATING.md explains each."""

    # host:port of gRPC, and of plain HTTP for /metrics, /healthz and /readyz; http_listen empty: none.
    listen: str = "127.0.0.1:8260"
    http_listen: str = "127.0.0.1:8261"
    redis_url: str = "redis://127.0.0.1:6379/0"
    postgres_dsn: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    # With it, clients must show a certificate that this authority signed.
    tls_client_ca_file: str = ""
    # gRPC without TLS is refused off loopback unless this says that something else protects the network.
    allow_plaintext: bool = False
    # Starts on a Redis or Postgres whose settings may lose money.
    allow_unsafe: bool = False
    prices_file: str = ""
    reflection: bool = False
    # Whether `serve` runs flusher, sweeper and projector too.
    workers: bool = True
    # Applies pending migrations at the start.
    migrate: bool = False
    # How long Redis answers for an ended hold; after it Postgres does.
    tombstone_ttl_ms: int = 60 * 60 * 1000
    outbox_retention_ms: int = 15 * 60 * 1000
    # Entries of one partition's outbox beyond which Reserve and Charge are refused.
    outbox_length_max: int = 2_000_000
    # Calls in work beyond which one is refused with RESOURCE_EXHAUSTED.
    in_flight_max: int = 10_000
    # After SIGTERM: answers NOT_SERVING for so long while it still serves, then lets calls end for at most drain_ms.
    lame_duck_ms: int = 1_000
    drain_ms: int = 10_000
    postgres_connections_max: int = 10
    # Webhooks may lead to private and loopback addresses, and to plain http: for one's own network only.
    webhooks_allow_private: bool = False
    log_level: str = "info"
    # "text" for people, "json" for machines.
    log_format: str = "text"

    def __repr__(self) -> str:
        shown = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return f"Settings({', '.join(f'{name}={masked(value)!r}' for name, value in shown)})"


_MINIMA = {
    # The sweeper, clocks and retries need a margin over the longest time that an answer may be under way.
    "tombstone_ttl_ms": 60_000,
    "outbox_retention_ms": 1_000,
    "outbox_length_max": 1_000,
    "in_flight_max": 1,
    "lame_duck_ms": 0,
    "drain_ms": 0,
    "postgres_connections_max": 2,
}
_CHOICES = {"log_level": ("debug", "info", "warning", "error"), "log_format": ("text", "json")}


# A password in a URL's user part (up to the last @, since it may itself have one), and as a parameter of a URL or a libpq string.
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)\S+@")
_PARAMETER_PASSWORD = re.compile(r"\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]+)", re.IGNORECASE)


def masked(value: Any) -> Any:
    """A value with the password of a URL or DSN hidden."""
    if not isinstance(value, str):
        return value
    return _PARAMETER_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", value))


def read(environment: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings of an environment; `overrides` that are not None win. ConfigError names the variable, and never shows a secret."""
    known = {field.name: field for field in dataclasses.fields(Settings)}
    _check_names(environment, known)
    values: dict[str, Any] = {}
    for name, field in known.items():
        text = _text(environment, PREFIX + name.upper())
        if text is not None:
            values[name] = _PARSERS[type(field.default)](PREFIX + name.upper(), text)
    values |= {name: value for name, value in overrides.items() if value is not None}
    for name, least in _MINIMA.items():
        if values.get(name, least) < least:
            raise errors.ConfigError(f"{PREFIX}{name.upper()}: must be at least {least}")
    for name, choices in _CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise errors.ConfigError(f"{PREFIX}{name.upper()}: must be one of {', '.join(choices)}")
    if bool(values.get("tls_cert_file")) != bool(values.get("tls_key_file")):
        raise errors.ConfigError("METERD_TLS_CERT_FILE and METERD_TLS_KEY_FILE must be given together")
    if values.get("tls_client_ca_file") and not values.get("tls_cert_file"):
        raise errors.ConfigError("METERD_TLS_CLIENT_CA_FILE: clients cannot be checked without METERD_TLS_CERT_FILE")
    return Settings(**values)


# Variables of the command line tools, which the server may find in its environment too.
_FOREIGN = frozenset({"SERVER", "KEY", "ADMIN_KEY", "VALKEY_SERVER", "POSTGRES_BIN", "SHARED_DATA", "CA", "PRICES"})


def _check_names(environment: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """A misspelt variable would be a setting that silently does nothing."""
    for name in environment:
        if not name.startswith(PREFIX) or name.startswith("METERD_TEST_"):
            continue
        bare = name.removeprefix(PREFIX)
        # A variable in lower case is not read either.
        names = (bare, bare.removesuffix("_FILE")) if bare == bare.upper() else ()
        if bare not in _FOREIGN and not any(found.lower() in known for found in names):
            raise errors.ConfigError(f"{name}: no such setting")


def _text(environment: Mapping[str, str], name: str) -> str | None:
    path = environment.get(f"{name}_FILE", "")
    if not path:
        return environment.get(name)
    if name in environment:
        raise errors.ConfigError(f"{name} and {name}_FILE: only one may be given")
    try:
        with pathlib.Path(path).open(encoding="utf-8") as file:
            return file.read(_FILE_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise errors.ConfigError(f"{name}_FILE: cannot read {path}: {exc}") from exc


def _boolean(name: str, text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _TRUE + _FALSE:
        raise errors.ConfigError(f"{name}: must be true or false")
    return lowered in _TRUE


def _integer(name: str, text: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,15}\s*", text):
        raise errors.ConfigError(f"{name}: must be a whole number")
    return int(text)


_PARSERS: dict[type, Callable[[str, str], Any]] = {
    str: lambda _name, text: text.strip(),
    bool: _boolean,
    int: _integer,
}
