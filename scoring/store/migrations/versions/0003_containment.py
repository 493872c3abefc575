"""Containment: interventions of people, actuations, and delegation between agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=True)


def upgrade() -> None:
    """Create the tables."""
    _interventions()
    _actuations()
    op.create_table(
        "edges",
        _key("edge_id"),
        _long("source_key"),
        _long("target_key"),
        _text("tenant"),
        _text("issuer"),
        _text("kind"),
        _text("source"),
        _text("target"),
        _long("first_ms"),
        _long("last_ms"),
        sa.Column("risk", sa.Float(53), nullable=False),
        _long("risk_ms"),
    )
    op.create_index("ix_edges_source", "edges", ["source_key", "kind"])
    op.create_index("ix_edges_target", "edges", ["target_key", "kind"])
    op.create_index("ix_edges_time", "edges", ["last_ms"])


def _interventions() -> None:
    op.create_table(
        "interventions",
        _key("intervention_id"),
        _text("kind"),
        _text("status"),
        _long("agent_key"),
        _text("tenant"),
        _text("issuer"),
        _text("agent_id"),
        sa.Column("level", sa.SmallInteger, nullable=False),
        _text("asked_why"),
        _text("asked_by"),
        _long("asked_ms"),
        _text("decided_by"),
        _long("decided_ms"),
        _text("why"),
        _long("expires_ms"),
        _long("updated_ms"),
        _blob("scopes"),
    )
    op.create_index("ix_interventions_updated", "interventions", ["updated_ms"])
    op.create_index("ix_interventions_open", "interventions", ["status", "expires_ms"])
    op.create_index("ix_interventions_agent", "interventions", ["agent_key", "kind", "status"])
    op.create_index("ix_interventions_time", "interventions", ["asked_ms", "intervention_id"])


def _actuations() -> None:
    op.create_table(
        "actuations",
        _key("target"),
        sa.Column("agent_key", sa.BigInteger, primary_key=True, autoincrement=False),
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
        _blob("desired"),
        _blob("original"),
    )
    op.create_index("ix_actuations_agent", "actuations", ["agent_key"])
    op.create_index("ix_actuations_time", "actuations", ["updated_ms", "target", "agent_key"])
