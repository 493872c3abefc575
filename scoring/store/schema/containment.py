"""Tables of containment: what people ordered, what actuators did, who had to do with whom."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, SmallInteger, Table

from ..text import TEXT
from .columns import METADATA, float_column, integer_column, text_column

INTERVENTIONS = Table(
    "interventions",
    METADATA,
    Column("intervention_id", TEXT, primary_key=True),
    text_column("kind"),
    text_column("status"),
    integer_column("agent_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    Column("level", SmallInteger, nullable=False),
    text_column("asked_why"),
    text_column("asked_by"),
    integer_column("asked_ms"),
    text_column("decided_by"),
    integer_column("decided_ms"),
    text_column("why"),
    integer_column("expires_ms"),
    integer_column("updated_ms"),
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
    text_column("tenant"),
    text_column("issuer"),
    text_column("agent_id"),
    integer_column("version"),
    text_column("status"),
    integer_column("caused_ms"),
    integer_column("wanted_ms"),
    integer_column("confirmed_ms"),
    integer_column("updated_ms"),
    text_column("error"),
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
    integer_column("source_key"),
    integer_column("target_key"),
    text_column("tenant"),
    text_column("issuer"),
    text_column("kind"),
    text_column("source"),
    text_column("target"),
    integer_column("first_ms"),
    integer_column("last_ms"),
    float_column("risk"),
    integer_column("risk_ms"),
    Index("ix_edges_source", "source_key", "kind"),
    Index("ix_edges_target", "target_key", "kind"),
    Index("ix_edges_time", "last_ms"),
)
