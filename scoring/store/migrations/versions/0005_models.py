"""Life of models: versions, switches, shadow runs, drift."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def _number(name: str, kind: type[sa.Integer]) -> sa.Column[int]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "model_versions",
        _key("version"),
        _text("status"),
        _text("digest"),
        _long("from_ms"),
        _long("to_ms"),
        _long("created_ms"),
        _long("promoted_ms"),
        _long("changed_ms"),
        _long("counted_from"),
        _blob("trained"),
        _blob("figures"),
    )
    op.create_index("ix_model_versions_status", "model_versions", ["status"])
    op.create_index("ix_model_versions_time", "model_versions", ["created_ms", "version"])
    op.create_table(
        "model_history",
        _key("entry_id"),
        _long("at_ms"),
        _text("version"),
        _text("act"),
        _text("by"),
        _text("why"),
        _blob("detail"),
    )
    op.create_index("ix_model_history_time", "model_history", ["at_ms", "entry_id"])
    op.create_table(
        "model_switches",
        _number("partition", sa.Integer),
        _number("epoch", sa.BigInteger),
        _number("offset", sa.BigInteger),
        _text("version"),
        _text("digest"),
        _text("installed"),
        _long("at_ms"),
    )
    op.create_table(
        "model_days",
        _key("version"),
        _number("day", sa.Integer),
        _key("tenant"),
        _key("agent_type"),
        _long("events"),
        _long("agent_days"),
        _blob("alerts"),
        _blob("p_values"),
        _blob("drift"),
    )
    op.create_index("ix_model_days_day", "model_days", ["day"])
