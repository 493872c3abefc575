"""Cases: rises that belong together, their agents, what ties these, their decisions, and what people did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _level(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.SmallInteger, nullable=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def _agent_key() -> sa.Column[int]:
    return sa.Column("agent_key", sa.BigInteger, primary_key=True, autoincrement=False)


def upgrade() -> None:
    """Create the tables. Alerts of before belong to no case."""
    op.add_column("deliveries", _text("case_id", ""))
    op.create_index("ix_deliveries_case", "deliveries", ["case_id", "target", "group", "seq"])
    _create_cases()
    _create_agents_and_ties()
    op.create_table(
        "case_decisions",
        _key("decision_id"),
        _text("case_id"),
        _long("agent_key"),
        _text("tenant"),
        _long("decided_ms"),
    )
    op.create_index("ix_case_decisions_case", "case_decisions", ["case_id", "decided_ms"])
    op.create_table(
        "case_entries",
        _key("case_id"),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        _text("tenant"),
        _long("at_ms"),
        _text("by"),
        _text("action"),
        _text("note"),
        sa.Column("detail", sa.LargeBinary, nullable=False),
    )


def _create_cases() -> None:
    op.create_table(
        "cases",
        _key("case_id"),
        *(_text(name) for name in ("tenant", "status", "verdict")),
        _level("level"),
        _text("lead_decision_id"),
        *(_long(f"{name}_ms") for name in ("opened", "updated", "risen", "acknowledged", "contained", "closed")),
        _long("held_until_ms"),
        _text("owner"),
        _long("snoozed_until_ms"),
        _text("merged_into"),
        *(_count(name) for name in ("agents", "decisions", "revision")),
    )
    op.create_index("ix_cases_time", "cases", ["updated_ms", "case_id"])
    op.create_index("ix_cases_opened", "cases", ["opened_ms"])
    op.create_index("ix_cases_status", "cases", ["status", "updated_ms", "case_id"])


def _create_agents_and_ties() -> None:
    op.create_table(
        "case_agents",
        _key("case_id"),
        _agent_key(),
        *(_text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        _count("ordinal"),
        _level("level"),
        _level("peak"),
        _long("joined_ms"),
        _long("last_ms"),
        *(_text(name) for name in ("decision_id", "tie", "tied_by")),
    )
    op.create_index("ix_case_agents_agent", "case_agents", ["agent_key"])
    op.create_table(
        "case_ties",
        _key("digest"),
        _key("case_id"),
        _agent_key(),
        *(_text(name) for name in ("tenant", "kind", "value")),
        _long("last_ms"),
    )
    op.create_index("ix_case_ties_case", "case_ties", ["case_id"])
