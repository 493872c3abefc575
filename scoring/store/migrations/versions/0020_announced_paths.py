"""Announced access paths: of keys that were announced before nothing is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the column, empty."""
    empty = sa.text("x''" if op.get_bind().dialect.name == "sqlite" else "''::bytea")
    op.add_column("agents", sa.Column("announced_paths", sa.LargeBinary, nullable=False, server_default=empty))
