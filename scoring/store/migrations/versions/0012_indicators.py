"""Indicators: what the events came with that raised an agent's risk."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column; an agent's indicators are known again with its next odd event."""
    empty = sa.text("x'5b5d'" if op.get_bind().dialect.name == "sqlite" else "'[]'::bytea")
    op.add_column("agents", sa.Column("indicators", sa.LargeBinary, nullable=False, server_default=empty))
