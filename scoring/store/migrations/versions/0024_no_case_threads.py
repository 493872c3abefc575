"""No threads of cases: the Slack app that used them was removed."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Drop the table of 0018 with its index."""
    op.drop_table("case_threads")
