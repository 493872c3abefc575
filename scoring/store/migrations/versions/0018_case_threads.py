"""Threads of cases: the message at a target that further ones about the case follow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "case_threads",
        sa.Column("target", _TEXT, primary_key=True),
        sa.Column("case_id", _TEXT, primary_key=True),
        *(sa.Column(name, _TEXT, nullable=False) for name in ("tenant", "channel", "ts")),
        sa.Column("level", sa.SmallInteger, nullable=False),
    )
    op.create_index("ix_case_threads_case", "case_threads", ["case_id"])
