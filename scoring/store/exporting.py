"""Everything that the store knows about one agent, row by row."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, and_, or_, select, tuple_

from ...ingest.erasing import ErasureSubject, NameEraser
from . import codec
from .database import Database
from .dialects import contains
from .schema import AGENTS, DEAD_LETTERS, EDGES, METADATA

_EXPORT_PAGE = 200
_SKIPPED_COLUMNS = frozenset({"features", "risk"})
"""Arrays of kernels; what they say is told in words by who exports."""


class SubjectExport(Database):
    """Part of the store that hands out all that is about one agent."""

    def rows_about(
        self, subject: ErasureSubject, sources: Collection[str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows of every table that is about agents, with the table's name; in pages of their own transactions.

        Args:
            subject: an agent.
            sources: whose dead letters may be seen; None = all. Those that name the agent are about it.
        """
        key = codec.to_signed(subject.key)
        for table in METADATA.sorted_tables:
            if "agent_key" in table.c:
                yield from self._iterate_rows(table, table.c.agent_key == key)
        yield from self._iterate_rows(AGENTS, AGENTS.c.key == key)
        yield from self._iterate_rows(EDGES, or_(EDGES.c.source_key == key, EDGES.c.target_key == key))
        names = NameEraser(subject.name, "")
        found = [contains(DEAD_LETTERS.c.raw, needle) for needle in (*names.needles, b"\\u")]
        where = or_(*found) if sources is None else and_(or_(*found), DEAD_LETTERS.c.source.in_(sorted(sources)))
        for name, row in self._iterate_rows(DEAD_LETTERS, where, raw=True):
            if names.is_in_bytes(row["raw"]):
                yield name, row | {"raw": _export_value(row["raw"])}

    def _iterate_rows(
        self, table: Table, where: ColumnElement[bool], *, raw: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        keys = tuple(table.primary_key.columns)
        query = select(table).where(where).order_by(*keys).limit(_EXPORT_PAGE)
        page = query
        while True:
            with self.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                values = {name: value for name, value in row._mapping.items() if name not in _SKIPPED_COLUMNS}
                yield table.name, values if raw else {name: _export_value(value) for name, value in values.items()}
            if len(rows) < _EXPORT_PAGE:
                return
            page = query.where(tuple_(*keys) > tuple(rows[-1]._mapping[column.name] for column in keys))


def _export_value(value: Any) -> Any:
    """Bytes as the JSON that they are, else in base64."""
    if not isinstance(value, bytes):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"base64": base64.b64encode(value).decode()}
