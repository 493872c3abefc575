"""The store for who only looks: nothing is migrated, no statement writes, a running service notices nothing."""

from __future__ import annotations

from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from ...ingest.errors import ConfigError
from .database import translate_errors
from .dialects import open_reading_engine
from .migrate import alembic_config, read_revision, refuse_newer
from .sql import SqlStore


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
