"""PostgreSQL 14 or newer, through psycopg 3.

* A commit is a compare-and-set (`UPDATE ... WHERE epoch = ... AND "offset" = ...`): READ COMMITTED waits for the row
  and checks it again, so that one of two wins. Reading transactions are REPEATABLE READ: they see one snapshot.
* Connections, locks and statements have timeouts, after which the call is Unavailable.
* If the URL has several hosts, the writable one is used; a connection to a host that became a standby is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, MetaData, PrimaryKeyConstraint, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.extras import require_extra
from trustwatch.ingest.timestamps import DAY_MS, WEEK_MS

from ...records.agents import AgentRow
from ...records.commits import Position
from .. import codec
from ..sql_schema import DECISIONS, METADATA
from .dialect import Dialect, JobLock
from .postgresql_copy import copy_agents, fetch_agents, fetch_page
from .statements import UPSERT_AGENT

DRIVER = "postgresql+psycopg"
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
POOL_TIMEOUT_S = 5.0
COPY_THRESHOLD = 50
"""Number of rows up to which one statement per row is faster than the three statements of COPY."""

_CONNECT = {
    "connect_timeout": "5",  # seconds
    "target_session_attrs": "read-write",
    "application_name": "trustwatch",
    "tcp_user_timeout": "15000",  # ms without an answer to what was sent
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
# How long a worker that hangs in a transaction, or whose machine fails, blocks its partition.
_OPTIONS = (
    f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} "
    "-c idle_in_transaction_session_timeout=15000 "
    "-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
# Classes and codes of errors after which the same call may succeed (PostgreSQL's appendix A): 08 connections,
# 40 deadlocks and serialization, 53 disk, memory or connections used up, 57 shut down or cancelled by a timeout,
# 58 input/output; unavailable locks, a transaction idle for too long, a standby that refuses writes.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57", "58"})
_READ_ONLY = "25006"
_TRANSIENT = frozenset({"55P03", "25P03", "25P04", _READ_ONLY})

_UNIQUE_VIOLATION = "23505"
_INSERT_ATTEMPTS = 5

_MIN_SERVER_VERSION = 140_000
_SERVER_SETTINGS = "SELECT current_setting('server_version_num'), current_setting('server_encoding')"

# Keys of advisory locks: one space for those of transactions and of sessions.
_MIGRATION_LOCK = 0x7457_0001
_TRANSACTION_LOCK_KEYS = {"route": 0x7457_0002, "derive": 0x7457_0007}
_WEEKS_LOCK_KEY = 0x7457_0003
JOB_LOCK_KEYS = {
    "keeper": 0x7457_0004,
    "erasures": 0x7457_0005,
    "transmitter": 0x7457_0006,
    "learning": 0x7457_0008,
    "signal poller": 0x7457_0009,
}


def _set_read_only(connection: Connection) -> None:
    """Make a transaction read-only. A session default would be lost when SQLAlchemy resets the connection."""
    connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def _invalidate_standby_connection(context: ExceptionContext) -> None:
    """Close a connection to a standby: it still answers, but only a new connection finds the writable server."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def advice_on(error: DBAPIError) -> str:
    """Return advice on an error, as the end of a sentence; "" if the error itself is clear."""
    if "connection timeout expired" not in str(error.orig):  # of psycopg, without a code of the server
        return ""
    return (
        f"; no connection within {_CONNECT['connect_timeout']} s, or the `connect_timeout` of store.url: is the server "
        "there, and is its machine or this one overloaded? `?connect_timeout=20` at the end of store.url waits longer"
    )


# Decisions have one table a week (Monday to Sunday, UTC), so that old ones are removed by dropping a table. Rows of
# other weeks, and decisions that are still an agent's current one when their week is dropped, are in
# `decisions_default`, which is purged row by row.

_FIRST_MONDAY_MS = 4 * DAY_MS  # 1970-01-05
WEEKS_AHEAD = 4
"""Weeks prepared after the current one: if upkeep does not run for longer, rows go to `decisions_default` first."""
_CURRENT = "EXISTS (SELECT FROM agents a WHERE a.key = d.agent_key AND a.decision_id = d.decision_id)"
_ADVANCE_ANCHORS = (
    "UPDATE decision_chains c SET anchor_sequence = last.chain_sequence, anchor_digest = last.chain_digest FROM "
    "(SELECT DISTINCT ON (partition) partition, chain_sequence, chain_digest FROM {week} WHERE chain_sequence > 0 "
    "ORDER BY partition, chain_sequence DESC) last "
    "WHERE c.partition = last.partition AND c.anchor_sequence < last.chain_sequence"
)
"""The chains begin after the week's decisions once it is dropped; those that are kept are checked individually."""
_SELECT_WEEKS = text(
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = 'decisions'::regclass AND c.relname ~ '^decisions_[0-9]{8}$' ORDER BY 1"
)


class DecisionWeek(NamedTuple):
    """The table of one week: `start_ms` <= decided_ms < `end_ms`."""

    name: str
    start_ms: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + WEEK_MS


def week_of(at_ms: int) -> DecisionWeek:
    """Return the week that *at_ms* falls into.

    >>> week_of(1_764_000_000_000)
    DecisionWeek(name='decisions_20251124', start_ms=1763942400000)
    """
    start_ms = (at_ms - _FIRST_MONDAY_MS) // WEEK_MS * WEEK_MS + _FIRST_MONDAY_MS
    return DecisionWeek(f"decisions_{datetime.fromtimestamp(start_ms / 1000, UTC):%Y%m%d}", start_ms)


def list_weeks(connection: Connection) -> list[DecisionWeek]:
    """List weeks that have a table, oldest first."""
    return [week_from_name(row.relname) for row in connection.execute(_SELECT_WEEKS)]


def week_from_name(name: str) -> DecisionWeek:
    day = datetime.strptime(name.removeprefix("decisions_"), "%Y%m%d").replace(tzinfo=UTC)
    return DecisionWeek(name, int(day.timestamp()) * 1000)


def _create_week(connection: Connection, week: DecisionWeek) -> None:
    """Create a week's table and move its rows from the default table. Other writers usually wait only briefly."""
    _lock_weeks(connection)
    if week in list_weeks(connection):
        return  # another process was faster
    inside = f"decided_ms >= {week.start_ms} AND decided_ms < {week.end_ms}"
    for statement in (
        "LOCK TABLE decisions_default IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {week.name} (LIKE decisions INCLUDING DEFAULTS)",
        f"WITH moved AS (DELETE FROM decisions_default WHERE {inside} RETURNING *) "  # noqa: S608 (numbers and names)
        f"INSERT INTO {week.name} SELECT * FROM moved",
        f"ALTER TABLE decisions ATTACH PARTITION {week.name} FOR VALUES FROM ({week.start_ms}) TO ({week.end_ms})",
    ):
        connection.execute(text(statement))


def _lock_weeks(connection: Connection) -> None:
    """Lock the weeks for this process; millions of rows may take longer than other statements."""
    connection.execute(text("SET LOCAL statement_timeout = '10min'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:job)"), {"job": _WEEKS_LOCK_KEY})


def _drop_week(connection: Connection, week: DecisionWeek) -> int:
    """Drop a week. Decisions to keep are chosen before writers wait, because an old decision never becomes current
    again."""
    _lock_weeks(connection)
    if week not in list_weeks(connection):
        return 0
    connection.execute(text(f"LOCK TABLE {week.name} IN SHARE MODE"))  # nothing comes in any more
    chosen = f"CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM {week.name} d WHERE {_CURRENT}"  # noqa: S608
    connection.execute(text(chosen))
    total = connection.execute(text(f"SELECT count(*) FROM {week.name}")).scalar_one()  # noqa: S608
    connection.execute(text(_ADVANCE_ANCHORS.format(week=week.name)))
    for statement in (
        f"ALTER TABLE decisions DETACH PARTITION {week.name}",
        f"DROP TABLE {week.name}",
        "INSERT INTO decisions SELECT * FROM kept",
    ):
        connection.execute(text(statement))
    kept: int = connection.execute(text("SELECT count(*) FROM kept")).scalar_one()
    return int(total) - kept


_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_BACKEND_PID = text("SELECT pg_backend_pid()")


class SessionLock(JobLock):
    """A session-level advisory lock on a separate connection.

    The server releases it when the connection ends: at once if the process is killed, within half a minute (keep-alive)
    if its machine fails. It does not depend on a clock.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = connection.execute(_BACKEND_PID).scalar_one()

    def is_held(self) -> bool:
        """Query the server; the caller translates errors of the driver."""
        return not self._connection.closed and self._connection.execute(_BACKEND_PID).scalar_one() == self._pid

    def release(self) -> None:
        """Close the connection, because in the pool it would keep the lock."""
        if not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()


class Postgresql(Dialect):
    ROW_PURGED_DECISIONS = DECISIONS.to_metadata(MetaData(), name="decisions_default")
    read_agents = staticmethod(fetch_agents)
    read_page = staticmethod(fetch_page)

    def make_reading_engine(self, url: URL) -> Engine:
        """Make an engine whose transactions are read-only, on any of the hosts, including standbys."""
        engine = self.make_engine(url.set(query={"target_session_attrs": "any", **url.query}))
        event.listen(engine, "begin", _set_read_only)
        return engine

    def make_engine(self, url: URL) -> Engine:
        """Make an engine with a small pool. Timeouts and other options in the URL take precedence."""
        if url.drivername not in ("postgresql", DRIVER):
            raise ConfigError(f"store.url: the driver of PostgreSQL is psycopg ({DRIVER}://), not {url.drivername}")
        if not url.database:
            raise ConfigError(
                "store.url: the name of the database is missing; postgresql://user:password@host/database"
            )
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

    def reader(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def writer(self, engine: Engine) -> Engine:
        return engine.execution_options(isolation_level="READ COMMITTED")

    def create_tables(self, connection: Connection) -> None:
        """Create the tables as they are declared; decisions are partitioned by week."""
        METADATA.create_all(connection, [table for table in METADATA.sorted_tables if table is not DECISIONS], False)
        decisions = DECISIONS.to_metadata(MetaData())
        # The key of a partitioned table includes the partition column; a repeated decision has the same time.
        decisions.c.decided_ms.primary_key = True
        decisions.append_constraint(PrimaryKeyConstraint(decisions.c.decision_id, decisions.c.decided_ms))
        decisions.create(connection, checkfirst=False)
        connection.execute(text("CREATE TABLE decisions_default PARTITION OF decisions DEFAULT"))

    def tune_tables(self, connection: Connection) -> None:
        """Reserve free space in pages of frequently updated rows, and store agents' states in line (docs/store.md)."""
        connection.execute(text("ALTER TABLE agents SET (fillfactor = 70, toast_tuple_target = 8160)"))
        connection.execute(text("ALTER TABLE edges SET (fillfactor = 70)"))

    def lock_for_migration(self, connection: Connection) -> None:
        """Wait while another process migrates; building an index may take longer than any other statement.

        Raises ConfigError if the server is too old or the database cannot store every text.
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

    def try_transaction_lock(self, connection: Connection, job: str) -> bool:
        key = {"key": _TRANSACTION_LOCK_KEYS[job]}
        return bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), key))

    def write_agents(self, connection: Connection, rows: Sequence[AgentRow], version: Position) -> None:
        """Write agents in the order of their keys, so that two writers of the same agents never deadlock.

        ON CONFLICT (key) checks the key alone: if two transactions insert the same new agent, the later one may fail
        because the name exists. By then the earlier one has committed, and the second attempt updates.
        """
        ordered = sorted(rows, key=lambda row: codec.to_signed(row.name.key))
        for attempts_left in reversed(range(_INSERT_ATTEMPTS)):
            try:
                with connection.begin_nested():
                    if len(ordered) > COPY_THRESHOLD:
                        copy_agents(connection, ordered, version)
                    else:
                        UPSERT_AGENT.execute(connection, [codec.agent_params(row, version) for row in ordered])
                return
            except IntegrityError as error:
                if getattr(error.orig, "sqlstate", None) != _UNIQUE_VIOLATION or not attempts_left:
                    raise

    def compact(self, engine: Engine) -> bool:
        """Free deleted rows (VACUUM); their bytes remain in the files until the space is used again."""
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            try:
                connection.execute(text("SET statement_timeout = 0"))
                connection.execute(text("VACUUM"))
            finally:
                connection.invalidate()  # in any case: a session without a time limit never returns to the pool
        return True

    def copy_to(self, _engine: Engine, _target: Path) -> str | None:
        """Raise ConfigError, because a server is backed up with the database's own tools."""
        raise ConfigError("store.url: a PostgreSQL server is backed up by `pg_dump` (docs/operations.md)")

    def is_transient(self, error: DBAPIError) -> bool:
        original: Any = error.orig
        if not hasattr(original, "sqlstate"):
            return False
        state = original.sqlstate
        if state is None:  # the connection broke
            return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return state in _TRANSIENT or state[:2] in _TRANSIENT_CLASSES

    def prepare_weeks(self, engine: Engine, now_ms: int) -> None:
        weeks = [week_of(now_ms + ahead * WEEK_MS) for ahead in range(WEEKS_AHEAD + 1)]
        with engine.begin() as connection:
            there = set(list_weeks(connection))
        for week in weeks:
            if week not in there:
                with engine.begin() as connection:
                    _create_week(connection, week)

    def purge_weeks(self, engine: Engine, before_ms: int) -> int:
        with engine.begin() as connection:
            old = [week for week in list_weeks(connection) if week.end_ms <= before_ms]
        removed = 0
        for week in old:
            with engine.begin() as connection:
                removed += _drop_week(connection, week)
        return removed

    def acquire_job_lock(self, engine: Engine, job: str) -> SessionLock | None:
        connection = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        try:
            if connection.execute(_TRY_LOCK, {"key": JOB_LOCK_KEYS[job]}).scalar_one():
                return SessionLock(connection)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        connection.close()
        return None
