"""Bring a database to the tables that this program expects, at start and safely next to other starting processes.

`sql_schema.py` declares the tables. An empty database gets them as they are declared; a database of an earlier version
gets what it lacks: tables, columns (each with a default) and indexes. What only an earlier version had is dropped by
name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from alembic.autogenerate import produce_migrations
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    delete,
    insert,
    inspect,
    text,
)

from trustwatch.ingest.errors import ConfigError

from ..records.agents import AgentRow
from ..records.commits import Position
from .database import DamagedStore
from .dialects import dialect_of
from .sql_schema import METADATA

SCHEMA_REVISION = "0028"
"""Revision of the tables; it rises with each change to a table that a released version has."""

_DROPPED_TABLES = ("case_threads", "saved_views", "shared_views", "checkpoints", "snapshots")
_DROPPED_INDEXES = ("ix_edges_time",)
_DROPPED_VALUES = "DELETE FROM meta WHERE key IN ('snapshots.generation', 'database_id')"
_REVISIONS = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class StoreTooNew(ConfigError):
    """Raised if a newer Trustwatch wrote the database; nothing was changed."""

    code = "store_too_new"


def migrate(engine: Engine, checkpoints: Path | None = None) -> None:
    """Bring the tables to `SCHEMA_REVISION` in one transaction. Raises StoreTooNew.

    *checkpoints* is the folder of the checkpoints that builds between 0.2 and 0.3 wrote.
    """
    dialect = dialect_of(engine)
    with dialect.writer(engine).begin() as connection:
        dialect.lock_for_migration(connection)
        current = read_revision(connection)
        refuse_newer(current)
        if current == SCHEMA_REVISION:
            return
        if current is None:
            dialect.create_tables(connection)
        else:
            _upgrade(connection, checkpoints)
        dialect.tune_tables(connection)
        _REVISIONS.create(connection, checkfirst=True)
        connection.execute(delete(_REVISIONS))
        connection.execute(insert(_REVISIONS).values(version_num=SCHEMA_REVISION))


def _upgrade(connection: Connection, checkpoints: Path | None) -> None:
    METADATA.create_all(connection)  # only missing tables

    def is_declared(_item: object, _name: str | None, _kind: str, reflected: bool, declared: object) -> bool:
        """Skip what only the database has, such as weekly tables and indexes that an operator added."""
        return not reflected or declared is not None

    context = MigrationContext.configure(connection, opts={"include_object": is_declared, "compare_type": False})
    operations = Operations(context)
    waiting: list[Any] = [produce_migrations(context, METADATA).upgrade_ops]
    while waiting:
        operation = waiting.pop(0)
        if hasattr(operation, "ops"):
            waiting = [*operation.ops, *waiting]
        else:
            operations.invoke(operation)
    if inspect(connection).has_table("checkpoints"):
        # The newest file of a partition comes last and wins.
        query = 'SELECT partition, epoch, "offset", name, digest FROM checkpoints ORDER BY partition, epoch, "offset"'
        for partition, epoch, offset, name, digest in connection.execute(text(query)).all():
            rows = _read_checkpoint(checkpoints, name, digest)
            dialect_of(connection).write_agents(connection, rows, Position(partition, epoch, offset))
    for name in _DROPPED_TABLES:
        operations.drop_table(name, if_exists=True)
    for name in _DROPPED_INDEXES:
        operations.drop_index(name, if_exists=True)
    connection.execute(text(_DROPPED_VALUES))


def read_revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None if there are none. Raises DamagedStore if there are several."""
    try:
        return MigrationContext.configure(connection).get_current_revision()
    except CommandError as error:
        raise DamagedStore(error) from error


def refuse_newer(current: str | None) -> None:
    """Raise StoreTooNew if the revision is newer than this program's."""
    if current is not None and current > SCHEMA_REVISION:
        raise StoreTooNew(
            f"the database is at revision {current!r}, this program knows up to {SCHEMA_REVISION!r}: it was written by "
            "a newer Trustwatch; start that version, or restore a backup"
        )


# Checkpoints are files in which builds between 0.2 and 0.3 kept the newest states of agents. They become rows at the
# first start: otherwise agents would continue from older rows, although their partition has passed these events.

_CHECKPOINT_HEAD = b"TWCP\x01"
_decode_rows = msgspec.msgpack.Decoder(list[AgentRow]).decode


def _read_checkpoint(folder: Path | None, name: str, digest: str) -> list[AgentRow]:
    try:
        content = b"" if folder is None else (folder / name).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest or not content.startswith(_CHECKPOINT_HEAD):
        raise ConfigError(
            f"the newest states of some agents are in the checkpoint {name}, which is missing or damaged in {folder}: "
            "copy what is at `store.checkpoints` to that folder and start again; or start the previous version with "
            "its settings and stop it cleanly (SIGTERM), which leaves no checkpoints. Nothing was changed"
        )
    return _decode_rows(zstandard.ZstdDecompressor().decompress(content[len(_CHECKPOINT_HEAD) :]))
