"""Agents by partition: a worker reads those of a partition that it takes over."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_agents_partition", "agents", ["partition", "key"])
