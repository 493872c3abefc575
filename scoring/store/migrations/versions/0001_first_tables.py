"""First tables: positions, agents, decisions, dead letters, outbox and its deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import (
    ROW_ID,
    TEXT,
    blob,
    integer,
    integer_key,
    long,
    real,
    small,
    text,
    text_key,
)

revision = "0001"
down_revision = None

# PostgreSQL came with 0002: what is special to it below was never missing anywhere.


def upgrade() -> None:
    """Create every table of the first version."""
    op.create_table("meta", text_key("key"), text("value"))
    op.create_table("counters", text_key("name"), long("value"))
    op.create_table(
        "positions",
        integer_key("partition", sa.Integer),
        long("epoch"),
        long("offset"),
    )
    _agents()
    _decisions()
    _dead_letters()
    _outbox()
    if _on_postgresql():
        # Rows of 2 kB that change all the time: room beside them for the next version, nothing moved out of line
        # (measured: docs/store.md).
        op.execute("ALTER TABLE agents SET (fillfactor = 70, toast_tuple_target = 8160)")
        op.execute("CREATE TABLE decisions_default PARTITION OF decisions DEFAULT")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _decision_key() -> tuple[str, ...]:
    """A partitioned table needs what it is partitioned by in its key; a repeated decision has the same time."""
    return ("decision_id", "decided_ms") if _on_postgresql() else ("decision_id",)


def _agents() -> None:
    op.create_table(
        "agents",
        integer_key("key"),
        *(text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        small("level"),
        *(real(name) for name in ("risk_score", "confidence", "anomaly_score")),
        *(long(name) for name in ("first_seen_ms", "last_seen_ms", "evaluated_ms", "due_ms", "events")),
        *(text(name) for name in ("decision_id", "counterfactual", "state_version")),
        *(blob(name) for name in ("reasons", "features", "risk")),
    )
    op.create_index("ix_agents_name", "agents", ["tenant", "agent_id", "issuer"], unique=True)
    op.create_index("ix_agents_id", "agents", ["agent_id"])
    op.create_index("ix_agents_level", "agents", ["level", "tenant", "agent_id", "issuer"])
    due = sa.text("due_ms > 0")
    op.create_index("ix_agents_due", "agents", ["due_ms", "key"], sqlite_where=due, postgresql_where=due)


def _decisions() -> None:
    op.create_table(
        "decisions",
        text("decision_id"),
        long("agent_key"),
        *(text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        long("decided_ms"),
        text("event_id"),
        long("event_time_ms"),
        small("previous_level"),
        small("level"),
        *(real(name) for name in ("risk_score", "confidence", "anomaly_score", "p_value")),
        *(text(name) for name in ("counterfactual", "model_version", "baseline_version", "policy_version")),
        *(text(name) for name in ("mode", "cause")),
        integer("partition"),
        long("offset"),
        *(blob(name) for name in ("reasons", "feature_vector", "evidence")),
        sa.PrimaryKeyConstraint(*_decision_key()),
        postgresql_partition_by="RANGE (decided_ms)",
    )
    op.create_index("ix_decisions_agent", "decisions", ["agent_key", "decided_ms", "decision_id"])
    op.create_index("ix_decisions_tenant", "decisions", ["tenant", "decided_ms", "decision_id"])
    op.create_index("ix_decisions_time", "decisions", ["decided_ms", "decision_id"])


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        text_key("letter_id"),
        long("received_ms"),
        *(text(name) for name in ("source", "reason", "path")),
        integer("partition"),
        long("offset"),
        long("replayed_ms", "0"),
        blob("raw"),
    )
    op.create_index("ix_dead_letters_time", "dead_letters", ["received_ms", "letter_id"])
    op.create_index("ix_dead_letters_replayed", "dead_letters", ["replayed_ms", "received_ms"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", ROW_ID, primary_key=True),
        sa.Column("key", TEXT, nullable=False, unique=True),
        *(text(name) for name in ("kind", "target", "tenant")),
        long("created_ms"),
        long("agent_key"),
        text("group"),
        small("level"),
        long("routed_ms", "0"),
        blob("payload"),
    )
    op.create_index("ix_outbox_routed", "outbox", ["routed_ms", "seq"])
    op.create_table(
        "deliveries",
        sa.Column(
            "seq", ROW_ID, sa.ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False
        ),
        text_key("target"),
        text("status"),
        integer("attempts", "0"),
        long("queued_ms"),
        long("next_attempt_ms"),
        text("last_error", ""),
        long("delivered_ms", "0"),
        integer("suppressed_before", "0"),
        long("agent_key"),
        text("group"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["target", "status", "next_attempt_ms"])
    op.create_index("ix_deliveries_status", "deliveries", ["status", "queued_ms"])
    op.create_index("ix_deliveries_cooldown", "deliveries", ["target", "agent_key", "group", "seq"])
    op.create_table("target_stops", text_key("name"), text("fingerprint"), long("stopped_ms"), text("reason"))
