"""Subjects of streams: those that a change can be looked up by apart from those that are read for each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; subjects that are there are read for each change, until their receiver speaks of them again."""
    op.add_column("stream_subjects", sa.Column("compound", sa.SmallInteger, nullable=False, server_default="1"))
    op.create_index("ix_stream_subjects_compound", "stream_subjects", ["stream_id", "compound"])
