"""Snapshots as the database knows them. Without their row, which has their secret, files are noise."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, func, insert, select, update

from ..records.commits import Position
from ..records.snapshots import Snapshot
from .database import Database
from .dialects.statements import insert_or_skip
from .partition_store import check_owner
from .sql_schema import META, SNAPSHOTS

_GENERATION = "snapshots.generation"
"""Key in `meta`: how often all snapshots were forgotten."""
_INSERT_META = insert_or_skip(META, "key")


class SnapshotStore:
    """The table `snapshots`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_of(self, partition: int) -> list[Snapshot]:
        """Snapshots of a partition, by name."""
        with self._database.read() as connection:
            query = select(SNAPSHOTS).where(SNAPSHOTS.c.partition == partition).order_by(SNAPSHOTS.c.name)
            return [Snapshot(*row) for row in connection.execute(query)]

    def count(self) -> int:
        """Number of snapshots of all partitions."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(SNAPSHOTS)).scalar_one()

    def generation(self) -> int:
        """Number of times that all were forgotten. Who writes one reads it before the rows."""
        query = select(META.c.value).where(META.c.key == _GENERATION)
        with self._database.read() as connection:
            value = connection.execute(query).scalar_one_or_none()
        if value is None:
            with self._database.write() as connection:
                _INSERT_META.execute(connection, {"key": _GENERATION, "value": "0"})
                value = connection.execute(query).scalar_one()
        return int(value)

    def add(self, owner: Position, snapshot: Snapshot) -> bool:
        """Add one; False = all were forgotten since its rows were read, which may have had a name that was erased.

        Raises Fenced: *owner* does not own the partition any more.
        """
        with self._database.write() as connection:
            check_owner(connection, owner)
            # The lock lets nobody forget them between this look and the insert.
            query = select(META.c.value).where(META.c.key == _GENERATION).with_for_update(read=True)
            if int(connection.execute(query).scalar_one()) != snapshot.generation:
                return False
            connection.execute(insert(SNAPSHOTS), snapshot._asdict())
        return True

    def remove(self, names: Collection[str]) -> None:
        """Forget some, with their secrets."""
        with self._database.write() as connection:
            connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.name.in_(names)))

    def forget_all(self) -> int:
        """Forget all, with their secrets: no file of before can be read any more, wherever it is; returns how many.

        What is being written now is not added, either.
        """
        with self._database.write() as connection:
            _INSERT_META.execute(connection, {"key": _GENERATION, "value": "0"})
            value = connection.execute(select(META.c.value).where(META.c.key == _GENERATION).with_for_update())
            raised = str(int(value.scalar_one()) + 1)
            connection.execute(update(META).where(META.c.key == _GENERATION).values(value=raised))
            return connection.execute(delete(SNAPSHOTS)).rowcount
