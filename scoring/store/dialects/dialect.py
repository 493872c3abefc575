"""What differs between databases. The defaults are those of a database that one process writes at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from ...records.agent_pages import AgentPage, StateFormat
from ...records.agents import AgentRow
from ...records.commits import Position
from ..sql_schema import DECISIONS, METADATA


class JobLock:
    """A job that this process has. Here it always has it: a file belongs to one service."""

    def is_held(self) -> bool:
        """True while this process has it; False once the connection broke, even if another one could be made."""
        return True

    def release(self) -> None:
        """Release the job to other processes."""


class Dialect:
    """One database. A third one adds its module here, its words in `statements.py`, and types in `sql_schema.py`."""

    ROW_PURGED_DECISIONS: Table = DECISIONS
    """The part of `decisions` that is purged row by row."""

    def make_engine(self, url: URL) -> Engine:
        """Make an engine whose every connection is set up. Raises ConfigError."""
        raise NotImplementedError

    def make_reading_engine(self, url: URL) -> Engine:
        """Make an engine whose connections cannot write. Raises ConfigError."""
        raise NotImplementedError

    def reader(self, engine: Engine) -> Engine:
        """The same engine with transactions that see one snapshot."""
        return engine

    def writer(self, engine: Engine) -> Engine:
        """The same engine with transactions that write."""
        raise NotImplementedError

    def lock_for_migration(self, connection: Connection) -> None:
        """Keep other migrating processes out until the transaction ends. Raises ConfigError."""

    def create_tables(self, connection: Connection) -> None:
        """Create the tables in an empty database."""
        METADATA.create_all(connection, checkfirst=False)

    def tune_tables(self, connection: Connection) -> None:
        """Set how tables of a new revision are stored."""

    def guide_planner(self, engine: Engine) -> None:
        """Give the planner what it does not find out, once the tables exist."""

    def try_transaction_lock(self, connection: Connection, job: str) -> bool:  # noqa: ARG002
        """Keep *job* from other processes until this transaction ends; False if another process does it now."""
        return True

    def acquire_job_lock(self, engine: Engine, job: str) -> JobLock | None:  # noqa: ARG002
        """Take a job that one process of a deployment does at a time; None if another process has it."""
        return JobLock()

    def is_transient(self, error: DBAPIError) -> bool:
        """True if *error* is of this database, and the same call may succeed later."""
        raise NotImplementedError

    def write_agents(self, connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
        """Insert or overwrite rows of `agents`."""
        raise NotImplementedError

    def read_agents(self, connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
        """Rows of those keys that exist."""
        raise NotImplementedError

    def read_page(
        self,
        connection: Connection,
        partition: int,
        keys: tuple[int, int],
        limit: int,
        state_format: StateFormat | None,
    ) -> AgentPage:
        """Agents of a partition in the order of their keys as signed numbers."""
        raise NotImplementedError

    def prepare_weeks(self, engine: Engine, now_ms: int) -> None:
        """Create parts of `decisions` for the time to come, if the database has such parts."""

    def purge_weeks(self, engine: Engine, before_ms: int) -> int:  # noqa: ARG002
        """Drop whole parts of `decisions` that are older; returns how many rows were removed."""
        return 0

    def compact(self, engine: Engine) -> bool:
        """Rebuild the files without deleted rows; False if a reader prevents it."""
        raise NotImplementedError

    def copy_to(self, engine: Engine, target: Path) -> str | None:
        """Copy a snapshot of the database into a new file; returns what is damaged, if anything.

        Raises ConfigError if the database is not a file, Unavailable if it cannot be copied now.
        """
        raise NotImplementedError
