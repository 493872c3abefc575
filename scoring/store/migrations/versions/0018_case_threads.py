"""Threads of cases: the message at a target that further ones about the case follow."""

from __future__ import annotations

from alembic import op

from trustwatch.scoring.store.migrations.columns import small, text, text_key

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "case_threads",
        text_key("target"),
        text_key("case_id"),
        *(text(name) for name in ("tenant", "channel", "ts")),
        small("level"),
    )
    op.create_index("ix_case_threads_case", "case_threads", ["case_id"])
