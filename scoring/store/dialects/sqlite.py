"""SQLite. It is set up for the promise "committed is committed":

* WAL: readers never wait for the writer, nor the writer for them.
* synchronous=FULL: every commit is flushed. With NORMAL a power cut may undo the last commits, after an alert they
  wrote has already left, and after the event log has dropped the records they had applied.
* BEGIN IMMEDIATE for writing: a transaction that starts as a reader and then writes cannot wait for a lock, it fails.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, QueuePool, bindparam, create_engine, event
from sqlalchemy.dialects.sqlite import dialect as SqliteWords
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from trustwatch.ingest.errors import ConfigError, Unavailable

from ...records.agent_pages import AgentPage, StateFormat, split_rows
from ...records.agents import AgentRow
from ...records.commits import Position
from .. import codec
from ..sql_schema import AGENTS
from .dialect import Dialect
from .statements import MAX_IN_LIST, UPSERT_AGENT, chunked

_UPSERT_AGENT = str(UPSERT_AGENT.by_database["sqlite"].compile(dialect=SqliteWords(paramstyle="qmark")))
"""Its parameters are in the order of the table's columns, as `codec.agent_values` makes them."""
_AGENTS_IN = codec.AGENT_ROWS.select(None, AGENTS.c.key.in_(bindparam("keys", expanding=True)))

BUSY_TIMEOUT_MS = 5_000
"""Time that a connection waits for another writer before it gives up as Unavailable."""

WRITE_OPTION = "trustwatch_write"
"""Execution option of engines whose transactions write."""

_PRAGMAS = (
    f"busy_timeout={BUSY_TIMEOUT_MS}",  # first: the next one may have to wait
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "journal_size_limit=67108864",  # give the disk back after a large transaction
    "cache_size=-32768",  # KiB
)

# Primary result codes after which the same call may succeed: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL,
# CANTOPEN.
_TRANSIENT = frozenset({5, 6, 7, 8, 9, 10, 13, 14})
_DAMAGED = frozenset({11, 26})  # CORRUPT, NOTADB
_ERROR, _LOST = 1, ("no such", "already exists")
"""An error in a statement: the store's statements are valid, so a table or its entry in the schema is lost."""


class Sqlite(Dialect):
    def make_engine(self, url: URL) -> Engine:
        if not url.database or ":memory:" in url.database:
            raise ConfigError("store.url: expected a file as in sqlite:////path/to/file.db")
        engine = create_engine(url, pool_timeout=BUSY_TIMEOUT_MS / 1000, hide_parameters=True)
        event.listen(engine, "connect", _configure_connection)
        event.listen(engine, "begin", _begin_transaction)
        return engine

    def make_reading_engine(self, url: URL) -> Engine:
        """Make an engine that only reads an existing file: with WAL it never blocks the service."""
        path = Path(url.database or "").absolute()
        if not path.is_file():
            raise ConfigError(f"{path}: no store there; a service writes one when it starts")

        def connect() -> sqlite3.Connection:
            name = f"file:{quote(str(path))}?mode=ro"
            connection = sqlite3.connect(name, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False)
            connection.isolation_level = None
            connection.execute("PRAGMA query_only=ON").close()
            return connection

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)
        event.listen(engine, "begin", _begin_transaction)
        return engine

    def writer(self, engine: Engine) -> Engine:
        """Return the same engine with transactions that lock the database from their beginning."""
        return engine.execution_options(**{WRITE_OPTION: True})

    def guide_planner(self, engine: Engine) -> None:
        """Make look-ups of decisions use the most selective index, whatever the content.

        SQLite chooses by statistics, which only ANALYZE writes; without them it uses the tenant's index for an agent,
        and reads every decision of the tenant. So the statistics of a large store are written here, as SQLite's authors
        suggest (https://sqlite.org/queryplanner-ng.html, "manual control"). ANALYZE by hand replaces them.
        """
        with engine.connect() as connection:
            statistics = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'"
            if connection.exec_driver_sql(statistics).first() is not None:
                return
        with self.writer(engine).begin() as connection:
            connection.exec_driver_sql("PRAGMA analysis_limit=100")
            connection.exec_driver_sql("ANALYZE decisions")  # creates the table of statistics
            connection.exec_driver_sql("DELETE FROM sqlite_stat1")
            rows = [("decisions", index, figures) for index, figures in _DECISION_STATISTICS.items()]
            connection.exec_driver_sql("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", rows)
            connection.exec_driver_sql("ANALYZE sqlite_schema")  # reads it

    def write_agents(self, connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
        """Upsert row by row through the driver, because SQLAlchemy's parameters take half of the time."""
        connection.exec_driver_sql(_UPSERT_AGENT, [codec.agent_values(row, version) for row in rows])

    def read_agents(self, connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
        for chunk in chunked(keys, MAX_IN_LIST):
            yield from map(
                codec.to_agent, connection.execute(_AGENTS_IN, {"keys": [codec.to_signed(key) for key in chunk]})
            )

    def read_page(
        self,
        connection: Connection,
        partition: int,
        keys: tuple[int, int],
        limit: int,
        state_format: StateFormat | None,
    ) -> AgentPage:
        query = codec.AGENT_ROWS.select(None, AGENTS.c.partition == partition, AGENTS.c.key.between(*keys))
        rows = [codec.to_agent(row) for row in connection.execute(query.order_by(AGENTS.c.key).limit(limit))]
        return split_rows(rows, limit, state_format)

    def compact(self, engine: Engine) -> bool:
        """Copy the content into a new file (VACUUM) and truncate the log. Needs disk space for a copy.

        Other writers wait; a reader that stays longer than `BUSY_TIMEOUT_MS` prevents truncating the log.
        """
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in _TRANSIENT:
                return False
            raise
        finally:
            connection.close()
        return not busy

    def copy_to(self, engine: Engine, target: Path) -> str | None:
        """Copy with SQLite's online backup, while others write; the copy needs no log."""
        connection = engine.raw_connection()
        copy = sqlite3.connect(target)
        try:
            original: Any = connection.driver_connection
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE").close()
            result: str = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _TRANSIENT:  # a full disk, too
                raise Unavailable(f"{target}: the database cannot be copied: {error}") from error
            return str(error)
        finally:
            copy.close()
            connection.close()
        return None if result == "ok" else result

    def is_transient(self, error: DBAPIError) -> bool:
        code: Any = getattr(error.orig, "sqlite_errorcode", None)
        return isinstance(code, int) and code & 0xFF in _TRANSIENT


def _configure_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_transaction` begins: the driver would leave out SELECT and DDL
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_transaction(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


_DECISION_STATISTICS = {
    "ix_decisions_agent": "1000000 100 1 1",
    # Few enough that SQLite merges the rows of several tenants instead of reading all rows by time.
    "ix_decisions_tenant": "1000000 1000 1 1",
    "ix_decisions_time": "1000000 1 1",
    "ix_decisions_chain": "1000000 400 1",
    "ix_decisions_offset": "1000000 400 1 1",
    "ix_decisions_release": "100 1 1",
}
"""For each index: rows, then rows with the same first column, the same first two columns, and so on."""


def is_damaged(error: DBAPIError) -> bool:
    """Return whether the file is incomplete or not a database."""
    code: Any = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and (
        code & 0xFF in _DAMAGED or (code == _ERROR and any(text in str(error.orig) for text in _LOST))
    )
