"""Event ids of the last records of each partition, for the duplicate window of the next owner."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer_key, long

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Create the table. Until it has what a window needs, the rest is read from the log."""
    op.create_table(
        "event_ids",
        integer_key("partition", sa.Integer),
        integer_key("first_offset"),
        long("end_offset"),
        blob("hashes"),
    )
