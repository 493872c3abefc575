"""Saved views of the console: a person's own, and those that are shared with the readers of a tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "saved_views",
        sa.Column("view_id", _TEXT, primary_key=True),
        *(sa.Column(name, _TEXT, nullable=False) for name in ("owner", "page", "name")),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("query", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_saved_views_owner", "saved_views", ["owner", "page"])
    op.create_table(
        "shared_views",
        sa.Column("view_id", _TEXT, primary_key=True),
        *(sa.Column(name, _TEXT, nullable=False) for name in ("tenant", "page", "name", "shared_by")),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("query", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_shared_views_tenant", "shared_views", ["tenant", "page"])
