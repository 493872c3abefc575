"""Drop saved views of the console: the address of a page is its view."""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop both tables with their indexes."""
    op.drop_table("saved_views", if_exists=True)
    op.drop_table("shared_views", if_exists=True)
