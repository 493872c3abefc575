"""Tables of feedback: what people said, step by step, the rules that partitions hold, previews."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, SmallInteger, Table

from ..text import TEXT
from .columns import METADATA, long, real, words

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
    words("verdict"),
    words("status"),
    words("decision_id"),
    long("agent_key"),
    words("tenant"),
    words("issuer"),
    words("agent_id"),
    words("agent_type"),
    words("kind"),
    words("resource"),
    words("reason"),
    words("author"),
    long("created_ms"),
    long("expires_ms"),
    words("preview_id"),
    Column("unseen", SmallInteger, nullable=False),
    words("event_id"),
    long("event_time_ms"),
    Column("level", SmallInteger, nullable=False),
    long("from_ms"),
    long("until_ms"),
    real("withdraw"),
    words("revoked_by"),
    long("revoked_ms"),
    words("revoked_why"),
    long("updated_ms"),
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
    long("at_ms"),
    words("by"),
    words("why"),
)

FEEDBACK_HOLDINGS = Table(
    "feedback_holdings",
    METADATA,
    Column("rule_id", TEXT, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    long("epoch"),
    long("from_offset"),
    long("until_offset"),
    long("matched"),
    long("last_ms"),
    long("expires_ms"),
    Column("rule", LargeBinary, nullable=False),
    Index("ix_feedback_holdings_partition", "partition", "until_offset"),
)

FEEDBACK_PREVIEWS = Table(
    "feedback_previews",
    METADATA,
    Column("preview_id", TEXT, primary_key=True),
    words("decision_id"),
    words("tenant"),
    words("author"),
    words("draft"),
    words("status"),
    real("progress"),
    long("created_ms"),
    long("updated_ms"),
    words("error"),
    Column("result", LargeBinary, nullable=False),
    Index("ix_feedback_previews_time", "created_ms", "preview_id"),
)
