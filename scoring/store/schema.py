"""Tables of the store. The migrations build the same ones; a test compares the two.

Times are UTC milliseconds. Agent keys are unsigned 64-bit numbers stored as signed ones, the only kind databases have.
State blobs stand behind what lists show, so that a reader of those columns never touches their overflow pages; columns
that a migration adds can only stand behind them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    text,
)

from .text import TEXT

METADATA = MetaData()

# Only a column whose type is spelt INTEGER is SQLite's own row id and counts up by itself.
_RowId = BigInteger().with_variant(Integer(), "sqlite")


def _text(name: str, default: str | None = None) -> Column[str]:
    return Column(name, TEXT, nullable=False, server_default=default)


def _long(name: str, default: str | None = None) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=default)


def _real(name: str) -> Column[float]:
    return Column(name, Float(53), nullable=False)


META = Table("meta", METADATA, Column("key", TEXT, primary_key=True), _text("value"))

COUNTERS = Table("counters", METADATA, Column("name", TEXT, primary_key=True), _long("value"))

POSITIONS = Table(
    "positions",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    _long("epoch"),
    _long("offset"),
    _long("published", "0"),
)

AGENTS = Table(
    "agents",
    METADATA,
    # No row id: keys are hashes, and new agents in their order would touch a page each (measured: three times slower).
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    _text("tenant"),
    _text("issuer"),
    _text("agent_id"),
    _text("agent_type"),
    Column("level", SmallInteger, nullable=False),
    _real("risk_score"),
    _real("confidence"),
    _real("anomaly_score"),
    _long("first_seen_ms"),
    _long("last_seen_ms"),
    _long("evaluated_ms"),
    _long("due_ms"),
    _long("events"),
    _text("decision_id"),
    _text("counterfactual"),
    _text("state_version"),
    Column("reasons", LargeBinary, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("risk", LargeBinary, nullable=False),
    Column("partition", Integer, nullable=False, server_default="0"),
    _long("version_epoch", "0"),
    _long("version_offset", "0"),
    Index("ix_agents_name", "tenant", "agent_id", "issuer", unique=True),
    Index("ix_agents_id", "agent_id"),
    Index("ix_agents_level", "level", "tenant", "agent_id", "issuer"),
    # Most agents are never due, and those would make up most of a full index.
    Index(
        "ix_agents_due",
        "partition",
        "due_ms",
        "key",
        sqlite_where=text("due_ms > 0"),
        postgresql_where=text("due_ms > 0"),
    ),
)

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", TEXT, primary_key=True),
    _long("agent_key"),
    _text("tenant"),
    _text("issuer"),
    _text("agent_id"),
    _text("agent_type"),
    _long("decided_ms"),
    _text("event_id"),
    _long("event_time_ms"),
    Column("previous_level", SmallInteger, nullable=False),
    Column("level", SmallInteger, nullable=False),
    _real("risk_score"),
    _real("confidence"),
    _real("anomaly_score"),
    _real("p_value"),
    _text("counterfactual"),
    _text("model_version"),
    _text("baseline_version"),
    _text("policy_version"),
    _text("mode"),
    _text("cause"),
    Column("partition", Integer, nullable=False),
    _long("offset"),
    Column("reasons", LargeBinary, nullable=False),
    Column("feature_vector", LargeBinary, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    # Place in the chain of its partition (scoring/chain.py); 0 = written before there was one.
    _long("chain_sequence", "0"),
    *(_text(name, "") for name in ("chain_salt", "chain_content", "chain_previous", "chain_digest")),
    # The erasure that removed or changed the content, and the salted digest of what it left.
    _text("erasure_id", ""),
    _text("redacted", ""),
    Index("ix_decisions_chain", "partition", "chain_sequence"),
    Index("ix_decisions_agent", "agent_key", "decided_ms", "decision_id"),
    Index("ix_decisions_tenant", "tenant", "decided_ms", "decision_id"),
    Index("ix_decisions_time", "decided_ms", "decision_id"),
    Index("ix_decisions_offset", "partition", "offset", "decision_id"),
)

DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    Column("letter_id", TEXT, primary_key=True),
    _long("received_ms"),
    _text("source"),
    _text("reason"),
    _text("path"),
    Column("partition", Integer, nullable=False),
    _long("offset"),
    Column("replayed_ms", BigInteger, nullable=False, server_default="0"),
    Column("raw", LargeBinary, nullable=False),
    Index("ix_dead_letters_time", "received_ms", "letter_id"),
    Index("ix_dead_letters_replayed", "replayed_ms", "received_ms"),
)

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("seq", _RowId, primary_key=True),
    Column("key", TEXT, nullable=False, unique=True),
    _text("kind"),
    _text("target"),
    _text("tenant"),
    _long("created_ms"),
    _long("agent_key"),
    _text("group"),
    Column("level", SmallInteger, nullable=False),
    Column("routed_ms", BigInteger, nullable=False, server_default="0"),
    Column("payload", LargeBinary, nullable=False),
    Index("ix_outbox_routed", "routed_ms", "seq"),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("seq", _RowId, ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("target", TEXT, primary_key=True),
    _text("status"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _long("queued_ms"),
    _long("next_attempt_ms"),
    _text("last_error", ""),
    Column("delivered_ms", BigInteger, nullable=False, server_default="0"),
    Column("suppressed_before", Integer, nullable=False, server_default="0"),
    _long("agent_key"),
    _text("group"),
    Index("ix_deliveries_due", "target", "status", "next_attempt_ms"),
    Index("ix_deliveries_status", "status", "queued_ms"),
    Index("ix_deliveries_cooldown", "target", "agent_key", "group", "seq"),
)

TARGET_STOPS = Table(
    "target_stops",
    METADATA,
    Column("name", TEXT, primary_key=True),
    _text("fingerprint"),
    _long("stopped_ms"),
    _text("reason"),
)

INTERVENTIONS = Table(
    "interventions",
    METADATA,
    Column("intervention_id", TEXT, primary_key=True),
    _text("kind"),
    _text("status"),
    _long("agent_key"),
    _text("tenant"),
    _text("issuer"),
    _text("agent_id"),
    Column("level", SmallInteger, nullable=False),
    _text("asked_why"),
    _text("asked_by"),
    _long("asked_ms"),
    _text("decided_by"),
    _long("decided_ms"),
    _text("why"),
    _long("expires_ms"),
    _long("updated_ms"),
    Column("scopes", LargeBinary, nullable=False),
    Index("ix_interventions_updated", "updated_ms"),
    Index("ix_interventions_open", "status", "expires_ms"),
    Index("ix_interventions_agent", "agent_key", "kind", "status"),
    Index("ix_interventions_time", "asked_ms", "intervention_id"),
)

ACTUATIONS = Table(
    "actuations",
    METADATA,
    Column("target", TEXT, primary_key=True),
    Column("agent_key", BigInteger, primary_key=True, autoincrement=False),
    _text("tenant"),
    _text("issuer"),
    _text("agent_id"),
    _long("version"),
    _text("status"),
    _long("caused_ms"),
    _long("wanted_ms"),
    _long("confirmed_ms"),
    _long("updated_ms"),
    _text("error"),
    Column("desired", LargeBinary, nullable=False),
    Column("original", LargeBinary, nullable=False),
    Index("ix_actuations_agent", "agent_key"),
    Index("ix_actuations_time", "updated_ms", "target", "agent_key"),
)

EDGES = Table(
    "edges",
    METADATA,
    # A hash of the names: as a key, five names of 2,048 characters are more than an index of PostgreSQL holds.
    Column("edge_id", TEXT, primary_key=True),
    _long("source_key"),
    _long("target_key"),
    _text("tenant"),
    _text("issuer"),
    _text("kind"),
    _text("source"),
    _text("target"),
    _long("first_ms"),
    _long("last_ms"),
    _real("risk"),
    _long("risk_ms"),
    Index("ix_edges_source", "source_key", "kind"),
    Index("ix_edges_target", "target_key", "kind"),
    Index("ix_edges_time", "last_ms"),
)

CHAINS = Table(
    "decision_chains",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    _long("sequence"),
    _text("digest"),
    # Up to here retention has removed decisions.
    _long("anchor_sequence"),
    _text("anchor_digest"),
)

ERASURES = Table(
    "erasures",
    METADATA,
    Column("erasure_id", TEXT, primary_key=True),
    _text("kind"),
    _text("status"),
    _text("tenant"),
    _text("issuer"),
    # What is erased: here while the work goes on, empty once it is done.
    _text("subject"),
    # Salted digest of it, in the words of the proof.
    _text("subject_salt"),
    _text("subject_digest"),
    _text("reason"),
    _text("asked_by"),
    _long("asked_ms"),
    # The record of the log that ended what was known: offset and arrival; -1 = not written yet.
    _long("at_offset"),
    _long("at_ms"),
    Column("rounds", Integer, nullable=False),
    _text("error"),
    _long("updated_ms"),
    _long("done_ms"),
    Column("counts", LargeBinary, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Index("ix_erasures_time", "asked_ms", "erasure_id"),
)

MODEL_VERSIONS = Table(
    "model_versions",
    METADATA,
    Column("version", TEXT, primary_key=True),
    _text("status"),
    _text("digest"),
    _long("from_ms"),
    _long("to_ms"),
    _long("created_ms"),
    _long("promoted_ms"),
    _long("changed_ms"),
    _long("counted_from"),
    Column("trained", LargeBinary, nullable=False),
    Column("figures", LargeBinary, nullable=False),
    Index("ix_model_versions_status", "status"),
    Index("ix_model_versions_time", "created_ms", "version"),
)

MODEL_HISTORY = Table(
    "model_history",
    METADATA,
    Column("entry_id", TEXT, primary_key=True),
    _long("at_ms"),
    _text("version"),
    _text("act"),
    _text("by"),
    _text("why"),
    Column("detail", LargeBinary, nullable=False),
    Index("ix_model_history_time", "at_ms", "entry_id"),
)

MODEL_SWITCHES = Table(
    "model_switches",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    _text("version"),
    _text("digest"),
    _text("installed"),
    _long("at_ms"),
)

MODEL_DAYS = Table(
    "model_days",
    METADATA,
    Column("version", TEXT, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tenant", TEXT, primary_key=True),
    Column("agent_type", TEXT, primary_key=True),
    _long("events"),
    _long("agent_days"),
    Column("alerts", LargeBinary, nullable=False),
    Column("p_values", LargeBinary, nullable=False),
    Column("drift", LargeBinary, nullable=False),
    Index("ix_model_days_day", "day"),
)


FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("feedback_id", TEXT, primary_key=True),
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
    Column("unseen", SmallInteger, nullable=False),
    _text("event_id"),
    _long("event_time_ms"),
    Column("level", SmallInteger, nullable=False),
    _long("from_ms"),
    _long("until_ms"),
    _real("withdraw"),
    _text("revoked_by"),
    _long("revoked_ms"),
    _text("revoked_why"),
    _long("updated_ms"),
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
    _long("at_ms"),
    _text("by"),
    _text("why"),
)

FEEDBACK_HOLDINGS = Table(
    "feedback_holdings",
    METADATA,
    Column("rule_id", TEXT, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    _long("epoch"),
    _long("from_offset"),
    _long("until_offset"),
    _long("matched"),
    _long("last_ms"),
    _long("expires_ms"),
    Column("rule", LargeBinary, nullable=False),
    Index("ix_feedback_holdings_partition", "partition", "until_offset"),
)

FEEDBACK_PREVIEWS = Table(
    "feedback_previews",
    METADATA,
    Column("preview_id", TEXT, primary_key=True),
    _text("decision_id"),
    _text("tenant"),
    _text("author"),
    _text("draft"),
    _text("status"),
    _real("progress"),
    _long("created_ms"),
    _long("updated_ms"),
    _text("error"),
    Column("result", LargeBinary, nullable=False),
    Index("ix_feedback_previews_time", "created_ms", "preview_id"),
)
FORGOTTEN = Table(
    "forgotten",
    METADATA,
    # Keyed hash of an agent that must not go on from a model's history.
    Column("mark", TEXT, primary_key=True),
    _long("at_ms"),
)
