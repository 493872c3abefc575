"""Values by key that belong to no other table: number of partitions, state of a training, where erasures are."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from .database import Database
from .dialects.statements import insert_or_skip, starts_with, upsert
from .sql_schema import META

UPSERT_META = upsert(META, ("key",))
_INSERT_META = insert_or_skip(META, "key")


class MetadataStore:
    """The table `meta`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """Value of *key*, None = not set."""
        with self._database.read() as connection:
            return _read_value(connection, key)

    def put(self, key: str, value: str) -> None:
        """Set *key*."""
        with self._database.write() as connection:
            UPSERT_META.execute(connection, {"key": key, "value": value})

    def put_default(self, key: str, value: str) -> str:
        """Set *key* unless it is set; returns what is set then. Two processes get the same answer."""
        with self._database.write() as connection:
            _INSERT_META.execute(connection, {"key": key, "value": value})
            stored = _read_value(connection, key)
        return value if stored is None else stored

    def find(self, prefix: str) -> dict[str, str]:
        """Values of all keys that begin with *prefix*."""
        with self._database.read() as connection:
            rows = connection.execute(select(META.c.key, META.c.value).where(starts_with(META.c.key, prefix)))
            return {key: value for key, value in rows}

    def delete_prefix(self, prefix: str) -> None:
        """Remove all keys that begin with *prefix*."""
        with self._database.write() as connection:
            connection.execute(delete(META).where(starts_with(META.c.key, prefix)))

    def delete_range(self, start: str, end: str) -> None:
        """Remove all keys from *start* on that come before *end*."""
        with self._database.write() as connection:
            connection.execute(delete(META).where(META.c.key >= start, META.c.key < end))


def _read_value(connection: Connection, key: str) -> str | None:
    return connection.execute(select(META.c.value).where(META.c.key == key)).scalar_one_or_none()
