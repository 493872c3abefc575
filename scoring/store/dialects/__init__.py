"""The databases that the store can use.

Statements that databases word differently are made for each of them once (`DialectInsert`); the connection they run on
chooses. Steps that differ are methods of `Dialect`.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from trustwatch.ingest.errors import ConfigError

from .dialect import Dialect
from .postgresql import Postgresql
from .sqlite import Sqlite

EXPECTED_URL = "expected sqlite:////path/to/file.db or postgresql://user:password@host:5432/database"
_DIALECTS: dict[str, Dialect] = {"sqlite": Sqlite(), "postgresql": Postgresql()}


def dialect_of(bound: Connection | Engine) -> Dialect:
    """Return the dialect of a connection or an engine."""
    return _DIALECTS[bound.dialect.name]


def open_engine(url: str, password: str | None = None, *, reading: bool = False) -> Engine:
    """Make an engine whose every connection is set up, without connecting. Raises ConfigError for another database.

    The connections of a *reading* engine cannot write, and its file must exist.
    """
    try:
        parsed: URL = make_url(url)
        dialect = _DIALECTS[parsed.get_backend_name()]
    except (ArgumentError, KeyError, ValueError):  # ValueError: a port that is not a number
        raise ConfigError(f"store.url: not the URL of a database we know; {EXPECTED_URL}") from None
    parsed = parsed if password is None else parsed.set(password=password)
    return dialect.make_reading_engine(parsed) if reading else dialect.make_engine(parsed)


def is_transient(error: DBAPIError) -> bool:
    """Return whether the same call may succeed later."""
    return any(dialect.is_transient(error) for dialect in _DIALECTS.values())
