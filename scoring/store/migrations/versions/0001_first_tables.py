"""First tables: positions, agents, decisions, dead letters, outbox and its deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# PostgreSQL came with 0002: what is special to it below was never missing anywhere.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _long(name: str, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def _int(name: str, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=default)


def _small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.SmallInteger, nullable=False)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(53), nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def upgrade() -> None:
    """Create every table of the first version."""
    op.create_table("meta", _key("key"), _text("value"))
    op.create_table("counters", _key("name"), _long("value"))
    op.create_table(
        "positions",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        _long("epoch"),
        _long("offset"),
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
        sa.Column("key", sa.BigInteger, primary_key=True, autoincrement=False),
        *(_text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        _small("level"),
        *(_real(name) for name in ("risk_score", "confidence", "anomaly_score")),
        *(_long(name) for name in ("first_seen_ms", "last_seen_ms", "evaluated_ms", "due_ms", "events")),
        *(_text(name) for name in ("decision_id", "counterfactual", "state_version")),
        *(_blob(name) for name in ("reasons", "features", "risk")),
    )
    op.create_index("ix_agents_name", "agents", ["tenant", "agent_id", "issuer"], unique=True)
    op.create_index("ix_agents_id", "agents", ["agent_id"])
    op.create_index("ix_agents_level", "agents", ["level", "tenant", "agent_id", "issuer"])
    due = sa.text("due_ms > 0")
    op.create_index("ix_agents_due", "agents", ["due_ms", "key"], sqlite_where=due, postgresql_where=due)


def _decisions() -> None:
    op.create_table(
        "decisions",
        _text("decision_id"),
        _long("agent_key"),
        *(_text(name) for name in ("tenant", "issuer", "agent_id", "agent_type")),
        _long("decided_ms"),
        _text("event_id"),
        _long("event_time_ms"),
        _small("previous_level"),
        _small("level"),
        *(_real(name) for name in ("risk_score", "confidence", "anomaly_score", "p_value")),
        *(_text(name) for name in ("counterfactual", "model_version", "baseline_version", "policy_version")),
        *(_text(name) for name in ("mode", "cause")),
        _int("partition"),
        _long("offset"),
        *(_blob(name) for name in ("reasons", "feature_vector", "evidence")),
        sa.PrimaryKeyConstraint(*_decision_key()),
        postgresql_partition_by="RANGE (decided_ms)",
    )
    op.create_index("ix_decisions_agent", "decisions", ["agent_key", "decided_ms", "decision_id"])
    op.create_index("ix_decisions_tenant", "decisions", ["tenant", "decided_ms", "decision_id"])
    op.create_index("ix_decisions_time", "decisions", ["decided_ms", "decision_id"])


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        _key("letter_id"),
        _long("received_ms"),
        *(_text(name) for name in ("source", "reason", "path")),
        _int("partition"),
        _long("offset"),
        _long("replayed_ms", "0"),
        _blob("raw"),
    )
    op.create_index("ix_dead_letters_time", "dead_letters", ["received_ms", "letter_id"])
    op.create_index("ix_dead_letters_replayed", "dead_letters", ["replayed_ms", "received_ms"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", _ROW_ID, primary_key=True),
        sa.Column("key", _TEXT, nullable=False, unique=True),
        *(_text(name) for name in ("kind", "target", "tenant")),
        _long("created_ms"),
        _long("agent_key"),
        _text("group"),
        _small("level"),
        _long("routed_ms", "0"),
        _blob("payload"),
    )
    op.create_index("ix_outbox_routed", "outbox", ["routed_ms", "seq"])
    op.create_table(
        "deliveries",
        sa.Column(
            "seq", _ROW_ID, sa.ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False
        ),
        _key("target"),
        _text("status"),
        _int("attempts", "0"),
        _long("queued_ms"),
        _long("next_attempt_ms"),
        _text("last_error", ""),
        _long("delivered_ms", "0"),
        _int("suppressed_before", "0"),
        _long("agent_key"),
        _text("group"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["target", "status", "next_attempt_ms"])
    op.create_index("ix_deliveries_status", "deliveries", ["status", "queued_ms"])
    op.create_index("ix_deliveries_cooldown", "deliveries", ["target", "agent_key", "group", "seq"])
    op.create_table("target_stops", _key("name"), _text("fingerprint"), _long("stopped_ms"), _text("reason"))
