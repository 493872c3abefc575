"""Edges are changed where they lie: their time has no index, and their pages have room."""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Remove the index: only the purge of old edges used it, which may as well look through the table.

    An edge is written again in each hour in which it is seen. With the index each time was a new row and an entry in
    every index of the table.
    """
    op.drop_index("ix_edges_time", "edges")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE edges SET (fillfactor = 70)")
