"""Cases: rises that belong together, their agents, what ties these, their decisions, and what people did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer, integer_key, long, small, text, text_key

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the tables. Alerts of before belong to no case."""
    op.add_column("deliveries", text("case_id", ""))
    op.create_index("ix_deliveries_case", "deliveries", ["case_id", "target", "group", "seq"])
    _create_cases()
    _create_agents_and_ties()
    op.create_table(
        "case_decisions",
        text_key("decision_id"),
        text("case_id"),
        long("agent_key"),
        text("tenant"),
        long("decided_ms"),
    )
    op.create_index("ix_case_decisions_case", "case_decisions", ["case_id", "decided_ms"])
    op.create_table(
        "case_entries",
        text_key("case_id"),
        integer_key("sequence", sa.Integer),
        text("tenant"),
        long("at_ms"),
        text("by"),
        text("action"),
        text("note"),
        blob("detail"),
    )


def _create_cases() -> None:
    op.create_table(
        "cases",
        text_key("case_id"),
        *(text(name) for name in ("tenant", "status", "verdict")),
        small("level"),
        text("lead_decision_id"),
        *(long(f"{name}_ms") for name in ("opened", "updated", "risen", "acknowledged", "contained", "closed")),
        long("held_until_ms"),
        text("owner"),
        long("snoozed_until_ms"),
        text("merged_into"),
        *(integer(name) for name in ("agents", "decisions", "revision")),
    )
    op.create_index("ix_cases_time", "cases", ["updated_ms", "case_id"])
    op.create_index("ix_cases_opened", "cases", ["opened_ms"])
    op.create_index("ix_cases_status", "cases", ["status", "updated_ms", "case_id"])


def _create_agents_and_ties() -> None:
    op.create_table(
        "case_agents",
        text_key("case_id"),
        integer_key("agent_key"),
        *(text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        integer("ordinal"),
        small("level"),
        small("peak"),
        long("joined_ms"),
        long("last_ms"),
        *(text(name) for name in ("decision_id", "tie", "tied_by")),
    )
    op.create_index("ix_case_agents_agent", "case_agents", ["agent_key"])
    op.create_table(
        "case_ties",
        text_key("digest"),
        text_key("case_id"),
        integer_key("agent_key"),
        *(text(name) for name in ("tenant", "kind", "value")),
        long("last_ms"),
    )
    op.create_index("ix_case_ties_case", "case_ties", ["case_id"])
