"""The store on an SQL database, put together from its parts."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError

from ...ingest.errors import ConfigError
from .chain import DecisionStore
from .containment import ContainmentStore
from .database import Database, translate_errors
from .deliveries import OutboxStore
from .dialects import open_engine
from .erasing import SubjectStore
from .erasures import ErasureStore
from .exporting import SubjectExport
from .feedback import FeedbackStore
from .forgets import ForgetPositions
from .housekeeping import Retention
from .migrate import migrate
from .models import ModelStore
from .partitions import PartitionStore
from .reads import AgentStore
from .seats import Seats
from .state import DEFAULT_MAX_DEAD_LETTERS, State


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
    """`Store` on SQLite or PostgreSQL; see `trustwatch.scoring.store.base` for what each method promises.

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
