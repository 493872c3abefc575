"""Feedback: judgements of people on decisions, and the rules that follow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.SmallInteger, nullable=False)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(53), nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def upgrade() -> None:
    """Create the tables."""
    _feedback()
    op.create_table("feedback_steps", _key("feedback_id"), _key("action"), _long("at_ms"), _text("by"), _text("why"))
    op.create_table(
        "feedback_holdings",
        _key("rule_id"),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        _long("epoch"),
        _long("from_offset"),
        _long("until_offset"),
        _long("matched"),
        _long("last_ms"),
        _long("expires_ms"),
        _blob("rule"),
    )
    op.create_index("ix_feedback_holdings_partition", "feedback_holdings", ["partition", "until_offset"])
    op.create_table(
        "feedback_previews",
        _key("preview_id"),
        _text("decision_id"),
        _text("tenant"),
        _text("author"),
        _text("draft"),
        _text("status"),
        _real("progress"),
        _long("created_ms"),
        _long("updated_ms"),
        _text("error"),
        _blob("result"),
    )
    op.create_index("ix_feedback_previews_time", "feedback_previews", ["created_ms", "preview_id"])


def _feedback() -> None:
    op.create_table(
        "feedback",
        _key("feedback_id"),
        _text("verdict"),
        _text("status"),
        _text("decision_id"),
        _long("agent_key"),
        _text("tenant"),
        _text("issuer"),
        _text("agent_id"),
        _text("agent_type"),
        _text("kind"),
        _text("resource"),
        _text("reason"),
        _text("author"),
        _long("created_ms"),
        _long("expires_ms"),
        _text("preview_id"),
        _small("unseen"),
        _text("event_id"),
        _long("event_time_ms"),
        _small("level"),
        _long("from_ms"),
        _long("until_ms"),
        _real("withdraw"),
        _text("revoked_by"),
        _long("revoked_ms"),
        _text("revoked_why"),
        _long("updated_ms"),
        _blob("scope"),
    )
    op.create_index("ix_feedback_time", "feedback", ["created_ms", "feedback_id"])
    op.create_index("ix_feedback_status", "feedback", ["status", "expires_ms"])
    op.create_index("ix_feedback_agent", "feedback", ["agent_key", "created_ms"])
    op.create_index("ix_feedback_decision", "feedback", ["decision_id"])
