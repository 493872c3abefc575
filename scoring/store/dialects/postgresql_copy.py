"""Writes and reads many agents in PostgreSQL without SQLAlchemy, which takes most of a worker's time.

Writes use COPY into a temporary table, and one INSERT ... ON CONFLICT from there: nearly twice as fast as a statement
per row, at a fraction of the client's CPU (benchmarks/bench_store.py). The role needs the right to create temporary
tables, which PostgreSQL grants by default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import Float, Integer, LargeBinary, SmallInteger, Text

from ...records.agent_pages import (
    KEPT_MEMBERS,
    NAME_MEMBERS,
    AgentColumns,
    AgentPage,
    StateFormat,
    split_rows,
    state_matrix,
)
from ...records.agents import AgentRow
from ...records.commits import Position
from .. import codec
from ..sql_schema import AGENT_NAME_COLUMNS, AGENTS, MARK, escape_nul, unescape_nul
from .statements import chunked

_COLUMNS = [column.name for column in AGENTS.columns]
_TYPE_NAMES = ((SmallInteger, "int2"), (Integer, "int4"), (Float, "float8"), (LargeBinary, "bytea"), (Text, "text"))
"""Types of SQLAlchemy and of PostgreSQL; BigInteger, a subclass of Integer, is checked first."""


def _postgresql_type(column: Any) -> str:
    if column.type.__visit_name__ == "big_integer":
        return "int8"
    return next(name for sort, name in _TYPE_NAMES if isinstance(column.type, sort))


_TYPES = [_postgresql_type(column) for column in AGENTS.columns]
_TEXT_POSITIONS_WRITTEN = [at for at, kind in enumerate(_TYPES) if kind == "text"]
_COLUMN_LIST = ", ".join(f'"{name}"' for name in _COLUMNS)
_CHANGED = ", ".join(f'"{name}" = excluded."{name}"' for name in _COLUMNS if name not in ("key", *AGENT_NAME_COLUMNS))
_SAME_NAME = " AND ".join(f'agents."{name}" = excluded."{name}"' for name in AGENT_NAME_COLUMNS)
_CREATE = (
    "CREATE TEMPORARY TABLE IF NOT EXISTS staged_agents (LIKE agents) WITH (toast_tuple_target = 8160) "
    "ON COMMIT DELETE ROWS"
)
_COPY = f"COPY pg_temp.staged_agents ({_COLUMN_LIST}) FROM STDIN (FORMAT BINARY)"
_MERGE = (
    f"INSERT INTO agents ({_COLUMN_LIST}) SELECT {_COLUMN_LIST} FROM pg_temp.staged_agents ORDER BY key "  # noqa: S608 (our names)
    f"ON CONFLICT (key) DO UPDATE SET {_CHANGED} WHERE {_SAME_NAME}"
)

_READ = ", ".join(f'"{column.name}"' for column in codec.AGENT_COLUMNS)
_FETCH = f"SELECT {_READ} FROM agents WHERE key = ANY(%s)"  # noqa: S608
_FETCH_PAGE = f"SELECT {_READ} FROM agents WHERE partition = %s AND key BETWEEN %s AND %s ORDER BY key LIMIT %s"  # noqa: S608
_TEXT_POSITIONS_READ = [at for at, column in enumerate(codec.AGENT_COLUMNS) if _postgresql_type(column) == "text"]
_FETCH_SIZE = 2_000
"""Agents that a statement reads: 4 MB."""


def copy_agents(connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
    """Insert or overwrite *rows* in the order of their keys. Raises DBAPIError, as SQLAlchemy does."""
    stage_agents(connection, rows, version)
    connection.exec_driver_sql(_MERGE)


def stage_agents(connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
    """Put *rows* into `staged_agents`, which is emptied at the end of the transaction. Raises DBAPIError."""
    connection.exec_driver_sql(_CREATE)
    driver: Any = connection.connection
    with sqlalchemy_errors(connection), driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            values = list(codec.agent_values(row, version))
            for at in _TEXT_POSITIONS_WRITTEN:
                values[at] = escape_nul(values[at])
            copy.write_row(values)


def fetch_agents(connection: Connection, keys: Collection[int]) -> Iterator[AgentRow]:
    """Return the rows of those *keys* that exist. Raises DBAPIError."""
    for some in chunked(keys, _FETCH_SIZE):
        yield from map(_to_agent, _fetch(connection, _FETCH, [[codec.to_signed(key) for key in some]]))


def _to_agent(fetched: Sequence[Any]) -> AgentRow:
    row = list(fetched)
    for at in _TEXT_POSITIONS_READ:
        row[at] = unescape_nul(row[at])
    return codec.to_agent(row)


@contextmanager
def sqlalchemy_errors(connection: Connection) -> Iterator[None]:
    """Raise errors of the driver as SQLAlchemy errors, because SQLAlchemy does not wrap COPY."""
    base: type[Exception] = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(None, None, error, base, dialect=connection.dialect) from error


# Pages of agents by column, for a worker that takes over a partition and reads all of its agents. The query omits the
# numbers that the state has, too. Agents whose state has another format than the requested one are read as rows.

_PAGE_COLUMNS = ("key", *NAME_MEMBERS, *KEPT_MEMBERS, "features", "risk", "state_version")
_PAGE_COLUMN_LIST = ", ".join(f'"{name}"' for name in _PAGE_COLUMNS)
_FETCH_COLUMNS = (
    f"SELECT {_PAGE_COLUMN_LIST} FROM agents WHERE partition = %s AND key BETWEEN %s AND %s ORDER BY key LIMIT %s"  # noqa: S608 (our names)
)


def fetch_page(
    connection: Connection, partition: int, keys: tuple[int, int], limit: int, state_format: StateFormat | None
) -> AgentPage:
    """Return agents of a partition in the order of their keys as signed numbers. Raises DBAPIError."""
    if state_format is None:
        rows = list(map(_to_agent, _fetch(connection, _FETCH_PAGE, [partition, *keys, limit])))
        return split_rows(rows, limit, None)
    fetched = _fetch(connection, _FETCH_COLUMNS, [partition, *keys, limit])
    last_key = codec.to_unsigned(fetched[-1][0]) if len(fetched) == limit else None
    fitting = [row for row in fetched if (row[-1], len(row[-3]), len(row[-2])) == state_format]
    others: list[AgentRow] = []
    if len(fitting) < len(fetched):  # agents in other formats are read again as rows
        missing = {row[0] for row in fetched}.difference(row[0] for row in fitting)
        others = list(fetch_agents(connection, [codec.to_unsigned(key) for key in missing]))
        others.sort(key=lambda row: codec.to_signed(row.name.key))
    return AgentPage(_to_columns(fitting, state_format) if fitting else None, others, last_key)


def _fetch(connection: Connection, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a query; states are transferred as bytes, not as text."""
    driver: Any = connection.connection.driver_connection
    with sqlalchemy_errors(connection), driver.cursor(binary=True) as cursor:
        cursor.execute(query, values)
        fetched: list[tuple[Any, ...]] = cursor.fetchall()
    return fetched


def _to_columns(fetched: Sequence[tuple[Any, ...]], state_format: StateFormat) -> AgentColumns:
    keys, *words, features, risk, _ = zip(*fetched, strict=True)
    return AgentColumns._make(
        [
            np.array(keys, np.int64).view(np.uint64),
            *map(_to_column, _PAGE_COLUMNS[1:], words),
            state_matrix(b"".join(features), state_format.features_bytes),
            state_matrix(b"".join(risk), state_format.risk_bytes),
        ]
    )


def _to_column(name: str, values: Sequence[Any]) -> list[Any]:
    """Return the values of a column; texts lose the escapes of the database, which are rare.

    Equal values become one object, except ids: most agents have the same values.
    """
    if isinstance(values[0], str) and MARK in "".join(values):
        values = list(map(unescape_nul, values))
    if name in ("agent_id", "decision_id"):
        return list(values)
    first: dict[Any, Any] = {}
    keep: Callable[[Any, Any], Any] = first.setdefault
    return list(map(keep, values, values))
