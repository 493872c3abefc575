"""A separate PostgreSQL cluster on loopback, from the binaries of the system package."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .system import (
    ServerProcess,
    ServiceError,
    ServiceUnavailable,
    free_ports,
    install,
    last_lines,
    locked,
    read_json,
    run,
    write_json,
    write_private,
)

HOST = "127.0.0.1"
USER = DATABASE = "trustwatch"
ADMIN = "postgres"
BINARIES = Path("/usr/lib/postgresql")
START_S, STOP_S = 60.0, 30.0
_REACHED_BY_ALL = "/var/tmp"  # nosec B108 # for a new folder in it, 0700

CONFIGURATION = """
# written by service_stack
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
synchronous_commit = on
max_connections = 200
# Files of the data folder, which go with it: after a kill, shared memory would stay until the machine has none left.
dynamic_shared_memory_type = mmap
log_line_prefix = '%m [%p] %d '
"""


def binaries() -> Path:
    """Folder with the programs of the newest PostgreSQL of the system, installed if there is none.

    Raises:
        Unavailable: it is missing and cannot be installed here.
    """
    found = _newest()
    if found is None:
        install("postgresql", f"there is no PostgreSQL server in {BINARIES}")
        found = _newest()
    if found is None:
        raise ServiceUnavailable(f"the package postgresql is installed, but there is no server in {BINARIES}")
    return found


def _newest() -> Path | None:
    found = [path.parent for path in BINARIES.glob("*/bin/initdb") if path.parts[-3].isdigit()]
    return max(found, key=lambda path: int(path.parts[-2]), default=None)


class Postgres:
    """A server whose state is in *folder*: `Postgres(folder)` finds again what another process started there.

    As root it runs as the user postgres (PostgreSQL refuses root); if that user cannot reach *folder*, the data are in
    a temporary folder to which `folder/data` is a link.
    """

    def __init__(self, folder: Path, *, port: int | None = None, bound: bool = False) -> None:
        """Read the state of *folder*; nothing starts yet.

        Args:
            folder: made if it does not exist.
            port: None takes a free one; it stays the same for the life of the folder.
            bound: whether a server started here ends with this process, however that ends.
        """
        self.folder = folder.absolute()
        self._file = self.folder / "state.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            self._state = read_json(self._file) or self._plan(port)
        log, pid = Path(self._state["log"]), self._state["pid"]
        self._process = ServerProcess("PostgreSQL", self._state["data"], log, pid, bound=bound)

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1."""
        return int(self._state["port"])

    @property
    def url(self) -> str:
        """`postgresql://user:password@host:port/database` of `trustwatch`; its user owns it, no superuser."""
        return self.url_of(DATABASE)

    def url_of(self, database: str, scheme: str = "postgresql") -> str:
        """The same for another database, or with another *scheme* (`postgresql+psycopg`)."""
        return f"{scheme}://{USER}:{self._state['password']}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server if it does not run, and wait until it answers.

        Raises:
            Unavailable: there is no PostgreSQL and it cannot be installed.
            ServiceError: it ends or does not answer in time.
        """
        with locked(self.folder / "lock"):
            programs = binaries()
            data = self._data()
            if not (data / "PG_VERSION").exists():
                self._create(programs, data)
            if not self._process.alive():
                command = [programs / "postgres", "-D", self._state["data"], "-p", str(self.port)]
                self._process.start(command, data, {"LC_ALL": "C.UTF-8"}, _owner())
            self._process.signal(signal.SIGCONT)
            self._state["pid"] = self._process.pid
            write_json(self._file, self._state)
            self._process.wait_ready(lambda: self._psql(ADMIN, "select 1").returncode == 0, START_S)
            if not self._state["created"]:
                self.sql(f"create role {USER} login password '{self._state['password']}'", ADMIN)
                self.sql(f"create database {DATABASE} owner {USER}", ADMIN)
                self._state["created"] = True
                write_json(self._file, self._state)

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything is written; by force after a while."""
        self._process.signal(signal.SIGINT)
        if not self._process.wait_gone(STOP_S):
            self.kill()

    def kill(self) -> None:
        """kill -9 of the server and of all its sessions at once, as when the machine fails."""
        self._process.signal(signal.SIGSTOP)  # a server that sees its sessions killed would start others
        children = self._children()
        for child in children:
            child.signal(signal.SIGKILL)
        self._process.kill()
        for child in children:  # as long as one is left, the next server finds the shared memory in use
            child.kill()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process.alive()

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """Run one statement with psql as superuser. Returns the rows, one a line, columns with `|` between them.

        Raises:
            ServiceError: with the output of psql.
        """
        done = self._psql(database, statement)
        if done.returncode != 0:
            raise ServiceError(f"PostgreSQL, {database}: {statement}\n{done.stdout}")
        return done.stdout.strip()

    def create_database(self, template: str | None = None) -> str:
        """Make a database with a unique name, empty or a copy of *template*. Returns the name."""
        name = f"t_{secrets.token_hex(6)}"
        self.sql(f"create database {name} owner {USER}" + (f" template {template}" if template else ""), ADMIN)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, the sessions in it included."""
        self.sql(f"drop database if exists {name} with (force)", ADMIN)

    def remove(self, *, keep_logs: bool = False) -> None:
        """End the server at once and delete all its data, and *folder* unless its log is to be kept."""
        self.kill()
        shutil.rmtree(Path(self._state["data"]), ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self.folder)

    def status(self) -> dict[str, Any]:
        """The state file, and whether the server runs."""
        return self._state | {
            "service": "postgres",
            "folder": str(self.folder),
            "url": self.url,
            "alive": self.alive(),
        }

    def _plan(self, port: int | None) -> dict[str, Any]:
        state = {
            "port": free_ports(1)[0] if port is None else port,
            "password": secrets.token_urlsafe(12),
            "pid": None,
            "data": str(self.folder / "data"),
            "log": str(self.folder / "postgres.log"),
            "created": False,
        }
        write_json(self._file, state)
        return state

    def _data(self) -> Path:
        """The data folder, made for the user of the server at the first start."""
        data, owner = Path(self._state["data"]), _owner()
        if data.exists():
            return data
        if owner is not None and not _reaches(owner, self.folder):
            data = Path(tempfile.mkdtemp(prefix="trustwatch-postgres-", dir=_REACHED_BY_ALL))
            (self.folder / "data").symlink_to(data)
            self._state["data"] = str(data)
            self._process.mark = str(data).encode()
            write_json(self._file, self._state)
        data.mkdir(mode=0o700, exist_ok=True)
        if owner is not None:
            shutil.chown(data, owner, owner)
        return data

    def _create(self, programs: Path, data: Path) -> None:
        secret = data.with_name(data.name + ".password")
        write_private(secret, self._state["password"])
        owner = _owner()
        if owner is not None:
            shutil.chown(secret, owner, owner)
        command: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            ADMIN,
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        try:
            done = run(command, folder=data, user=owner)
        finally:
            secret.unlink()
        if done.returncode != 0:
            raise ServiceError(f"initdb of {data} failed:\n{last_lines(done.stdout)}")
        with (data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            binaries() / "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            HOST,
            "-p",
            str(self.port),
            "-U",
            ADMIN,
            "-d",
            database,
            "-c",
            statement,
        ]
        return run(command, environment={"PGPASSWORD": self._state["password"], "PGCONNECT_TIMEOUT": "5"})

    def _children(self) -> list[ServerProcess]:
        if not self._process.alive():
            return []
        pid = self._process.pid
        numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [ServerProcess("PostgreSQL session", "postgres", self._process.log, int(number)) for number in numbers]


def _owner() -> str | None:
    """User for the server: None is the current user, `postgres` if it is root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ServiceUnavailable(
            "there is no user postgres to run PostgreSQL as, and it refuses to run as root"
        ) from None


def _reaches(user: str, folder: Path) -> bool:
    """Whether *user* may enter *folder* and write there, were it their own."""
    return run(["test", "-x", folder], user=user, folder=Path("/")).returncode == 0
