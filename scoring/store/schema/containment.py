"""Tables of containment: what people ordered, what actuators did, who had to do with whom."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, SmallInteger, Table

from ..text import TEXT
from .columns import METADATA, long, real, words

INTERVENTIONS = Table(
    "interventions",
    METADATA,
    Column("intervention_id", TEXT, primary_key=True),
    words("kind"),
    words("status"),
    long("agent_key"),
    words("tenant"),
    words("issuer"),
    words("agent_id"),
    Column("level", SmallInteger, nullable=False),
    words("asked_why"),
    words("asked_by"),
    long("asked_ms"),
    words("decided_by"),
    long("decided_ms"),
    words("why"),
    long("expires_ms"),
    long("updated_ms"),
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
    words("tenant"),
    words("issuer"),
    words("agent_id"),
    long("version"),
    words("status"),
    long("caused_ms"),
    long("wanted_ms"),
    long("confirmed_ms"),
    long("updated_ms"),
    words("error"),
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
    long("source_key"),
    long("target_key"),
    words("tenant"),
    words("issuer"),
    words("kind"),
    words("source"),
    words("target"),
    long("first_ms"),
    long("last_ms"),
    real("risk"),
    long("risk_ms"),
    Index("ix_edges_source", "source_key", "kind"),
    Index("ix_edges_target", "target_key", "kind"),
    Index("ix_edges_time", "last_ms"),
)
