"""A job that one process of a deployment has at a time: a session-level advisory lock on a connection of its own.

The server gives it free when the connection ends: at once where a process is killed, within keep-alive's half minute
where its machine is gone. No clock of ours decides who has it.
"""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection, Engine, text

JOB_LOCK_KEYS = {
    "keeper": 0x7457_0004,
    "erasures": 0x7457_0005,
    "transmitter": 0x7457_0006,
    "learning": 0x7457_0008,
    "signal poller": 0x7457_0009,
}
"""Keys beside those of transactions (postgresql.py, weekly_tables.py)."""
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_BACKEND_PID = text("SELECT pg_backend_pid()")


class JobLock(Protocol):
    """A job that was taken."""

    def is_held(self) -> bool:
        """True while it is ours; False once the connection broke, even where another one could be made."""

    def release(self) -> None:
        """Let another one have it."""


class NoLock:
    """Lock of a database in a file: one service has it, so no other process asks."""

    def is_held(self) -> bool:
        """True: the job is always ours."""
        return True

    def release(self) -> None:
        """Do nothing: no other process waits."""


class SessionLock:
    """A lock that lives as long as its connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = connection.execute(_BACKEND_PID).scalar_one()

    def is_held(self) -> bool:
        """Ask the server; what the driver raises where it does not answer is the caller's to translate."""
        return not self._connection.closed and self._connection.execute(_BACKEND_PID).scalar_one() == self._pid

    def release(self) -> None:
        """Close the connection: if it went back to the pool, the lock would go with it."""
        if not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()


def acquire_job_lock(engine: Engine, job: str) -> SessionLock | None:
    """Take *job*, or find it taken: None."""
    connection = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
    try:
        if connection.execute(_TRY_LOCK, {"key": JOB_LOCK_KEYS[job]}).scalar_one():
            return SessionLock(connection)
    except BaseException:
        connection.invalidate()
        connection.close()
        raise
    connection.close()
    return None
