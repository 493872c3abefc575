"""All that depends on which database it is. A second database adds its branch here and nowhere else.

SQLite is set up for the promise "committed is committed":

* WAL: readers never wait for the writer, nor the writer for them.
* synchronous=FULL: every commit is flushed. With NORMAL a power cut may take back the last commits, after an alert they
  wrote has already left, and after the event log has dropped the records they had applied.
* BEGIN IMMEDIATE for writing: a transaction that starts as a reader and then writes cannot wait for a lock, it fails.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.sql.dml import Insert

from ...ingest.errors import ConfigError

BUSY_TIMEOUT_MS = 5_000
"""How long a connection waits for another writer before it gives up as Unavailable."""

WRITE = "trustwatch_write"
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


def open_engine(url: str) -> Engine:
    """An engine whose every connection is set up. No connection is made yet. Raises ConfigError on another database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("store.url: not a database URL; expected sqlite:////path/to/file.db") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or ":memory:" in parsed.database:
        raise ConfigError(f"store.url: expected sqlite:////path/to/file.db, got {parsed.render_as_string()}")
    engine = create_engine(parsed, pool_timeout=BUSY_TIMEOUT_MS / 1000)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours: the driver's own leaves SELECT and DDL outside the transaction
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def insert_or_skip(table: Table, *columns: str) -> Insert:
    """INSERT that leaves an existing row with the same *columns* as it is."""
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(columns))


def upsert(table: Table, keys: tuple[str, ...], keep: tuple[str, ...] = ()) -> Insert:
    """INSERT that overwrites an existing row with the same *keys*, except its columns *keep*."""
    insert = sqlite.insert(table)
    changed = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys + keep}
    return insert.on_conflict_do_update(index_elements=list(keys), set_=changed)


def starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Text prefix as a range, which an index answers (LIKE folds case in SQLite). Needs a byte-wise collation."""
    return (column >= prefix) & (column < prefix + "\U0010ffff")


def lock_for_migration(_connection: Connection) -> None:
    """Keep every other migrating process out until the transaction ends: BEGIN IMMEDIATE has done so."""


def is_transient(error: DBAPIError) -> bool:
    """Whether the same call may succeed later."""
    code: Any = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _TRANSIENT
