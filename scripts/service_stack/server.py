"""A server of one process whose files, ports and settings are in one folder: what the peers of Trustwatch share."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from .system import ServerProcess, free_ports, is_free, locked, read_json, write_json, write_private

HOST = "127.0.0.1"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever proxy the machine has


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a GET of *url* is answered with a status of success."""
    with contextlib.suppress(OSError, ValueError), _opener.open(url, timeout=timeout_s) as answer:
        return bool(200 <= answer.status < 300)
    return False


def listens(port: int, timeout_s: float = 2.0) -> bool:
    """Whether a server accepts connections on *port* of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=timeout_s):
        return True
    return False


class Server(ABC):
    """A server whose state is in *folder*: opening that folder again finds what another process started there.

    `configure` (of each server) sets what it is started with; `start` restarts one that runs with anything else. As a
    context manager it runs inside, and its data stay.
    """

    NAME: ClassVar[str]
    """As in `scripts/services start NAME`."""
    PORTS: ClassVar[tuple[str, ...]] = ("http",)
    """The protocols that the server listens for; `port` and `status` report that of the first."""
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    """Settings of a server that was not configured."""
    START_S: ClassVar[float] = 60.0
    STOP_S: ClassVar[float] = 15.0

    def __init__(self, folder: Path, *, port: int | None = None, bound: bool = False) -> None:
        """Read the state of *folder*; nothing starts yet.

        Args:
            folder: made if it does not exist.
            port: the first one, the others follow it if they are free; None takes free ones. Ports stay the same for
                the life of the folder.
            bound: whether a server started here ends with this process, however that ends.
        """
        self.folder = folder.absolute()
        self._file = self.folder / "state.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            self._state = read_json(self._file) or self._plan(port)
        self._process = ServerProcess(self.NAME, str(self.folder), self.log, self._state["pid"], bound=bound)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The first port, on 127.0.0.1."""
        return self.port_of(self.PORTS[0])

    def port_of(self, name: str) -> int:
        """One of `PORTS`."""
        return int(self._state["ports"][name])

    @property
    def url(self) -> str:
        """`http://host:port` of the first port."""
        return self.url_of(self.PORTS[0])

    def url_of(self, name: str) -> str:
        """The same of one of `PORTS`."""
        return f"http://{HOST}:{self.port_of(name)}"

    @property
    def log(self) -> Path:
        """File with the output of the server."""
        return self.folder / f"{self.NAME}.log"

    @property
    def settings(self) -> dict[str, Any]:
        """What `configure` was given last."""
        given: dict[str, Any] = self._state["settings"]
        return self.DEFAULTS | given

    @property
    def configured(self) -> bool:
        """Whether it can start with the settings it has."""
        return True

    def start(self) -> None:
        """Start the server if it does not run with its present settings, and wait until it answers.

        Raises:
            Unavailable: the program is not available on this machine.
            ServiceError: it ends or does not answer in time.
        """
        with locked(self.folder / "lock"):
            command = self._command()
            changed = self._write(self._files())
            self._process.signal(signal.SIGCONT)
            if changed and self.alive():
                self._end()
            if not self.alive():
                self._before()
                self._launch(command)
                self._state["pid"] = self._process.pid
                self._save()
        self._process.wait_ready(self._ready, self.START_S)

    def stop(self) -> None:
        """End it in good order, or by force after a while. Data stay."""
        self._end()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open without an answer; `start` wakes it."""
        self._process.pause()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive()

    def remove(self, *, keep_logs: bool = False) -> None:
        """End it at once and delete *folder*, but for its logs if they are to be kept."""
        self.kill()
        if not keep_logs:
            shutil.rmtree(self.folder)
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix not in (".log", ".jsonl"):
                path.unlink()

    def status(self) -> dict[str, Any]:
        """The state file, and whether the server runs."""
        return self._state | {
            "service": self.NAME,
            "folder": str(self.folder),
            "url": self.url,
            "port": self.port,
            "log": str(self.log),
            "alive": self.alive(),
        }

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Command line; `folder` is somewhere in it, by which the process is known again."""

    @abstractmethod
    def _files(self) -> dict[str, str]:
        """Configuration files in `folder`: name and content."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it answers."""

    def _before(self) -> None:
        """What has to be done before each start: nothing, for most."""
        return

    def _launch(self, command: Sequence[str | Path]) -> None:
        self._process.start(command, self.folder, self._environment())

    def _environment(self) -> dict[str, str]:
        return {}

    def _secrets(self) -> dict[str, Any]:
        """What is made up once for the life of the folder."""
        return {}

    def _configure(self, settings: dict[str, Any]) -> None:
        with locked(self.folder / "lock"):
            self._state["settings"] = settings
            self._save()

    def _plan(self, port: int | None) -> dict[str, Any]:
        ports = free_ports(len(self.PORTS))
        if port is not None:
            following = (port + more for more in range(1, len(ports)))
            ports = [port, *(one if is_free(one) else other for one, other in zip(following, ports[1:], strict=True))]
        state = {"ports": dict(zip(self.PORTS, ports, strict=True)), "pid": None, "settings": {}} | self._secrets()
        write_json(self._file, state)
        return state

    def _save(self) -> None:
        write_json(self._file, self._state)

    def _write(self, files: dict[str, str]) -> bool:
        """Write what differs; whether anything did."""
        changed = False
        for name, text in files.items():
            path = self.folder / name
            if not path.exists() or path.read_text() != text:
                write_private(path, text)
                changed = True
        return changed

    def _end(self) -> None:
        self._process.signal(signal.SIGCONT)
        self._process.signal(signal.SIGTERM)
        if not self._process.wait_gone(self.STOP_S):
            self._process.kill()
