"""Several partitions: whose agent it is, which commit wrote it, and how far what leaves by topics is acknowledged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; what is there belongs to partition 0."""
    op.add_column("positions", sa.Column("published", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("agents", sa.Column("partition", sa.Integer, nullable=False, server_default="0"))
    op.add_column("agents", sa.Column("version_epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("agents", sa.Column("version_offset", sa.BigInteger, nullable=False, server_default="0"))
    due = sa.text("due_ms > 0")
    op.drop_index("ix_agents_due", "agents")
    op.create_index("ix_agents_due", "agents", ["partition", "due_ms", "key"], sqlite_where=due, postgresql_where=due)
    op.create_index("ix_decisions_offset", "decisions", ["partition", "offset", "decision_id"])
