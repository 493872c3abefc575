"""Snapshots: files with copies of agents' rows, and the secrets that they are read with."""

from __future__ import annotations

from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer, long, text_key

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Create the table; nobody has snapshots yet."""
    op.create_table(
        "snapshots",
        text_key("name"),
        integer("partition"),
        blob("secret"),
        long("generation"),
        long("agents"),
        long("content_bytes"),
    )
