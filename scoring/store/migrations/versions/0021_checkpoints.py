"""Checkpoints: files that have states of agents which their rows do not have yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import integer_key, long, text

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Create the table; nobody has checkpoints yet."""
    op.create_table(
        "checkpoints",
        integer_key("partition", sa.Integer),
        integer_key("epoch"),
        integer_key("offset"),
        text("name"),
        text("digest"),
        long("agents"),
        long("content_bytes"),
    )
