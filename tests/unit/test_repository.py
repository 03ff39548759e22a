"""What the repository says about itself: every path, command, option and setting that files and documents name is there."""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml

from meterd import settings
from meterd.cli import __main__ as cli
from meterd.postgres import migrate
from meterd.server import app, engine
from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, metering_pb2, reports_pb2

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
LINES_MAX = 600
# What workers need to finish after the drain; see engine.Engine.close.
CLOSE_MS = 5_000
GENERATED = ("requirements.", "_pb2", "LICENSE")
TEXT_SUFFIXES = (
    ".py",
    ".pyi",
    ".lua",
    ".sql",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".proto",
    ".lock",
    ".txt",
    ".json",
    ".csv",
    "",
)
SKIPPED = {".git", ".venv", ".meterd", "node_modules", "__pycache__", "dist", "build", "secrets"}
# Names that examples, loopback and public references may have; those of clouds' metadata are known to all attackers.
HOSTS_ALLOWED = re.compile(
    r"(?:127\.0\.0\.1|localhost|\[::1\]|[a-z-]+\.internal|cache|db|valkey|postgres|redis|keepachangelog\.com|semver\.org|www\.standardwebhooks\.com"
    r"|169\.254\.169\.254|metadata\.google\.internal"
    r"|openaipublic\.blob\.core\.windows\.net|www\.apache\.org|(?:[a-z]+\.)?example\.(?:com|org)|[a-z0-9.-]+\.example|[a-z0-9-]+\.test"
    r"|(?:api|docs)\.stripe\.com)\Z"
)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _files() -> Iterator[pathlib.Path]:
    """The checkout's own text files."""
    stack = [ROOT]
    while stack:
        for path in stack.pop().iterdir():
            if path.is_symlink() or path.name in SKIPPED or path.name.endswith(("_cache", ".egg-info")):
                continue
            if path.is_dir():
                if not path.name.startswith(".") or path.name == ".ci":
                    stack.append(path)
            elif path.suffix in TEXT_SUFFIXES:
                yield path


@functools.cache
def _compose() -> dict[str, Any]:
    return yaml.safe_load(_text("docker-compose.yml"))


@functools.cache
def _subcommands() -> dict[str, click.Command]:
    """Every command by its words, "" for meterd itself. One that cannot be imported is a failure."""
    found: dict[str, click.Command] = {"": cli.main}
    context = click.Context(cli.main)
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None, name
        found |= _within(name, command)
    return found


def _within(name: str, command: click.Command) -> dict[str, click.Command]:
    """The command and what is below it."""
    found = {name: command}
    if isinstance(command, click.Group):
        for inner, part in command.commands.items():
            found |= _within(f"{name} {inner}", part)
    return found


def _options(command: click.Command) -> set[str]:
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}


def _fences(document: pathlib.Path, *languages: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M)
    return [body for language, body in blocks if language in languages]


def _meterd_calls() -> list[tuple[str, list[str]]]:
    """Every call of meterd in the documents' shell blocks and inline code, as words after `meterd`."""
    calls: list[tuple[str, list[str]]] = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        lines = [line for body in _fences(document, "sh") for line in body.replace("\\\n", " ").splitlines()]
        for line in (*inline, *lines):
            bare = re.sub(r"\s#.*", "", line)
            match = re.match(r"(?:\S*=\S+ )*(?:docker compose exec meterd )?(?:\S*/)?meterd((?: \S+)+)\Z", bare.strip())
            if match:
                calls.append((f"{document.name}: {line.strip()}", match[1].split()))
    return calls


def test_every_command_that_the_documents_call_exists_with_its_options() -> None:
    known = _subcommands()
    calls = _meterd_calls()
    assert len(calls) > 30
    for where, words in calls:
        names = [word for word in words if not word.startswith("-")]
        name = next((" ".join(names[:count]) for count in (3, 2, 1) if " ".join(names[:count]) in known), "")
        assert name or words[0] in ("--version", "--help"), where
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in _options(known[name]) | {"--version"}, f"{where}: {word}"


def test_every_command_is_in_the_operators_manual() -> None:
    text = _text("docs/OPERATING.md") + _text("README.md")
    for name in _subcommands():
        if name and " " not in name:
            assert re.search(rf"\b{name}\b", text), name


def test_every_command_tells_its_options_and_exit_codes_and_answers_machines() -> None:
    for name, command in _subcommands().items():
        if isinstance(command, click.Group):
            continue
        text = command.get_help(click.Context(command, info_name=name))
        assert command.help and "exit" in text.lower(), name
        silent = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
        assert silent == [], name
        # Those without run until they are stopped, or answer one word.
        assert ("--json" in _options(command)) != (name in {"dev", "serve", "worker", "stripe serve", "health"}), name


def test_no_statement_is_put_together_from_values() -> None:
    call = re.compile(
        r"\b(?:execute|executemany|fetch|fetchrow|fetchval|prepare)\(\s*(?:f['\"]|[^)\n]*(?:\.format\(|['\"] [%+] ))"
    )
    for path in sorted((ROOT / "src").rglob("*.py")):
        assert not call.findall(path.read_text(encoding="utf-8")), path


def test_every_setting_is_in_the_operators_manual_with_its_default() -> None:
    text = _text("docs/OPERATING.md")
    rows = dict(re.findall(r"^\| `(METERD_[A-Z0-9_]+)` \| ([^|]+?) \|", text.partition("These belong to")[0], re.M))
    expected = {settings.PREFIX + field.name.upper(): field.default for field in dataclasses.fields(settings.Settings)}
    assert set(rows) == set(expected)
    for name, default in expected.items():
        if default == "":
            assert rows[name].startswith("none"), name
        else:
            assert rows[name] == f"`{str(default).lower() if isinstance(default, bool) else default}`", name


def test_every_variable_that_a_file_names_is_a_setting_or_a_tools() -> None:
    known = {settings.PREFIX + field.name.upper() for field in dataclasses.fields(settings.Settings)}
    tools = set(
        re.findall(r"^\| `(METERD_[A-Z_]+)` \|", _text("docs/OPERATING.md").partition("These belong to")[2], re.M)
    )
    names = ["Dockerfile", "docker-compose.yml", "Makefile", *(str(path.relative_to(ROOT)) for path in DOCUMENTS)]
    for name in names:
        for variable in re.findall(r"METERD_[A-Z0-9_]+[A-Z0-9]", _text(name)):
            assert variable in known | tools or variable.removesuffix("_FILE") in known, f"{name}: {variable}"


def test_every_variable_of_the_tools_is_in_the_operators_manual() -> None:
    text = _text("docs/OPERATING.md")
    for command in _subcommands().values():
        for parameter in command.params:
            for name in [parameter.envvar] if isinstance(parameter.envvar, str) else (parameter.envvar or ()):
                assert f"`{name}`" in text, f"{command.name}: {name}"


def test_every_method_of_the_protos_is_told_of() -> None:
    text = _text("README.md") + _text("CHANGELOG.md") + _text("docs/ARCHITECTURE.md")
    for module in (metering_pb2, accounts_pb2, catalog_pb2, events_pb2, reports_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            proto = _text(f"protos/{module.DESCRIPTOR.name}")
            for method in service.methods:
                assert re.search(rf"^  //.*\n  rpc {method.name}\(", proto, re.M) or method.name == "GetAccount", (
                    method.name
                )
                words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", method.name).lower().split()
                assert method.name in text or words[-1] in text.lower(), method.name


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            file = document if not path else (document.parent / path).resolve()
            assert file.exists(), f"{document.name}: {target}"
            if anchor:
                assert anchor in _anchors(file), f"{document.name}: {target}"


def _anchors(document: pathlib.Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_sources_that_the_documents_name_are_there() -> None:
    places = (ROOT, ROOT / "src/meterd", ROOT / "docs")
    for document in DOCUMENTS:
        for name in re.findall(
            r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|lua|sql|proto|lock|yml|toml))`", document.read_text(encoding="utf-8")
        ):
            assert any((place / name).exists() for place in places), f"{document.name}: {name}"


def test_make_targets_that_the_documents_name_are_there() -> None:
    makefile = _text("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`|\n)make ([a-z-]+)\b", document.read_text(encoding="utf-8")):
            assert target in targets, f"{document.name}: make {target}"
    assert len(re.findall(r"^[a-z-]+:.*## ", makefile, re.M)) <= 12


def test_what_the_makefile_runs_is_there() -> None:
    for script in re.findall(r"\bscripts/[a-z-]+", _text("Makefile") + _text(".ci/run")):
        assert (ROOT / script).stat().st_mode & 0o100, script


def test_the_python_of_the_documents_compiles() -> None:
    blocks = [body for document in DOCUMENTS for body in _fences(document, "python")]
    assert len(blocks) >= 2
    for body in blocks:
        compile(body, "document", "exec")


def test_the_image_copies_what_is_there_and_what_the_builder_is_given() -> None:
    given = {line[1:] for line in _text(".dockerignore").splitlines() if line.startswith("!")}
    assert _text(".dockerignore").splitlines()[1] == "*"
    for line in re.findall(r"^COPY (?!--from)(.+)$", _text("Dockerfile"), re.M):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(name == source or name.startswith(f"{source}/") for name in given), source
    for name in given:
        assert (ROOT / name).exists(), name


def test_the_image_runs_a_command_of_meterd_as_another_user() -> None:
    dockerfile = _text("Dockerfile")
    assert re.search(r'^ENTRYPOINT \["meterd"\]\nCMD \["serve"\]$', dockerfile, re.M)
    assert re.search(r'^HEALTHCHECK .*CMD \["meterd", "health"\]$', dockerfile, re.M)
    assert re.search(r"^USER \d{4,}:\d{4,}$", dockerfile, re.M)
    assert "STOPSIGNAL SIGTERM" in dockerfile
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-\w+$", dockerfile, re.M)
    version = tomllib.loads(_text("pyproject.toml"))["project"]["version"]
    assert f"ARG VERSION={version}" in dockerfile
    assert f"image: meterd:{version}" in _text("docker-compose.yml")


def test_the_image_listens_where_the_ports_are_published() -> None:
    ports = set(re.findall(r"METERD_(?:(?:HTTP_)?LISTEN|HTTP_ADDRESS)=0\.0\.0\.0:(\d+)", _text("Dockerfile")))
    exposed = re.search(r"^EXPOSE (.+)$", _text("Dockerfile"), re.M)
    assert exposed is not None
    assert set(exposed[1].split()) == ports
    published = {tuple(port.split(":")) for port in _compose()["services"]["meterd"]["ports"]}
    assert published == {("127.0.0.1", port, port) for port in ports}


def test_compose_starts_commands_of_meterd_with_settings_that_it_knows() -> None:
    services = _compose()["services"]
    for name in ("meterd", "migrate"):
        assert services[name]["command"][0] in _subcommands()
        read = settings.read(
            {key: value for key, value in services[name]["environment"].items() if not key.endswith("_FILE")}
        )
        assert read.redis_url == "redis://valkey:6379/0"
        assert services[name]["environment"]["METERD_POSTGRES_DSN_FILE"] == "/run/secrets/postgres_dsn"
        assert "postgres_dsn" in services[name]["secrets"]


def test_compose_takes_in_stripes_webhooks_at_the_port_that_it_publishes() -> None:
    stripe = _compose()["services"]["stripe"]
    assert " ".join(stripe["command"]) in _subcommands()
    given = {key: value for key, value in stripe["environment"].items() if not key.endswith("_FILE")}
    port = settings.read(given | {"METERD_POSTGRES_DSN": "postgresql://db/meterd"}).stripe_listen.rpartition(":")[2]
    assert stripe["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/readyz" in str(stripe["healthcheck"]["test"])
    assert stripe["environment"]["METERD_STRIPE_WEBHOOK_SECRETS_FILE"] == "/run/secrets/stripe_webhook_secrets"


def test_no_two_processes_want_the_same_port() -> None:
    defaults = settings.Settings()
    listeners = [defaults.listen, defaults.http_listen, defaults.http_address, defaults.stripe_listen]
    assert len(set(listeners)) == len(listeners)
    published = [port for service in _compose()["services"].values() for port in service.get("ports", ())]
    assert len(set(published)) == len(published)


def test_compose_names_only_what_it_defines() -> None:
    compose = _compose()
    for name, service in compose["services"].items():
        assert "image" in service, name
        for other, how in service.get("depends_on", {}).items():
            assert other in compose["services"], f"{name}: {other}"
            assert how["condition"] in ("service_healthy", "service_completed_successfully")
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service.get("networks", ())) <= set(compose["networks"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in compose["volumes"]
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("secrets/")
    assert "secrets/" in _text(".gitignore").splitlines()


def test_compose_gives_the_stores_durable_settings_and_no_port() -> None:
    valkey, postgres = (_compose()["services"][name] for name in ("valkey", "postgres"))
    given = dict(zip(valkey["command"][1::2], valkey["command"][2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "always"
    assert given["--maxmemory-policy"] == "noeviction"
    for store in (valkey, postgres):
        assert "ports" not in store
        assert store["volumes"]
        assert store["healthcheck"]["test"]
    assert not any("PASSWORD" in key and not key.endswith("_FILE") for key in postgres["environment"])


def test_compose_waits_for_an_orderly_stop() -> None:
    grace = _compose()["services"]["meterd"]["stop_grace_period"]
    defaults = settings.Settings()
    assert int(grace.removesuffix("s")) * 1000 >= defaults.lame_duck_ms + defaults.drain_ms + CLOSE_MS


def test_the_metrics_that_a_server_shows_are_those_of_the_manual() -> None:
    sources = "".join(pathlib.Path(module.__file__ or "").read_text(encoding="utf-8") for module in (app, engine))
    sources += _text("src/meterd/server/metrics.py") + _text("src/meterd/server/stripe_app.py")
    shown = set(re.findall(r'"(meterd_[a-z_]+)"', sources))
    told = {
        re.sub(r"_(?:total|info)\Z", "", name)
        for name in re.findall(
            r"`?(meterd_[a-z_]+)(?![a-z_]*[@./])",
            _text("docs/OPERATING.md") + "".join(re.findall(r"`meterd_stripe_[a-z_]+", _text("docs/STRIPE.md"))),
        )
    }
    assert shown - told == set()
    assert told - shown - {"meterd_app", "meterd_worker"} == set()


def test_the_image_runs_what_was_tested() -> None:
    whole = _locked("requirements.lock")
    for name in ("requirements.runtime.lock", "requirements.build.lock"):
        part = _locked(name)
        assert part.items() <= whole.items(), name
        assert "hypothesis" not in part
    wanted = tomllib.loads(_text("pyproject.toml"))["project"]["dependencies"]
    names = {re.split(r"[\[<>=;~ ]", one)[0] for one in wanted} - {"meterd-client"}
    assert names <= _locked("requirements.runtime.lock").keys()


def _locked(name: str) -> dict[str, str]:
    """Versions by name; every one has a hash."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", _text(name).strip()):
        match = re.match(r"([a-z0-9._-]+)==(\S+)", block)
        assert match is not None, block[:80]
        assert "--hash=sha256:" in block, match[1]
        found[match[1]] = match[2]
    return found


def test_locks_and_builds_name_no_address() -> None:
    for name in (
        "requirements.lock",
        "requirements.runtime.lock",
        "requirements.build.lock",
        "Dockerfile",
        "docker-compose.yml",
    ):
        for number, line in enumerate(_text(name).splitlines(), 1):
            assert "index-url" not in line and "find-links" not in line, f"{name}:{number}"
            assert name == "docker-compose.yml" or "://" not in line, f"{name}:{number}"
    for image in re.findall(r"image: (\S+)", _text("docker-compose.yml")):
        assert "." not in image.partition("/")[0] or ":" in image.partition("/")[0], image


def test_no_file_names_a_machine() -> None:
    paths = re.compile(r"(?<![\w./-])/(?:home/\w|root/|work/|Users/\w)")
    for file in _files():
        if file == pathlib.Path(__file__) or "LICENSE" in file.name:
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        found = paths.search(text)
        assert found is None, f"{file.relative_to(ROOT)}: {text[found.start() : found.start() + 40] if found else ''}"
        for host in re.findall(r"https?://(?:[^\s/\"'@]*@)?(\[[^\]]+\]|[A-Za-z0-9.-]+)", text):
            assert HOSTS_ALLOWED.match(host.lower()), f"{file.relative_to(ROOT)}: {host}"
        for address in re.findall(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])", text):
            try:
                ip = ipaddress.ip_address(address)
            except ValueError:
                continue
            documented = ip in ipaddress.ip_network("192.0.2.0/24") or ip in ipaddress.ip_network("203.0.113.0/24")
            assert (
                documented or ip.is_loopback or ip.is_unspecified or file.suffix == ".lock" or "tests" in file.parts
            ), f"{file}: {ip}"


@pytest.mark.parametrize("suffix", [".py", ".lua", ".sql", ".md", ".proto"])
def test_no_file_is_longer_than_a_person_reads(suffix: str) -> None:
    for file in _files():
        if file.suffix == suffix and not any(part in file.name for part in GENERATED):
            count = file.read_text(encoding="utf-8").count("\n")
            assert count <= LINES_MAX, f"{file.relative_to(ROOT)}: {count} lines"


def test_migrations_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (pathlib.Path(migrate.__file__).parent / "migrations").glob("*.sql"))
    assert [name[:4] for name in names] == [f"{number:04d}" for number in range(1, len(names) + 1)]
