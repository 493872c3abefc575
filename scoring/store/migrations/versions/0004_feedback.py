"""Feedback: judgements of people on decisions, and the rules that follow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer_key, long, real, small, text, text_key

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables."""
    _feedback()
    op.create_table(
        "feedback_steps", text_key("feedback_id"), text_key("action"), long("at_ms"), text("by"), text("why")
    )
    op.create_table(
        "feedback_holdings",
        text_key("rule_id"),
        integer_key("partition", sa.Integer),
        long("epoch"),
        long("from_offset"),
        long("until_offset"),
        long("matched"),
        long("last_ms"),
        long("expires_ms"),
        blob("rule"),
    )
    op.create_index("ix_feedback_holdings_partition", "feedback_holdings", ["partition", "until_offset"])
    op.create_table(
        "feedback_previews",
        text_key("preview_id"),
        text("decision_id"),
        text("tenant"),
        text("author"),
        text("draft"),
        text("status"),
        real("progress"),
        long("created_ms"),
        long("updated_ms"),
        text("error"),
        blob("result"),
    )
    op.create_index("ix_feedback_previews_time", "feedback_previews", ["created_ms", "preview_id"])


def _feedback() -> None:
    op.create_table(
        "feedback",
        text_key("feedback_id"),
        text("verdict"),
        text("status"),
        text("decision_id"),
        long("agent_key"),
        text("tenant"),
        text("issuer"),
        text("agent_id"),
        text("agent_type"),
        text("kind"),
        text("resource"),
        text("reason"),
        text("author"),
        long("created_ms"),
        long("expires_ms"),
        text("preview_id"),
        small("unseen"),
        text("event_id"),
        long("event_time_ms"),
        small("level"),
        long("from_ms"),
        long("until_ms"),
        real("withdraw"),
        text("revoked_by"),
        long("revoked_ms"),
        text("revoked_why"),
        long("updated_ms"),
        blob("scope"),
    )
    op.create_index("ix_feedback_time", "feedback", ["created_ms", "feedback_id"])
    op.create_index("ix_feedback_status", "feedback", ["status", "expires_ms"])
    op.create_index("ix_feedback_agent", "feedback", ["agent_key", "created_ms"])
    op.create_index("ix_feedback_decision", "feedback", ["decision_id"])
