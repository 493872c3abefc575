"""Tables of the pipeline: how far it got, agents, decisions and their chains, dead letters."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, text

from ..text import TEXT
from .columns import METADATA, float_column, integer_column, text_column

META = Table("meta", METADATA, Column("key", TEXT, primary_key=True), text_column("value"))

COUNTERS = Table("counters", METADATA, Column("name", TEXT, primary_key=True), integer_column("value"))

POSITIONS = Table(
    "positions",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("epoch"),
    integer_column("offset"),
    integer_column("published", "0"),
)

AGENTS = Table(
    "agents",
    METADATA,
    # No row id: keys are hashes, and new agents in their order would touch a page each (measured: three times slower).
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    Column("level", SmallInteger, nullable=False),
    float_column("risk_score"),
    float_column("confidence"),
    float_column("anomaly_score"),
    integer_column("first_seen_ms"),
    integer_column("last_seen_ms"),
    integer_column("evaluated_ms"),
    integer_column("due_ms"),
    integer_column("events"),
    text_column("decision_id"),
    text_column("counterfactual"),
    text_column("state_version"),
    Column("reasons", LargeBinary, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("risk", LargeBinary, nullable=False),
    Column("partition", Integer, nullable=False, server_default="0"),
    integer_column("version_epoch", "0"),
    integer_column("version_offset", "0"),
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
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    text_column("agent_type"),
    integer_column("decided_ms"),
    text_column("event_id"),
    integer_column("event_time_ms"),
    Column("previous_level", SmallInteger, nullable=False),
    Column("level", SmallInteger, nullable=False),
    float_column("risk_score"),
    float_column("confidence"),
    float_column("anomaly_score"),
    float_column("p_value"),
    text_column("counterfactual"),
    text_column("model_version"),
    text_column("baseline_version"),
    text_column("policy_version"),
    text_column("mode"),
    text_column("cause"),
    Column("partition", Integer, nullable=False),
    integer_column("offset"),
    Column("reasons", LargeBinary, nullable=False),
    Column("feature_vector", LargeBinary, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    # Place in the chain of its partition (scoring/chain.py); 0 = written before there was one.
    integer_column("chain_sequence", "0"),
    *(text_column(name, "") for name in ("chain_salt", "chain_content", "chain_previous", "chain_digest")),
    # The erasure that removed or changed the content, and the salted digest of what it left.
    text_column("erasure_id", ""),
    text_column("redacted", ""),
    Index("ix_decisions_chain", "partition", "chain_sequence"),
    Index("ix_decisions_agent", "agent_key", "decided_ms", "decision_id"),
    Index("ix_decisions_tenant", "tenant", "decided_ms", "decision_id"),
    Index("ix_decisions_time", "decided_ms", "decision_id"),
    Index("ix_decisions_offset", "partition", "offset", "decision_id"),
)

CHAINS = Table(
    "decision_chains",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    integer_column("sequence"),
    text_column("digest"),
    # Up to here retention has removed decisions.
    integer_column("anchor_sequence"),
    text_column("anchor_digest"),
)

DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    Column("letter_id", TEXT, primary_key=True),
    integer_column("received_ms"),
    text_column("source"),
    text_column("reason"),
    text_column("path"),
    Column("partition", Integer, nullable=False),
    integer_column("offset"),
    Column("replayed_ms", BigInteger, nullable=False, server_default="0"),
    Column("raw", LargeBinary, nullable=False),
    Index("ix_dead_letters_time", "received_ms", "letter_id"),
    Index("ix_dead_letters_replayed", "replayed_ms", "received_ms"),
)
