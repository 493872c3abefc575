"""Bring a database to the tables this program expects, at start and safely beside other starting processes."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine

from trustwatch.ingest.errors import ConfigError

from .database import DamagedStore
from .dialects import dialect_of
from .sql_schema import METADATA

# Alembic keeps its context in module globals, so one thread of a process may migrate at a time.
_MIGRATION_MUTEX = threading.Lock()


class StoreTooNew(ConfigError):
    """The database was written by a newer Trustwatch; nothing was touched."""

    code = "store_too_new"


def alembic_config() -> Config:
    """Configuration of Alembic without an ini file: where the migrations are, and what they must lead to."""
    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["metadata"] = METADATA
    return config


def migrate(engine: Engine, checkpoints: Path | None = None) -> None:
    """Run the migrations that are missing, all in one transaction. Raises StoreTooNew.

    *checkpoints*: see `checkpoint_import.py`.
    """
    config = alembic_config()
    config.attributes["checkpoints"] = checkpoints
    scripts = ScriptDirectory.from_config(config)
    with _MIGRATION_MUTEX, dialect_of(engine).writer(engine).begin() as connection:
        dialect_of(engine).lock_for_migration(connection)
        current = read_revision(connection)
        refuse_newer(scripts, current)
        if current != scripts.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def read_revision(connection: Connection) -> str | None:
    """Revision of the tables; None = there are none of ours. Raises DamagedStore where they say two things."""
    try:
        return MigrationContext.configure(connection).get_current_revision()
    except CommandError as error:
        raise DamagedStore(error) from error


def refuse_newer(scripts: ScriptDirectory, current: str | None) -> None:
    """Raise StoreTooNew for a revision that this program does not know."""
    revisions = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in revisions:
        raise StoreTooNew(
            f"the database is at revision {current!r}, this program knows up to {scripts.get_current_head()!r}: "
            "it was written by a newer Trustwatch; start that version, or restore a backup"
        )
