"""Wishes to erase, how far each of them is, and the marks of agents that must not come back from a model's history."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, select, update

from ..privacy.records import OPEN_ERASURE_STATUSES, Erasure
from .base import Page, Tenants
from .dialects import insert_or_skip
from .pages import Paged, visible
from .schema import ERASURES, FORGOTTEN

_INSERT_ERASURE = insert_or_skip(ERASURES, "erasure_id")
_INSERT_MARK = insert_or_skip(FORGOTTEN, "mark")
_ERASURE_FIELDS = tuple(name for name in Erasure.__struct_fields__ if name not in ("counts",))
_counts_decoder = msgspec.json.Decoder(dict[str, Any])


class ErasureStore(Paged):
    """Part of the store that keeps erasures; `erasing.py` carries them out."""

    def add_erasure(self, made: Erasure) -> bool:
        """Write a new wish; False = its id is known, and nothing is written."""
        with self.write() as connection:
            add = _INSERT_ERASURE.for_connection(connection).returning(ERASURES.c.erasure_id)
            return connection.execute(add, erasure_params(made)).first() is not None

    def change_erasure(self, was: Erasure, made: Erasure) -> bool:
        """Overwrite an erasure as it was read; False = somebody else has changed it since, and nothing is written."""
        values = erasure_params(made) | {"updated_ms": max(made.updated_ms, was.updated_ms + 1)}
        with self.write() as connection:
            return connection.execute(update(ERASURES).where(_is_unchanged(was)).values(values)).rowcount > 0

    def note_erasure(self, was: Erasure, told: str) -> None:
        """Say what keeps an erasure from going on, unless it says so or was changed since it was read."""
        if was.error == told:
            return
        values = {"error": told, "updated_ms": was.updated_ms + 1}
        with self.write() as connection:
            connection.execute(update(ERASURES).where(_is_unchanged(was)).values(values))

    def erasure(self, erasure_id: str, tenants: Tenants = None) -> Erasure | None:
        """One erasure."""
        query = select(ERASURES).where(ERASURES.c.erasure_id == erasure_id)
        with self.read() as connection:
            row = connection.execute(visible(query, ERASURES.c.tenant, tenants)).one_or_none()
        return None if row is None else to_erasure(row)

    def open_erasures(self) -> list[Erasure]:
        """All that are not done, oldest first."""
        query = select(ERASURES).where(ERASURES.c.status.in_(sorted(OPEN_ERASURE_STATUSES)))
        with self.read() as connection:
            rows = connection.execute(query.order_by(ERASURES.c.asked_ms, ERASURES.c.erasure_id))
            return [to_erasure(row) for row in rows]

    def list_erasures(self, tenants: Tenants = None, limit: int = 50, cursor: str | None = None) -> Page[Erasure]:
        """Erasures, newest first. Raises BadCursor."""
        query = visible(select(ERASURES), ERASURES.c.tenant, tenants)
        return self.newest(query, (ERASURES.c.asked_ms, ERASURES.c.erasure_id), limit, cursor, to_erasure)

    def forget_mark(self, mark: str, at_ms: int) -> None:
        """Remember the keyed mark of an agent that must not come back from a model's history."""
        with self.write() as connection:
            connection.execute(_INSERT_MARK.for_connection(connection), {"mark": mark, "at_ms": at_ms})

    def forgotten_marks(self) -> list[str]:
        """All of them."""
        with self.read() as connection:
            return list(connection.scalars(select(FORGOTTEN.c.mark)))


def _is_unchanged(was: Erasure) -> ColumnElement[bool]:
    """Each change moves `updated_ms` on, by the clock or by one."""
    mine = ERASURES.c.erasure_id == was.erasure_id
    return and_(mine, ERASURES.c.status == was.status, ERASURES.c.updated_ms == was.updated_ms)


def erasure_params(made: Erasure) -> dict[str, Any]:
    """Columns of an erasure."""
    return {name: getattr(made, name) for name in _ERASURE_FIELDS} | {"counts": msgspec.json.encode(made.counts)}


def to_erasure(row: Any) -> Erasure:
    """The erasure in a row."""
    values = row._mapping
    return Erasure(counts=_counts_decoder.decode(values["counts"]), **{name: values[name] for name in _ERASURE_FIELDS})
