"""Settings from an environment: every variable, from files too, and what is refused by name."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from meterd import settings
from meterd.core import errors

# A value other than the default for every setting, as text and as it is read.
VALUES: dict[str, tuple[str, Any]] = {
    "listen": ("0.0.0.0:1", "0.0.0.0:1"),
    "http_listen": ("", ""),
    "redis_url": ("rediss://u:p@redis:6380/1", "rediss://u:p@redis:6380/1"),
    "postgres_dsn": ("postgresql://u:p@db/meterd", "postgresql://u:p@db/meterd"),
    "tls_cert_file": ("/tls/cert.pem", "/tls/cert.pem"),
    "tls_key_file": ("/tls/key.pem", "/tls/key.pem"),
    "tls_client_ca_file": ("/tls/ca.pem", "/tls/ca.pem"),
    "allow_plaintext": ("true", True),
    "allow_unsafe": ("YES", True),
    "prices_file": ("/etc/prices.yaml", "/etc/prices.yaml"),
    "reflection": ("1", True),
    "workers": ("off", False),
    "migrate": (" on ", True),
    "tombstone_ttl_ms": ("60000", 60_000),
    "outbox_retention_ms": ("1000", 1_000),
    "outbox_length_max": ("1000", 1_000),
    "in_flight_max": ("1", 1),
    "lame_duck_ms": ("0", 0),
    "drain_ms": ("0", 0),
    "postgres_connections_max": ("2", 2),
    "webhooks_allow_private": ("on", True),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}
NAMES = [field.name for field in dataclasses.fields(settings.Settings)]
INTEGERS = [field.name for field in dataclasses.fields(settings.Settings) if type(field.default) is int]
BOOLEANS = [field.name for field in dataclasses.fields(settings.Settings) if type(field.default) is bool]


def variable(name: str) -> str:
    return f"METERD_{name.upper()}"


def complete(name: str) -> dict[str, str]:
    """The variables that have to be given together with `name`."""
    together = ("tls_cert_file", "tls_key_file") if name in ("tls_cert_file", "tls_key_file") else (name,)
    if name == "tls_client_ca_file":
        together = ("tls_cert_file", "tls_key_file", name)
    return {variable(one): VALUES[one][0] for one in together}


def refusal(environment: dict[str, str], **overrides: Any) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        settings.read(environment, **overrides)
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert settings.read({}) == settings.Settings()


def test_the_table_above_has_every_setting_with_a_value_of_its_own() -> None:
    assert list(VALUES) == NAMES
    defaults = settings.Settings()
    assert [name for name, (_, value) in VALUES.items() if value == getattr(defaults, name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_variable_sets_its_setting(name: str) -> None:
    assert getattr(settings.read(complete(name)), name) == VALUES[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_can_stand_in_a_file(name: str, tmp_path: pathlib.Path) -> None:
    environment = complete(name)
    path = tmp_path / "value"
    path.write_text(environment.pop(variable(name)) + "\n")
    found = settings.read(environment | {f"{variable(name)}_FILE": str(path)})
    assert getattr(found, name) == VALUES[name][1]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: pathlib.Path) -> None:
    message = refusal({f"{variable(name)}_FILE": str(tmp_path / "nowhere")})
    assert message.startswith(f"{variable(name)}_FILE: cannot read")


def test_a_value_and_its_file_together_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "value"
    path.write_text("postgresql://file")
    environment = {"METERD_POSTGRES_DSN": "postgresql://variable", "METERD_POSTGRES_DSN_FILE": str(path)}
    assert refusal(environment) == "METERD_POSTGRES_DSN and METERD_POSTGRES_DSN_FILE: only one may be given"


def test_a_file_that_is_no_text_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"\xff\xfe")
    assert refusal({"METERD_REDIS_URL_FILE": str(path)}).startswith("METERD_REDIS_URL_FILE: cannot read")


@pytest.mark.parametrize("name", ["METERD_LISTN", "METERD_", "METERD_TLS_CERT", "METERD_listen", "METERD_PORT_FILE"])
def test_an_unknown_variable_is_refused(name: str) -> None:
    assert refusal({name: "x"}) == f"{name}: no such setting"


def test_other_programs_variables_and_those_of_the_tools_are_left_alone() -> None:
    environment = {"PATH": "/bin", "METERD_KEY": "mk_x", "METERD_SERVER": "x:1", "METERD_TEST_REDIS_URL": "x"}
    assert settings.read(environment) == settings.Settings()


def test_overrides_win_unless_they_are_none() -> None:
    found = settings.read({"METERD_LISTEN": "a:1", "METERD_REDIS_URL": "redis://a"}, listen="b:2", redis_url=None)
    assert (found.listen, found.redis_url) == ("b:2", "redis://a")


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "x", "١", "1_000", "9" * 16, "0x10"])
def test_what_is_no_whole_number_is_refused(name: str, text: str) -> None:
    assert refusal({variable(name): text}) == f"{variable(name)}: must be a whole number"


@pytest.mark.parametrize("name", INTEGERS)
def test_a_number_below_its_least_is_refused_from_variable_and_option(name: str) -> None:
    least = VALUES[name][1]
    assert getattr(settings.read({variable(name): str(least)}), name) == least
    if least:
        assert refusal({variable(name): str(least - 1)}) == f"{variable(name)}: must be at least {least}"
    assert refusal({}, **{name: least - 1}) == f"{variable(name)}: must be at least {least}"


@pytest.mark.parametrize("name", BOOLEANS)
def test_what_is_neither_true_nor_false_is_refused(name: str) -> None:
    assert refusal({variable(name): "maybe"}) == f"{variable(name)}: must be true or false"
    for text in ("0", "false", "No", "OFF", ""):
        assert getattr(settings.read({variable(name): text}), name) is False


@pytest.mark.parametrize("name", ["log_level", "log_format"])
def test_a_choice_that_there_is_not_is_refused(name: str) -> None:
    assert refusal({variable(name): "loud"}).startswith(f"{variable(name)}: must be one of ")


@pytest.mark.parametrize("name", ["tls_cert_file", "tls_key_file"])
def test_half_of_tls_is_refused(name: str) -> None:
    message = refusal({variable(name): "x.pem"})
    assert message == "METERD_TLS_CERT_FILE and METERD_TLS_KEY_FILE must be given together"


def test_a_client_authority_without_tls_is_refused() -> None:
    """Otherwise an operator believes that clients are checked."""
    assert refusal({"METERD_TLS_CLIENT_CA_FILE": "ca.pem"}).startswith("METERD_TLS_CLIENT_CA_FILE: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://user:s3cret@h", "rediss://user:***@h"),
        ("postgresql://u:s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:s3c/r@et@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h/db?password=s3cret&sslmode=require", "postgresql://h/db?password=***&sslmode=require"),
        ("host=h password=s3cret dbname=x", "host=h password=*** dbname=x"),
        ("host=h password='s3 cret' dbname=x", "host=h password=*** dbname=x"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert settings.masked(url) == shown
    made = settings.Settings(redis_url=url, postgres_dsn=url)
    assert "s3" not in repr(made) and "s3" not in str(made) and "cret" not in f"{made}"
