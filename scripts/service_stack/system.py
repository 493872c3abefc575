"""What both services need of the machine: folders, ports, packages and processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PORTS = range(20_000, 32_768)
"""Below Linux's ephemeral range: a service that is down for a moment finds its port free again."""
MAX_WORKERS = 8
_given: set[int] = set()
"""Ports that this process gave out: a service that is down keeps its own."""


class ServiceError(RuntimeError):
    """A service failed; the message names it and the path of its log."""


class ServiceUnavailable(ServiceError):
    """A service is not available on this machine: tests that need it are skipped with this as the reason."""


def cache_folder() -> Path:
    """The folder for downloads and, by default, for the services of `scripts/services`: outside of the tree."""
    given = os.environ.get("TRUSTWATCH_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "trustwatch"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file *path*: of several callers one works, the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ports_of_worker(worker: str) -> range:
    """Ports of one worker process of the tests (`gw0`, …): no other one takes that of a service that is down there."""
    if not worker:
        return PORTS
    share = len(PORTS) // MAX_WORKERS
    begin = PORTS.start + int(worker.removeprefix("gw")) % MAX_WORKERS * share
    return range(begin, begin + share)


def free_ports(count: int) -> list[int]:
    """*count* different TCP ports of 127.0.0.1 that are free now, each given once by this process."""
    ports = ports_of_worker(os.environ.get("PYTEST_XDIST_WORKER", ""))
    if len(_given) > len(ports) // 2:
        _given.clear()  # a run so long that its first services have ended
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = secrets.choice(ports)
            if port in _given:
                continue
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                _given.add(port)
                found.append(port)
        return found


def is_free(port: int) -> bool:
    """Whether *port* of 127.0.0.1 is free now."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def ensure_command(name: str, package: str) -> str:
    """Path of the program *name*; if it is missing its Debian *package* is installed.

    Raises:
        Unavailable: it is missing and cannot be installed here.
    """
    found = shutil.which(name)
    if found is None:
        install(package, f"the program {name} is missing")
        found = shutil.which(name)
    if found is None:
        raise ServiceUnavailable(f"the package {package} is installed, but there is no program {name} in PATH")
    return found


def install(package: str, why: str) -> None:
    """Install a Debian package, as root on a Debian machine.

    Raises:
        Unavailable: not root, no apt-get, or apt-get failed.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceUnavailable(f"{why}: install it (on Debian: apt-get install {package})")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with locked(cache_folder() / "apt.lock"):
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", package]):
            done = run(["apt-get", *command], environment=quiet, timeout_s=600)
            if done.returncode != 0:
                raise ServiceUnavailable(f"{why}, and apt-get {command[0]} failed:\n{last_lines(done.stdout)}")


def run(
    command: Sequence[str | Path],
    *,
    environment: dict[str, str] | None = None,
    timeout_s: float = 120,
    folder: Path | None = None,
    user: str | None = None,
    umask: int = -1,
) -> subprocess.CompletedProcess[str]:
    """Run *command* to its end, output and errors in `stdout`; *environment* is added to that of this process."""
    return subprocess.run(
        [str(word) for word in command],
        check=False,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        cwd=folder,
        env=os.environ | (environment or {}),
        umask=umask,
        **as_user(user),
    )


def as_user(user: str | None) -> dict[str, Any]:
    """Options of subprocess for another user of the machine; None is the user who we are."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


def last_lines(text: str, lines: int = 15) -> str:
    """The last *lines* of a log."""
    return "\n".join(text.splitlines()[-lines:])


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; empty if the file does not exist."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace *path* at once, readable by its owner alone: state files hold passwords."""
    write_private(path.with_suffix(".new"), json.dumps(value, indent=2) + "\n")
    path.with_suffix(".new").replace(path)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


_PARENT_WATCHER = """
import os, signal, sys
bound = dict(line.rstrip("\\n").split(" ", 1) for line in sys.stdin)
for pid, mark in bound.items():
    try:
        if mark.encode() in open(f"/proc/{pid}/cmdline", "rb").read():
            os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
_parent_watcher: subprocess.Popen[str] | None = None


def kill_with_parent(pid: int, mark: str) -> None:
    """Have process *pid* killed when this process ends, however it ends: a test run that is killed leaves no server.

    A helper process reads a pipe that ends with us. (PR_SET_PDEATHSIG would act when the starting *thread* ends.)
    """
    global _parent_watcher  # noqa: PLW0603 # one helper for the life of the process
    if _parent_watcher is None:
        _parent_watcher = subprocess.Popen(
            [sys.executable, "-I", "-c", _PARENT_WATCHER], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
    assert _parent_watcher.stdin is not None
    _parent_watcher.stdin.write(f"{pid} {mark}\n")
    _parent_watcher.stdin.flush()


# Its child waits until this shell has ended, and only then becomes the server.
_ORPHAN = (
    'log=$1; shift; ( while kill -0 $$ 2>/dev/null; do sleep 0.01; done; exec "$@" ) </dev/null >>"$log" 2>&1 & echo $!'
)


class ServerProcess:
    """One server process, known by its id and by a mark in its command line: it outlives the process that started it.

    Attributes:
        pid: id of the process, None before the first start.
        log: file with its output.
        bound: whether it ends with us, however we end.
    """

    def __init__(self, name: str, mark: str, log: Path, pid: int | None, *, bound: bool = False) -> None:
        self.name = name
        self.mark = mark.encode()
        self.log = log
        self.pid = pid
        self.bound = bound
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self, command: Sequence[str | Path], folder: Path, environment: dict[str, str], user: str | None = None
    ) -> int:
        """Start it in a separate session. Returns its id."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=os.environ | environment,
                start_new_session=True,
                **as_user(user),
            )
        self.pid = self._child.pid
        if self.bound:
            kill_with_parent(self.pid, self.mark.decode())
        return self.pid

    def start_orphan(self, command: Sequence[str | Path], folder: Path) -> int:
        """The same for a server that ends with its parent (PR_SET_PDEATHSIG): ours must outlive its starter."""
        done = subprocess.run(
            ["sh", "-c", _ORPHAN, "sh", str(self.log), *(str(word) for word in command)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self._child, self.pid = None, int(done.stdout)
        if self.bound:
            kill_with_parent(self.pid, self.mark.decode())
        return self.pid

    def alive(self) -> bool:
        """Whether the process runs: an id that was given to another program since does not count."""
        if self.pid is None or (self._child is not None and self._child.poll() is not None):
            return False
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes()
            # While a program is being loaded its process has no command line yet; nor has one that ended, a zombie.
            loading = not command and Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
        return self._child is not None or loading or self.mark in command

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.alive() and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and no request is answered once this returns."""
        self.signal(signal.SIGSTOP)
        while self.alive() and any(state not in "TZ" for state in self._thread_states()):
            time.sleep(0.01)

    def _thread_states(self) -> list[str]:
        """States of the threads, as letters of `proc(5)`."""
        return [
            path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{self.pid}/task").glob("*/stat")
        ]

    def wait_gone(self, within_s: float) -> bool:
        """Whether the process ended within that time."""
        deadline = time.monotonic() + within_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        """kill -9, and wait until it has ended."""
        self.signal(signal.SIGKILL)
        if not self.wait_gone(10):
            raise ServiceError(f"{self.name}: process {self.pid} survives kill -9")

    def wait_ready(self, ready: Callable[[], bool], within_s: float) -> None:
        """Wait until *ready* returns true.

        Raises:
            ServiceError: the process ended or the time is over; with the end of its log.
        """
        deadline = time.monotonic() + within_s
        while not ready():
            if not self.alive():
                raise ServiceError(f"{self.name}: ended while it started; log {self.log}:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name}: no answer in {within_s} s; log {self.log}:\n{self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        return last_lines(self.log.read_text(errors="replace"))
