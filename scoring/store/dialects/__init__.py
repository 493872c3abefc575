"""Functions that depend on which database it is. A third one adds its module here, its words in `statements.py`, and
its column types in `sql_schema.py`.

Statements that a database words in its own way are made for each of them once (`DialectInsert`); the connection they
run on chooses. What one database does in its own steps is a function of its module: `of(connection)`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from trustwatch.ingest.errors import ConfigError

from ...records.agent_pages import AgentPage, StateFormat
from ...records.agents import AgentRow
from ...records.commits import Position
from . import postgresql, sqlite
from .statements import DialectInsert, contains, insert_or_skip, starts_with, upsert

__all__ = [
    "Dialect",
    "DialectInsert",
    "advice_on",
    "contains",
    "dialect_of",
    "insert_or_skip",
    "is_damaged",
    "is_transient",
    "open_engine",
    "open_reading_engine",
    "starts_with",
    "upsert",
]

EXPECTED_URL = "expected sqlite:////path/to/file.db or postgresql://user:password@host:5432/database"


class JobLock(Protocol):
    """A job that was taken."""

    def is_held(self) -> bool:
        """True while it is ours; False once the connection broke, even where another one could be made."""

    def release(self) -> None:
        """Let another one have it."""


class Dialect(Protocol):
    """Functions that each database has in its own module."""

    def make_engine(self, url: URL) -> Engine:
        """Make an engine whose every connection is set up."""

    def make_reading_engine(self, url: URL) -> Engine:
        """An engine whose connections cannot write."""

    def reader(self, engine: Engine) -> Engine:
        """The same engine, its transactions see one moment."""

    def writer(self, engine: Engine) -> Engine:
        """The same engine, its transactions write."""

    def lock_for_migration(self, connection: Connection) -> None:
        """Keep every other migrating process out until the transaction ends."""

    def create_tables(self, connection: Connection) -> None:
        """Create the tables in an empty database."""

    def tune_tables(self, connection: Connection) -> None:
        """Set how tables of a new revision are stored."""

    def guide_planner(self, engine: Engine) -> None:
        """Tell the planner what it does not find out by itself, once the tables are there."""

    def try_transaction_lock(self, connection: Connection, job: str) -> bool:
        """Keep *job* from everybody else until this transaction ends; False = another process does it now."""

    def acquire_job_lock(self, engine: Engine, job: str) -> JobLock | None:
        """Take a job that one process of a deployment does at a time; None = another one has it."""

    def is_transient(self, error: DBAPIError) -> bool:
        """True if *error* is one of this database's, and the same call may succeed later."""

    def write_agents(self, connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
        """Insert or overwrite rows of `agents`."""

    def read_agents(self, connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
        """Rows of those keys that exist."""

    def read_page(
        self,
        connection: Connection,
        partition: int,
        keys: tuple[int, int],
        limit: int,
        state_format: StateFormat | None,
    ) -> AgentPage:
        """Agents of a partition in the order of their keys as signed numbers."""

    @property
    def ROW_PURGED_DECISIONS(self) -> Table:
        """The part of `decisions` that is purged row by row."""

    def purge_weeks(self, engine: Engine, before_ms: int) -> int:
        """Drop whole parts of `decisions` that are older; returns how many rows went."""

    def compact(self, engine: Engine) -> bool:
        """Rebuild the files without what was removed; False = a reader was in the way."""

    def copy_to(self, engine: Engine, target: Path) -> str | None:
        """Copy the database as of one moment into a new file; returns what is damaged.

        Raises ConfigError if the database is not a file, Unavailable if it cannot be copied now.
        """

    def prepare_weeks(self, engine: Engine, now_ms: int) -> None:
        """Make parts of `decisions` for the time to come."""


_DIALECTS: dict[str, Dialect] = {"sqlite": sqlite, "postgresql": postgresql}


def dialect_of(bound: Connection | Engine) -> Dialect:
    """The dialect that a connection or an engine speaks."""
    return _DIALECTS[bound.dialect.name]


def open_engine(url: str, password: str | None = None) -> Engine:
    """An engine whose every connection is set up. No connection is made yet. Raises ConfigError on another database."""
    dialect, parsed = _parse_url(url, password)
    return dialect.make_engine(parsed)


def open_reading_engine(url: str, password: str | None = None) -> Engine:
    """The same, whose connections cannot write; the file must exist."""
    dialect, parsed = _parse_url(url, password)
    return dialect.make_reading_engine(parsed)


def _parse_url(url: str, password: str | None) -> tuple[Dialect, URL]:
    try:
        parsed = make_url(url)
        dialect = _DIALECTS[parsed.get_backend_name()]
    except (ArgumentError, KeyError, ValueError):  # ValueError: a port that is no number
        raise ConfigError(f"store.url: not the URL of a database we know; {EXPECTED_URL}") from None
    return dialect, parsed if password is None else parsed.set(password=password)


def is_damaged(error: DBAPIError) -> bool:
    """True if the database's own file is damaged; a server says so by itself, and to its administrator."""
    return sqlite.is_damaged(error)


def advice_on(error: DBAPIError) -> str:
    """Advice on an error, as the end of a sentence, or nothing."""
    return postgresql.advice_on(error)


def is_transient(error: DBAPIError) -> bool:
    """True if the same call may succeed later."""
    return any(dialect.is_transient(error) for dialect in _DIALECTS.values())
