"""Tables of feedback: what people said, step by step, the rules that partitions hold, previews."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, SmallInteger, Table

from ..text import TEXT
from .columns import METADATA, float_column, integer_column, text_column

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
    text_column("verdict"),
    text_column("status"),
    text_column("decision_id"),
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    text_column("kind"),
    text_column("resource"),
    text_column("reason"),
    text_column("author"),
    integer_column("created_ms"),
    integer_column("expires_ms"),
    text_column("preview_id"),
    Column("unseen", SmallInteger, nullable=False),
    text_column("event_id"),
    integer_column("event_time_ms"),
    Column("level", SmallInteger, nullable=False),
    integer_column("from_ms"),
    integer_column("until_ms"),
    float_column("withdraw"),
    text_column("revoked_by"),
    integer_column("revoked_ms"),
    text_column("revoked_why"),
    integer_column("updated_ms"),
    Column("scope", LargeBinary, nullable=False),
    Index("ix_feedback_time", "created_ms", "feedback_id"),
    Index("ix_feedback_status", "status", "expires_ms"),
    Index("ix_feedback_agent", "agent_key", "created_ms"),
    Index("ix_feedback_decision", "decision_id"),
)

FEEDBACK_STEPS = Table(
    "feedback_steps",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
    Column("action", TEXT, primary_key=True),
    integer_column("at_ms"),
    text_column("by"),
    text_column("why"),
)

FEEDBACK_HOLDINGS = Table(
    "feedback_holdings",
    METADATA,
    Column("rule_id", TEXT, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("epoch"),
    integer_column("from_offset"),
    integer_column("until_offset"),
    integer_column("matched"),
    integer_column("last_ms"),
    integer_column("expires_ms"),
    Column("rule", LargeBinary, nullable=False),
    Index("ix_feedback_holdings_partition", "partition", "until_offset"),
)

FEEDBACK_PREVIEWS = Table(
    "feedback_previews",
    METADATA,
    Column("preview_id", TEXT, primary_key=True),
    text_column("decision_id"),
    text_column("tenant"),
    text_column("author"),
    text_column("draft"),
    text_column("status"),
    float_column("progress"),
    integer_column("created_ms"),
    integer_column("updated_ms"),
    text_column("error"),
    Column("result", LargeBinary, nullable=False),
    Index("ix_feedback_previews_time", "created_ms", "preview_id"),
)
