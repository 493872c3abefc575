"""SQLite. It is set up for the promise "committed is committed":

* WAL: readers never wait for the writer, nor the writer for them.
* synchronous=FULL: every commit is flushed. With NORMAL a power cut may take back the last commits, after an alert they
  wrote has already left, and after the event log has dropped the records they had applied.
* BEGIN IMMEDIATE for writing: a transaction that starts as a reader and then writes cannot wait for a lock, it fails.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, QueuePool, bindparam, create_engine, event, select
from sqlalchemy.dialects.sqlite import dialect as Dialect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from trustwatch.ingest.errors import ConfigError, Unavailable

from ...records.agent_pages import AgentPage, StateFormat, split_rows
from ...records.agents import AgentRow
from ...records.commits import Position
from .. import codec
from ..sql_schema import AGENTS, DECISIONS, METADATA
from .statements import MAX_IN_LIST, UPSERT_AGENT, chunked

ROW_PURGED_DECISIONS = DECISIONS
_UPSERT_AGENT = str(UPSERT_AGENT.by_database["sqlite"].compile(dialect=Dialect(paramstyle="qmark")))
"""Its parameters stand in the order of the table's columns, which is that of `codec.agent_values`."""
_AGENTS_IN = select(*codec.AGENT_COLUMNS).where(AGENTS.c.key.in_(bindparam("keys", expanding=True)))

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
"""An error in a statement: ours are right, so what it speaks of is lost, or a note that it is there is."""


def make_engine(url: URL) -> Engine:
    """An engine on a file. Raises ConfigError on a database in memory, which every connection would have of its own."""
    if not url.database or ":memory:" in url.database:
        raise ConfigError("store.url: expected a file as in sqlite:////path/to/file.db")
    engine = create_engine(url, pool_timeout=BUSY_TIMEOUT_MS / 1000, hide_parameters=True)
    event.listen(engine, "connect", _configure_connection)
    event.listen(engine, "begin", _begin_transaction)
    return engine


def make_reading_engine(url: URL) -> Engine:
    """An engine on a file that is there, which it opens to read only: beside a service, readers of WAL hold nobody up.

    Raises ConfigError if there is no such file.
    """
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


def _configure_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours: the driver's own leaves SELECT and DDL outside the transaction
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_transaction(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def reader(engine: Engine) -> Engine:
    """The same engine: every transaction of SQLite sees one moment."""
    return engine


def writer(engine: Engine) -> Engine:
    """The engine for transactions that write: each is the only one, from its beginning."""
    return engine.execution_options(**{WRITE_OPTION: True})


def lock_for_migration(_connection: Connection) -> None:
    """Do nothing: BEGIN IMMEDIATE has locked the database."""


def create_tables(connection: Connection) -> None:
    """Create the tables as they are declared."""
    METADATA.create_all(connection, checkfirst=False)


def tune_tables(_connection: Connection) -> None:
    """Do nothing: SQLite has no storage parameters."""


def guide_planner(engine: Engine) -> None:
    """Have look-ups of decisions take the index that finds fewest, whatever there is so far.

    SQLite chooses by statistics. It has none until somebody runs ANALYZE, and then takes the index of the tenant for an
    agent, which is every decision of the tenant. So what a large store looks like is written down, as its authors
    provide for (https://sqlite.org/queryplanner-ng.html, "manual control"). ANALYZE by hand replaces it.
    """
    with engine.connect() as connection:
        if connection.exec_driver_sql("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'").first() is not None:
            return
    with writer(engine).begin() as connection:
        connection.exec_driver_sql("PRAGMA analysis_limit=100")
        connection.exec_driver_sql("ANALYZE decisions")  # makes the table of statistics
        connection.exec_driver_sql("DELETE FROM sqlite_stat1")
        rows = [("decisions", index, figures) for index, figures in _DECISION_STATISTICS.items()]
        connection.exec_driver_sql("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", rows)
        connection.exec_driver_sql("ANALYZE sqlite_schema")  # reads it


_DECISION_STATISTICS = {
    "ix_decisions_agent": "1000000 100 1 1",
    # Few enough that those of several tenants are merged, rather than everybody's read by time.
    "ix_decisions_tenant": "1000000 1000 1 1",
    "ix_decisions_time": "1000000 1 1",
    "ix_decisions_chain": "1000000 400 1",
    "ix_decisions_offset": "1000000 400 1 1",
    "ix_decisions_release": "100 1 1",
}
"""Of each index: rows, then rows that have the same first column, the same first two, and so on."""


class NoLock:
    """Lock of a database in a file: one service has it, so no other process asks."""

    def is_held(self) -> bool:
        """True: the job is always ours."""
        return True

    def release(self) -> None:
        """Do nothing: no other process waits."""


def acquire_job_lock(_engine: Engine, _job: str) -> NoLock:
    """No lock: a file belongs to one service."""
    return NoLock()


def try_transaction_lock(_connection: Connection, _job: str) -> bool:
    """True: there is only one writer."""
    return True


def write_agents(connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
    """An upsert per row, in the given order; by the driver itself: SQLAlchemy's parameters cost as much as the rest."""
    connection.exec_driver_sql(_UPSERT_AGENT, [codec.agent_values(row, version) for row in rows])


def read_agents(connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
    """Rows of those keys that exist, read in lists that one statement may hold."""
    for chunk in chunked(keys, MAX_IN_LIST):
        yield from map(
            codec.to_agent, connection.execute(_AGENTS_IN, {"keys": [codec.to_signed(key) for key in chunk]})
        )


def read_page(
    connection: Connection, partition: int, keys: tuple[int, int], limit: int, state_format: StateFormat | None
) -> AgentPage:
    """Agents of a partition in the order of their keys as signed numbers."""
    query = select(*codec.AGENT_COLUMNS).where(AGENTS.c.partition == partition, AGENTS.c.key.between(*keys))
    rows = [codec.to_agent(row) for row in connection.execute(query.order_by(AGENTS.c.key).limit(limit))]
    return split_rows(rows, limit, state_format)


def prepare_weeks(_engine: Engine, _now_ms: int) -> None:
    """Do nothing: decisions are one table here."""


def purge_weeks(_engine: Engine, _before_ms: int) -> int:
    """Drop nothing: decisions are one table here, purged row by row."""
    return 0


def compact(engine: Engine) -> bool:
    """VACUUM copies what is there into a new file; the log beside it is then emptied. Needs the room for a copy.

    Other writers wait; a reader that stays longer than `BUSY_TIMEOUT_MS` keeps the log from being emptied.
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


def copy_to(engine: Engine, target: Path) -> str | None:
    """SQLite's own online copy: one moment of the database, while others write. The copy stands alone, without a log.

    Returns what is damaged, in SQLite's words; None = every page is sound. Raises Unavailable.
    """
    connection = engine.raw_connection()
    copy = sqlite3.connect(target)
    try:
        original: Any = connection.driver_connection
        original.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").close()
        result: str = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _TRANSIENT:  # a full disk, too
            raise Unavailable(f"{target}: the database can not be copied: {error}") from error
        return str(error)
    finally:
        copy.close()
        connection.close()
    return None if result == "ok" else result


def is_transient(error: DBAPIError) -> bool:
    """True if the same call may succeed later."""
    code: Any = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _TRANSIENT


def is_damaged(error: DBAPIError) -> bool:
    """True if the file is not a database, or one that lost a part of itself."""
    code: Any = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and (
        code & 0xFF in _DAMAGED or (code == _ERROR and any(text in str(error.orig) for text in _LOST))
    )
