"""Releases among decisions: an index for the list of what people did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the index; it is read through once, and small."""
    released = sa.text("cause = 'release'")
    op.create_index(
        "ix_decisions_release",
        "decisions",
        ["decided_ms", "decision_id"],
        sqlite_where=released,
        postgresql_where=released,
    )
