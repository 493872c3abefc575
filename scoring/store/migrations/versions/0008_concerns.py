"""Concerns: what an agent's level is about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column; an agent's concern is known again with its next event."""
    op.add_column("agents", sa.Column("concern", _TEXT, nullable=False, server_default=""))
