"""Concerns: what an agent's level is about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import TEXT

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column; an agent's concern is known again with its next event."""
    op.add_column("agents", sa.Column("concern", TEXT, nullable=False, server_default=""))
