"""A child process over a directory: one at a time, with a log, killed and started again at will, and gone when its parent is."""

from __future__ import annotations

import abc
import contextlib
import fcntl
import json
import os
import pathlib
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence

from meterd.core import errors

# Crash recovery of a store, on a slow disk and a busy machine.
START_TIMEOUT_S = 60.0
# A fast shutdown of Postgres writes a checkpoint.
STOP_TIMEOUT_S = 30.0
# What is left of a process whose owner was killed: it has had its signal and writes its checkpoint.
ORPHAN_TIMEOUT_S = 60.0
# Somebody else runs over the directory: long enough for one that is about to end, short enough for a person to wait.
IN_USE_TIMEOUT_S = 3.0
POLL_S = 0.01
LOG_TAIL_CHARS = 3_000
# Below the ports that kernels give to outgoing connections (Linux from 32768, macOS from 49152): otherwise a client that calls a
# stopped store again and again can be given the store's own port, connect to itself and keep the store from coming back.
_PORTS = range(15_000, 32_000)
# Linux lists processes here; elsewhere ps is asked.
_PROC = pathlib.Path("/proc/self")
_LAUNCH = pathlib.Path(__file__).with_name("launch.py")


class EmbeddedError(errors.MeterdError):
    """An embedded store is not installed, did not start or did not stop; the message says what to do or ends with its log."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise EmbeddedError(f"no port between {_PORTS.start} and {_PORTS.stop} is free")


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # Connections of the one before, which linger, are no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Polls `condition`; EmbeddedError naming `what` if it does not come true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise EmbeddedError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


class _Child:
    """A started program. Its own thread starts it and waits for it.

    Linux sends the signal of a parent's death when the thread ends that made the child, so that thread must last as long.
    """

    def __init__(self, command: Sequence[str], **options: object) -> None:
        self.ended = threading.Event()
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._keep, args=(command, options), daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise EmbeddedError(f"{command[0]}: {self._failure}") from self._failure

    def _keep(self, command: Sequence[str], options: dict[str, object]) -> None:
        try:
            self._popen = subprocess.Popen(command, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
        except OSError as exc:
            self._failure = exc
            return
        finally:
            self._started.set()
        self._popen.wait()
        self.ended.set()

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen


class Process(abc.ABC):
    """A program that runs over a directory. Keeps its port from one start to the next. Threads take turns in starting and ending it."""

    # What asks it to end in good order, and what it gets when its parent dies.
    stop_signal = signal.SIGTERM

    def __init__(
        self, directory: pathlib.Path, *, name: str, port: int = 0, cores: Sequence[int] | None = None
    ) -> None:
        """`port` 0 chooses one. `cores` are the only ones it may run on, where the system can do that."""
        self.directory = directory.absolute()
        self.name = name
        self.port = port or free_port()
        self.cores = cores
        self._child: _Child | None = None
        self._turn = threading.RLock()
        self._log_start_bytes = 0

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The program, as an absolute path, and its arguments."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Whether the child, and not another program on its port, does its work."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """What must be done before a start; nobody else is at work in the directory."""

    def environment(self) -> dict[str, str]:
        """A small one: what a developer has set for other clients and servers must not reach the store."""
        passed = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
        return {name: os.environ[name] for name in passed if name in os.environ} | {"LC_ALL": "C"}

    def user(self) -> pwd.struct_passwd | None:
        """Whom it runs as; None for the user we are."""
        return None

    @property
    def is_running(self) -> bool:
        return self._child is not None and not self._child.ended.is_set()

    @property
    def pid(self) -> int:
        """Of the running process; EmbeddedError if there is none."""
        if self._child is None:
            raise EmbeddedError(f"{self.name} is not running")
        return self._child.popen.pid

    @property
    def log_path(self) -> pathlib.Path:
        return self.directory / f"{self.name}.log"

    def log_tail(self) -> str:
        """The last it said since its start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start_bytes)
            return log.read().decode(errors="replace")[-LOG_TAIL_CHARS:]

    def start(self) -> None:
        """Returns when it is ready. A repeat changes nothing. EmbeddedError if it ends instead, or the directory is in use."""
        with self._turn:
            if self.is_running:
                return
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._locked() as lock_fd:
                self.prepare()
                self._child = self._spawn(lock_fd)
            try:
                self._wait_ready(self._child)
            except BaseException:
                # Ctrl-C included: a half-started store is of no use to anyone.
                self.kill()
                raise

    def _wait_ready(self, child: _Child) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            if child.ended.wait(POLL_S):
                raise EmbeddedError(f"{self.name} ended with {child.popen.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise EmbeddedError(f"{self.name} is not ready after {START_TIMEOUT_S:.0f} s:\n{self.log_tail()}")

    def stop(self) -> int:
        """Asks it to end and waits until it has; the exit status. A repeat does nothing. EmbeddedError if it had to be killed."""
        with self._turn:
            if self._child is None:
                return 0
            child = self._child
            child.popen.send_signal(self.stop_signal)
            if not child.ended.wait(STOP_TIMEOUT_S):
                tail = self.log_tail()
                self.kill()
                raise EmbeddedError(f"{self.name} did not stop in {STOP_TIMEOUT_S:.0f} s and was killed:\n{tail}")
            self._child = None
            return child.popen.returncode

    def kill(self) -> None:
        """SIGKILL to it and to its children; returns when all are gone. A repeat does nothing."""
        with self._turn:
            if self._child is None:
                return
            child = self._child
            if not child.ended.is_set():
                # Stopped first, so that it cannot make children that we have not seen.
                child.popen.send_signal(signal.SIGSTOP)
                try:
                    descendants = children(child.popen.pid)
                finally:
                    child.popen.kill()
                for pid in descendants:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            child.ended.wait()
            with self._locked(in_use_timeout_s=ORPHAN_TIMEOUT_S):
                self._child = None

    def _spawn(self, lock_fd: int) -> _Child:
        user = self.user()
        plan = {
            "uid": user and user.pw_uid,
            "gid": user and user.pw_gid,
            "cores": list(self.cores or ()),
            "parent_pid": os.getpid(),
            "parent_death_signal": int(self.stop_signal),
        }
        launch = [sys.executable, "-I", "-S", str(_LAUNCH), json.dumps(plan)]
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            child = _Child(
                [*launch, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self.environment(),
                # Ctrl-C in a terminal is for the parent, which then ends its children in good order.
                start_new_session=True,
                pass_fds=(lock_fd,),
            )
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{child.popen.pid} {os.getpid()}".encode(), 0)
        return child

    @contextlib.contextmanager
    def _locked(self, in_use_timeout_s: float = IN_USE_TIMEOUT_S) -> Generator[int]:
        """Nobody else is at work in the directory.

        The child and its children inherit the locked file: it stays locked until the last of them is gone, whoever dies first.
        """
        lock_fd = os.open(self.directory / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for_lock(lock_fd, in_use_timeout_s)
            yield lock_fd
        finally:
            os.close(lock_fd)

    def _wait_for_lock(self, lock_fd: int, in_use_timeout_s: float) -> None:
        begun_s = time.monotonic()
        told: set[int] = set()
        while not _try_lock(lock_fd):
            pid, owner_pid = _holder(lock_fd)
            is_orphan = owner_pid == 0 or not is_alive(owner_pid)
            waited_s = time.monotonic() - begun_s
            if waited_s > (ORPHAN_TIMEOUT_S if is_orphan else in_use_timeout_s):
                raise EmbeddedError(
                    f"{self.directory} is in use: process {owner_pid} runs {self.name} there as {pid}; end it, or choose another directory"
                )
            if is_orphan and pid and pid not in told and sys.platform != "linux":
                # Linux has told it already.
                told.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, self.stop_signal)
            time.sleep(POLL_S)


def _try_lock(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock_fd: int) -> tuple[int, int]:
    """The process that a lock's file names, and who started it; zeros if it does not say yet."""
    numbers = os.pread(lock_fd, 64, 0).split()
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, 0)


def is_alive(pid: int) -> bool:
    """Whether there is such a process and it has not ended; one that ended stays listed until its parent has asked about it."""
    try:
        os.kill(pid, 0)
        return _state_and_parent(pid)[0] != "Z" if _PROC.exists() else True
    except PermissionError:
        return True
    except (ProcessLookupError, FileNotFoundError):
        return False


def _state_and_parent(pid: int) -> tuple[str, int]:
    """A process's state letter and its parent, by Linux."""
    # The name in parentheses may hold anything; after it come the state and the parent.
    fields = (_PROC.parent / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[1])


def children(parent_pid: int) -> list[int]:
    """The processes that `parent_pid` has started and that still run."""
    if not _PROC.exists():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [line.split() for line in listing.splitlines()]
        return [int(pid) for pid, parent in pairs if int(parent) == parent_pid]
    found: list[int] = []
    for entry in _PROC.parent.iterdir():
        # Others end while we look.
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and _state_and_parent(int(entry.name))[1] == parent_pid:
                found.append(int(entry.name))
    return found
