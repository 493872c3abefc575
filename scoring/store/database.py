"""Transactions: one way to read, one way to write, and the one place where errors of the driver get their meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ...ingest.errors import Unavailable
from .dialects import dialect_of, is_transient

if TYPE_CHECKING:
    from sqlalchemy import Row, Select

    # SQLAlchemy 2.1 types a row by all of its columns; ours are looked at by name.
    AnyRow = Row[*tuple[Any, ...]]
    AnySelect = Select[*tuple[Any, ...]]


class Database:
    """An engine with its two kinds of transaction; base of the parts of the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine)
        self._reader = self._dialect.reader(engine)
        self._writer = self._dialect.writer(engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment. Raises Unavailable."""
        with translate_errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end or rolled back on an error. Raises Unavailable."""
        with translate_errors(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not is_transient(error):
            raise
        raise Unavailable(f"the database does not answer: {str(error.orig).strip()}") from error
    except PoolTimeout as error:
        raise Unavailable("the database does not answer: every connection is in use") from error
