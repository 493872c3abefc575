"""Saved views: one of each name on a page of its holder. Of several that a race left the last changed stays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Remove what is doubled, then make the index of each table unique."""
    for name, holder in (("saved_views", "owner"), ("shared_views", "tenant")):
        columns = (holder, "page", "name", "changed_ms", "view_id")
        views = sa.table(name, *(sa.column(column) for column in columns))
        other = views.alias("other")
        is_namesake = [other.c[column] == views.c[column] for column in (holder, "page", "name")]
        is_later = sa.tuple_(other.c.changed_ms, other.c.view_id) > sa.tuple_(views.c.changed_ms, views.c.view_id)
        op.execute(sa.delete(views).where(sa.exists().where(*is_namesake, is_later)))
        op.drop_index(f"ix_{name}_{holder}", name)
        op.create_index(f"ix_{name}_{holder}", name, [holder, "page", "name"], unique=True)
