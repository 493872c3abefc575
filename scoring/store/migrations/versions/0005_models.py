"""Life of models: versions, switches, shadow runs, drift."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer_key, long, text, text_key

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "model_versions",
        text_key("version"),
        text("status"),
        text("digest"),
        long("from_ms"),
        long("to_ms"),
        long("created_ms"),
        long("promoted_ms"),
        long("changed_ms"),
        long("counted_from"),
        blob("trained"),
        blob("figures"),
    )
    op.create_index("ix_model_versions_status", "model_versions", ["status"])
    op.create_index("ix_model_versions_time", "model_versions", ["created_ms", "version"])
    op.create_table(
        "model_history",
        text_key("entry_id"),
        long("at_ms"),
        text("version"),
        text("act"),
        text("by"),
        text("why"),
        blob("detail"),
    )
    op.create_index("ix_model_history_time", "model_history", ["at_ms", "entry_id"])
    op.create_table(
        "model_switches",
        integer_key("partition", sa.Integer),
        integer_key("epoch", sa.BigInteger),
        integer_key("offset", sa.BigInteger),
        text("version"),
        text("digest"),
        text("installed"),
        long("at_ms"),
    )
    op.create_table(
        "model_days",
        text_key("version"),
        integer_key("day", sa.Integer),
        text_key("tenant"),
        text_key("agent_type"),
        long("events"),
        long("agent_days"),
        blob("alerts"),
        blob("p_values"),
        blob("drift"),
    )
    op.create_index("ix_model_days_day", "model_days", ["day"])
