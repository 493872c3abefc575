"""PostgreSQL 14 or newer, through psycopg 3.

* A commit is a compare-and-set (`UPDATE ... WHERE epoch = ... AND "offset" = ...`): READ COMMITTED waits for the row
  and looks at it again, so that one of two wins. Reading transactions are REPEATABLE READ: they see one moment.
* Nothing waits for ever: connections, locks and statements have their time, after which the call is Unavailable.
* Of several hosts in the URL the one that takes writes is chosen; a connection to what has become a stand-by is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import require_extra

from ...records.agents import AgentRow
from ...records.commits import Position
from .. import codec
from .job_locks import acquire_job_lock
from .postgresql_copy import copy_agents
from .postgresql_copy import fetch_agents as read_agents
from .postgresql_copy import fetch_page as read_page
from .statements import UPSERT_AGENT
from .weekly_tables import ROW_PURGED_DECISIONS, prepare_weeks, purge_weeks

__all__ = [
    "ROW_PURGED_DECISIONS",
    "acquire_job_lock",
    "advice_on",
    "compact",
    "copy_to",
    "guide_planner",
    "is_transient",
    "lock_for_migration",
    "make_engine",
    "make_reading_engine",
    "prepare_weeks",
    "purge_weeks",
    "read_agents",
    "read_page",
    "reader",
    "try_transaction_lock",
    "write_agents",
    "writer",
]

DRIVER = "postgresql+psycopg"
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
POOL_TIMEOUT_S = 5.0
COPY_THRESHOLD = 50
"""Up to here a statement per row is faster than the three that COPY needs."""

_CONNECT = {
    "connect_timeout": "5",  # seconds
    "target_session_attrs": "read-write",
    "application_name": "trustwatch",
    "tcp_user_timeout": "15000",  # ms without an answer to what was sent
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
# A worker that stands still in a transaction, or whose machine is gone, holds its partition up for so long.
_OPTIONS = (
    f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} "
    "-c idle_in_transaction_session_timeout=15000 "
    "-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
# Classes and codes of errors after which the same call may succeed (PostgreSQL's appendix A): 08 connections,
# 40 deadlocks and serialization, 53 disk, memory or connections used up, 57 shut down or cancelled by a timeout,
# 58 input/output; locks not to be had, a transaction idle for too long, a stand-by that takes no writes.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_READ_ONLY = "25006"
_TRANSIENT = frozenset({"55P03", "25P03", "25P04", _READ_ONLY})

_UNIQUE_VIOLATION = "23505"
_INSERT_ATTEMPTS = 5

_MIN_SERVER_VERSION = 140_000
_SERVER_SETTINGS = "SELECT current_setting('server_version_num'), current_setting('server_encoding')"
_MIGRATION_LOCK = 0x7457_0001
_TRANSACTION_LOCK_KEYS = {"route": 0x7457_0002, "derive": 0x7457_0007}


def make_reading_engine(url: URL) -> Engine:
    """An engine whose transactions are read-only, on any of the hosts: a stand-by will do. Raises ConfigError."""
    engine = make_engine(url.set(query={"target_session_attrs": "any", **url.query}))
    event.listen(engine, "begin", _set_read_only)
    return engine


def _set_read_only(connection: Connection) -> None:
    """Make a transaction read-only. A default of the session would be lost when SQLAlchemy resets the connection."""
    connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def make_engine(url: URL) -> Engine:
    """An engine with a small pool. What the URL says about timeouts and the like is kept. Raises ConfigError."""
    if url.drivername not in ("postgresql", DRIVER):
        raise ConfigError(f"store.url: the driver of PostgreSQL is psycopg ({DRIVER}://), not {url.drivername}")
    if not url.database:
        raise ConfigError("store.url: the name of the database is missing; postgresql://user:password@host/database")
    require_extra("postgres", "store.url names PostgreSQL")
    given = dict(url.query)
    options = " ".join([_OPTIONS, *([str(given["options"])] if "options" in given else [])])  # the last one counts
    arguments = {name: value for name, value in _CONNECT.items() if name not in given} | {"options": options}
    engine = create_engine(
        url.set(drivername=DRIVER),
        connect_args=arguments,
        pool_pre_ping=True,
        pool_timeout=POOL_TIMEOUT_S,
        hide_parameters=True,
    )
    event.listen(engine, "handle_error", _invalidate_standby_connection)
    return engine


def _invalidate_standby_connection(context: ExceptionContext) -> None:
    """Drop a connection to a stand-by: it still answers, but only a new one finds the server that takes writes."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def reader(engine: Engine) -> Engine:
    """Transactions that see one moment."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def writer(engine: Engine) -> Engine:
    """Transactions that write, READ COMMITTED whatever the server's default is."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def guide_planner(_engine: Engine) -> None:
    """Do nothing: the server collects statistics by itself."""


def lock_for_migration(connection: Connection) -> None:
    """Wait for whoever migrates now; building an index may take longer than any other statement.

    Raises ConfigError where the server is too old or the database can not hold every text.
    """
    version, encoding = connection.execute(text(_SERVER_SETTINGS)).one()
    if int(version) < _MIN_SERVER_VERSION or encoding != "UTF8":
        raise ConfigError(
            f"store.url: PostgreSQL {_MIN_SERVER_VERSION // 10_000} or newer and a database with encoding UTF8 are "
            f"needed, this is {int(version) // 10_000} with {encoding}"
        )
    connection.execute(text("SET LOCAL lock_timeout = '10min'"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def try_transaction_lock(connection: Connection, job: str) -> bool:
    """Take an advisory lock; False = it is taken."""
    taken = connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _TRANSACTION_LOCK_KEYS[job]})
    return bool(taken.scalar_one())


def write_agents(connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
    """Write agents in the order of their keys, so that two writers of the same agents never wait in a circle.

    ON CONFLICT (key) minds the key alone: of two transactions that insert the same new agent at once, the later one is
    told now and then that the name exists. By then the earlier one has committed, and the second attempt updates.
    """
    ordered = sorted(rows, key=lambda row: codec.to_signed(row.name.key))
    for attempts_left in reversed(range(_INSERT_ATTEMPTS)):
        try:
            with connection.begin_nested():
                _upsert_agents(connection, ordered, version)
            return
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION or not attempts_left:
                raise


def _upsert_agents(connection: Connection, ordered: Sequence[AgentRow], version: Position) -> None:
    if len(ordered) > COPY_THRESHOLD:
        copy_agents(connection, ordered, version)
    else:
        connection.execute(
            UPSERT_AGENT.for_connection(connection), [codec.agent_params(row, version) for row in ordered]
        )


def compact(engine: Engine) -> bool:
    """VACUUM: nobody reaches removed rows any more. Their bytes go when their room is used again."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        try:
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("VACUUM"))
        finally:
            connection.invalidate()  # however it ended: a session without a time limit never goes back to the pool
    return True


def copy_to(_engine: Engine, _target: Path) -> str | None:
    """Refuse: a server is backed up by its own programs."""
    raise ConfigError("store.url: a PostgreSQL server is backed up by `pg_dump` (docs/operations.md)")


def advice_on(error: DBAPIError) -> str:
    """Advice on an error, as the end of a sentence; nothing where its own words say enough."""
    if "connection timeout expired" not in str(error.orig):  # psycopg's, with no code of the server
        return ""
    return (
        f"; no connection within {_CONNECT['connect_timeout']} s, or the `connect_timeout` of store.url: is the server "
        "there, and is its machine or this one overloaded? `?connect_timeout=20` at the end of store.url waits longer"
    )


def is_transient(error: DBAPIError) -> bool:
    """True if the same call may succeed later. Where the connection broke there is no code of the server."""
    original: Any = error.orig
    if not hasattr(original, "sqlstate"):
        return False
    state = original.sqlstate
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return state in _TRANSIENT or state[:2] in _TRANSIENT_CLASSES
