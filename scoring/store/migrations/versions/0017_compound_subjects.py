"""Subjects of streams: those that a change can be looked up by apart from those that are read for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_BATCH = 1_000
_COMPOUND_FORMATS = ("complex", "aliases")
_SUBJECTS = sa.table(
    "stream_subjects",
    sa.column("stream_id", sa.Text),
    sa.column("digest", sa.Text),
    sa.column("subject", sa.LargeBinary),
    sa.column("compound", sa.SmallInteger),
)
_KEY = sa.tuple_(_SUBJECTS.c.stream_id, _SUBJECTS.c.digest)


def upgrade() -> None:
    """Add the column, and write of the subjects that are there which of them are simple."""
    op.add_column("stream_subjects", sa.Column("compound", sa.SmallInteger, nullable=False, server_default="1"))
    connection = op.get_bind()
    read = sa.select(_SUBJECTS.c.stream_id, _SUBJECTS.c.digest, _SUBJECTS.c.subject).order_by(*_KEY).limit(_BATCH)
    rows = connection.execute(read).all()
    while rows:
        _mark_simple(connection, rows)
        last = sa.tuple_(sa.literal(rows[-1].stream_id), sa.literal(rows[-1].digest))
        rows = connection.execute(read.where(last < _KEY)).all()
    op.create_index("ix_stream_subjects_compound", "stream_subjects", ["stream_id", "compound"])


def _mark_simple(connection: sa.Connection, rows: Sequence[Any]) -> None:
    """Write 0 to the rows whose format says that they match under their own digest alone."""
    of_row = (_SUBJECTS.c.stream_id == sa.bindparam("of_stream"), _SUBJECTS.c.digest == sa.bindparam("of_digest"))
    simple = [
        {"of_stream": row.stream_id, "of_digest": row.digest}
        for row in rows
        if json.loads(row.subject).get("format") not in _COMPOUND_FORMATS
    ]
    if simple:
        connection.execute(sa.update(_SUBJECTS).where(*of_row).values(compound=0), simple)
