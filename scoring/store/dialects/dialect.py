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
    """A job that this process holds. By default it always holds it, because a file belongs to one service."""

    def is_held(self) -> bool:
        """Return whether this process still holds the job; False once the connection broke, even if it could
        reconnect."""
        return True

    def release(self) -> None:
        """Release the job to other processes."""


class Dialect:
    """Base class for databases. To add one, add a module here, its SQL in `statements.py` and its types in
    `sql_schema.py`."""

    ROW_PURGED_DECISIONS: Table = DECISIONS
    """The part of `decisions` that is purged row by row."""

    def make_engine(self, url: URL) -> Engine:
        """Make an engine whose every connection is set up. Raises ConfigError."""
        raise NotImplementedError

    def make_reading_engine(self, url: URL) -> Engine:
        """Make an engine whose connections cannot write. Raises ConfigError."""
        raise NotImplementedError

    def reader(self, engine: Engine) -> Engine:
        """Return the same engine with transactions that see one snapshot."""
        return engine

    def writer(self, engine: Engine) -> Engine:
        """Return the same engine with transactions that write."""
        raise NotImplementedError

    def lock_for_migration(self, connection: Connection) -> None:
        """Keep other migrating processes out until the transaction ends. Raises ConfigError."""

    def create_tables(self, connection: Connection) -> None:
        """Create the tables in an empty database."""
        METADATA.create_all(connection, checkfirst=False)

    def tune_tables(self, connection: Connection) -> None:
        """Set how tables of a new revision are stored."""

    def guide_planner(self, engine: Engine) -> None:
        """Give the query planner what it cannot infer, once the tables exist."""

    def try_transaction_lock(self, connection: Connection, job: str) -> bool:  # noqa: ARG002
        """Lock *job* until this transaction ends; return False if another process has it now."""
        return True

    def acquire_job_lock(self, engine: Engine, job: str) -> JobLock | None:  # noqa: ARG002
        """Acquire a job that one process of a deployment runs at a time; return None if another process has it."""
        return JobLock()

    def is_transient(self, error: DBAPIError) -> bool:
        """Return whether *error* comes from this database and the same call may succeed later."""
        raise NotImplementedError

    def write_agents(self, connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
        """Insert or overwrite rows of `agents`."""
        raise NotImplementedError

    def read_agents(self, connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
        """Return the rows of those keys that exist."""
        raise NotImplementedError

    def read_page(
        self,
        connection: Connection,
        partition: int,
        keys: tuple[int, int],
        limit: int,
        state_format: StateFormat | None,
    ) -> AgentPage:
        """Return agents of a partition in the order of their keys as signed numbers."""
        raise NotImplementedError

    def prepare_weeks(self, engine: Engine, now_ms: int) -> None:
        """Create the coming partitions of `decisions`, if the database has such partitions."""

    def purge_weeks(self, engine: Engine, before_ms: int) -> int:  # noqa: ARG002
        """Drop whole partitions of `decisions` that are older; return how many rows were removed."""
        return 0

    def compact(self, engine: Engine) -> bool:
        """Rebuild the files without deleted rows; return False if a reader prevents it."""
        raise NotImplementedError

    def copy_to(self, engine: Engine, target: Path) -> str | None:
        """Copy a snapshot of the database into a new file; return what is damaged, if anything.

        Raises ConfigError if the database is not a file, Unavailable if it cannot be copied now.
        """
        raise NotImplementedError
