"""Saved views of the console: a person's own, and those that are shared with the readers of a tenant."""

from __future__ import annotations

from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, long, text, text_key

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "saved_views",
        text_key("view_id"),
        *(text(name) for name in ("owner", "page", "name")),
        long("changed_ms"),
        blob("query"),
    )
    op.create_index("ix_saved_views_owner", "saved_views", ["owner", "page"])
    op.create_table(
        "shared_views",
        text_key("view_id"),
        *(text(name) for name in ("tenant", "page", "name", "shared_by")),
        long("changed_ms"),
        blob("query"),
    )
    op.create_index("ix_shared_views_tenant", "shared_views", ["tenant", "page"])
