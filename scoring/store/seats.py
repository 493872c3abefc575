"""Jobs of which a deployment has one: who does them now."""

from __future__ import annotations

from ...ingest.errors import Fenced
from .database import Database, translate_errors
from .dialects.chairs import JobLock


class LeaderLock:
    """A job that this process has. One thread uses it.

    Args:
        job: its name.
        chair: what the database gave.
    """

    def __init__(self, job: str, chair: JobLock) -> None:
        self._job = job
        self._lock = chair

    def ensure_held(self) -> None:
        """Go on only while it is still ours.

        Raises:
            Unavailable: the database does not answer, and may have given it to somebody else.
            Fenced: it is no longer ours.
        """
        with translate_errors():
            ours = self._lock.is_held()
        if not ours:
            raise Fenced(f"the connection that made this process the {self._job} is gone; another may be it by now")

    def release(self) -> None:
        """Let another process have it."""
        self._lock.release()


class Seats(Database):
    """Part of the store."""

    def acquire_leader_lock(self, job: str) -> LeaderLock | None:
        """Take a job that one process does at a time; None = another one has it. Raises Unavailable."""
        with translate_errors():
            chair = self._dialect.acquire_job_lock(self._engine, job)
        return None if chair is None else LeaderLock(job, chair)
