"""Containment: interventions of people, actuations, and delegation between agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer_key, long, small, text, text_key

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables."""
    _interventions()
    _actuations()
    op.create_table(
        "edges",
        text_key("edge_id"),
        long("source_key"),
        long("target_key"),
        text("tenant"),
        text("issuer"),
        text("kind"),
        text("source"),
        text("target"),
        long("first_ms"),
        long("last_ms"),
        sa.Column("risk", sa.Float(53), nullable=False),
        long("risk_ms"),
    )
    op.create_index("ix_edges_source", "edges", ["source_key", "kind"])
    op.create_index("ix_edges_target", "edges", ["target_key", "kind"])
    op.create_index("ix_edges_time", "edges", ["last_ms"])


def _interventions() -> None:
    op.create_table(
        "interventions",
        text_key("intervention_id"),
        text("kind"),
        text("status"),
        long("agent_key"),
        text("tenant"),
        text("issuer"),
        text("agent_id"),
        small("level"),
        text("asked_why"),
        text("asked_by"),
        long("asked_ms"),
        text("decided_by"),
        long("decided_ms"),
        text("why"),
        long("expires_ms"),
        long("updated_ms"),
        blob("scopes"),
    )
    op.create_index("ix_interventions_updated", "interventions", ["updated_ms"])
    op.create_index("ix_interventions_open", "interventions", ["status", "expires_ms"])
    op.create_index("ix_interventions_agent", "interventions", ["agent_key", "kind", "status"])
    op.create_index("ix_interventions_time", "interventions", ["asked_ms", "intervention_id"])


def _actuations() -> None:
    op.create_table(
        "actuations",
        text_key("target"),
        integer_key("agent_key"),
        text("tenant"),
        text("issuer"),
        text("agent_id"),
        long("version"),
        text("status"),
        long("caused_ms"),
        long("wanted_ms"),
        long("confirmed_ms"),
        long("updated_ms"),
        text("error"),
        blob("desired"),
        blob("original"),
    )
    op.create_index("ix_actuations_agent", "actuations", ["agent_key"])
    op.create_index("ix_actuations_time", "actuations", ["updated_ms", "target", "agent_key"])
