"""The store on an SQL database, put together from its parts."""

from __future__ import annotations

from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, ProgrammingError

from ...ingest.errors import ConfigError
from .agent_store import AgentStore
from .commits import DEFAULT_MAX_DEAD_LETTERS, State
from .containment_store import ContainmentStore
from .database import Database, Seats, translate_errors
from .decision_store import DecisionStore
from .dialects import open_engine, open_reading_engine
from .erasure_store import ErasureStore, ForgetPositions
from .feedback_store import FeedbackStore
from .migrate import alembic_config, migrate, read_revision, refuse_newer
from .model_store import ModelStore
from .outbox_store import OutboxStore
from .partition_store import PartitionStore
from .retention import Retention
from .subject_store import SubjectExport, SubjectStore


class SqlStore(
    State,
    PartitionStore,
    AgentStore,
    OutboxStore,
    ContainmentStore,
    ModelStore,
    FeedbackStore,
    Retention,
    DecisionStore,
    ErasureStore,
    SubjectStore,
    ForgetPositions,
    SubjectExport,
    Seats,
    Database,
):
    """`Store` on SQLite or PostgreSQL; see `trustwatch.scoring.store.interface` for what each method promises.

    Args:
        engine: made by `open_engine`, with its tables migrated; the store closes it.
        max_dead_letters: rows kept; more are counted, not stored.
    """

    def __init__(self, engine: Engine, max_dead_letters: int = DEFAULT_MAX_DEAD_LETTERS) -> None:
        super().__init__(engine)
        self.max_dead_letters = max_dead_letters


def open_store(url: str, max_dead_letters: int = DEFAULT_MAX_DEAD_LETTERS, *, password: str | None = None) -> SqlStore:
    """Open the database at *url*, making or migrating its tables first.

    Args:
        url: `sqlite:////absolute/path.db` or `postgresql://user:password@host:5432/database`, with what libpq knows
            behind it (`?sslmode=verify-full`). No error shows the password.
        max_dead_letters: rows kept; more are counted, not stored.
        password: instead of one in the URL.

    Raises ConfigError (not a URL we know), StoreTooNew (written by a newer program), Unavailable (locked, no disk; no
    server, or it does not let us in).
    """
    engine = open_engine(url, password)
    try:
        with translate_errors():
            migrate(engine)
    except ProgrammingError as error:
        engine.dispose()
        if getattr(error.orig, "sqlstate", "") is None:  # libpq itself refuses: no server was asked
            raise ConfigError(f"store.url: {error.orig}") from None
        raise
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine, max_dead_letters)


def sqlite_url(path: Path) -> str:
    """URL of the SQLite file at *path*.

    >>> sqlite_url(Path("/var/lib/trustwatch/store.db"))
    'sqlite:////var/lib/trustwatch/store.db'
    """
    return f"sqlite:///{path.absolute()}"


# The store for who only looks: nothing is migrated, no statement writes, a running service notices nothing.


def open_reading_store(url: str, *, password: str | None = None) -> SqlStore:
    """Open the database at *url* to read it. Methods that write fail.

    Args:
        url: as for `open_store`; the database must be there, with the tables of this program.
        password: instead of one in the URL.

    Raises:
        ConfigError: no such file, no store of ours, or one that an older program wrote.
        StoreTooNew: a newer program wrote it.
        Unavailable: no server, or it does not let us in.
    """
    engine = open_reading_engine(url, password)
    store = SqlStore(engine)
    try:
        with translate_errors(), store.read() as connection:
            current = read_revision(connection)
    except DBAPIError as error:
        store.close()
        raise ConfigError(f"the store can not be read: {str(error.orig).strip()}") from None
    except BaseException:
        store.close()
        raise
    scripts = ScriptDirectory.from_config(alembic_config())
    if current != scripts.get_current_head():
        store.close()
        refuse_newer(scripts, current)
        raise ConfigError(
            "the store has no tables of ours yet: start the service once"
            if current is None
            else f"the store is at revision {current!r}, which an older Trustwatch wrote: start the service of this "
            "version once, it brings the tables up to date"
        )
    return store
