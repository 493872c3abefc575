"""Declared capabilities of agents: of events before nothing is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Add the column, empty."""
    empty = sa.text("x''" if op.get_bind().dialect.name == "sqlite" else "''::bytea")
    op.add_column("agents", sa.Column("capabilities", sa.LargeBinary, nullable=False, server_default=empty))
