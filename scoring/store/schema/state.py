"""Tables of the pipeline: how far it got, agents, decisions and their chains, dead letters."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, text

from ..text import TEXT
from .columns import METADATA, long, real, words

META = Table("meta", METADATA, Column("key", TEXT, primary_key=True), words("value"))

COUNTERS = Table("counters", METADATA, Column("name", TEXT, primary_key=True), long("value"))

POSITIONS = Table(
    "positions",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    long("epoch"),
    long("offset"),
    long("published", "0"),
)

AGENTS = Table(
    "agents",
    METADATA,
    # No row id: keys are hashes, and new agents in their order would touch a page each (measured: three times slower).
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    words("tenant"),
    words("issuer"),
    words("agent_id"),
    words("agent_type"),
    Column("level", SmallInteger, nullable=False),
    real("risk_score"),
    real("confidence"),
    real("anomaly_score"),
    long("first_seen_ms"),
    long("last_seen_ms"),
    long("evaluated_ms"),
    long("due_ms"),
    long("events"),
    words("decision_id"),
    words("counterfactual"),
    words("state_version"),
    Column("reasons", LargeBinary, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("risk", LargeBinary, nullable=False),
    Column("partition", Integer, nullable=False, server_default="0"),
    long("version_epoch", "0"),
    long("version_offset", "0"),
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
    long("agent_key"),
    words("tenant"),
    words("issuer"),
    words("agent_id"),
    words("agent_type"),
    long("decided_ms"),
    words("event_id"),
    long("event_time_ms"),
    Column("previous_level", SmallInteger, nullable=False),
    Column("level", SmallInteger, nullable=False),
    real("risk_score"),
    real("confidence"),
    real("anomaly_score"),
    real("p_value"),
    words("counterfactual"),
    words("model_version"),
    words("baseline_version"),
    words("policy_version"),
    words("mode"),
    words("cause"),
    Column("partition", Integer, nullable=False),
    long("offset"),
    Column("reasons", LargeBinary, nullable=False),
    Column("feature_vector", LargeBinary, nullable=False),
    Column("evidence", LargeBinary, nullable=False),
    # Place in the chain of its partition (scoring/chain.py); 0 = written before there was one.
    long("chain_sequence", "0"),
    *(words(name, "") for name in ("chain_salt", "chain_content", "chain_previous", "chain_digest")),
    # The erasure that removed or changed the content, and the salted digest of what it left.
    words("erasure_id", ""),
    words("redacted", ""),
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
    long("sequence"),
    words("digest"),
    # Up to here retention has removed decisions.
    long("anchor_sequence"),
    words("anchor_digest"),
)

DEAD_LETTERS = Table(
    "dead_letters",
    METADATA,
    Column("letter_id", TEXT, primary_key=True),
    long("received_ms"),
    words("source"),
    words("reason"),
    words("path"),
    Column("partition", Integer, nullable=False),
    long("offset"),
    Column("replayed_ms", BigInteger, nullable=False, server_default="0"),
    Column("raw", LargeBinary, nullable=False),
    Index("ix_dead_letters_time", "received_ms", "letter_id"),
    Index("ix_dead_letters_replayed", "replayed_ms", "received_ms"),
)
