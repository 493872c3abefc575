"""Jobs of which a deployment has one: who does them now."""

from __future__ import annotations

from ...ingest.errors import Fenced
from .database import Database, meaning
from .dialects.chairs import Chair


class Seat:
    """A job that this process has. One thread uses it.

    Args:
        job: its name.
        chair: what the database gave.
    """

    def __init__(self, job: str, chair: Chair) -> None:
        self._job = job
        self._chair = chair

    def check(self) -> None:
        """Go on only while it is still ours.

        Raises:
            Unavailable: the database does not answer, and may have given it to somebody else.
            Fenced: it is no longer ours.
        """
        with meaning():
            ours = self._chair.check()
        if not ours:
            raise Fenced(f"the connection that made this process the {self._job} is gone; another may be it by now")

    def leave(self) -> None:
        """Let another process have it."""
        self._chair.leave()


class Seats(Database):
    """Part of the store."""

    def sit(self, job: str) -> Seat | None:
        """Take a job that one process does at a time; None = another one has it. Raises Unavailable."""
        with meaning():
            chair = self._dialect.sit(self._engine, job)
        return None if chair is None else Seat(job, chair)
