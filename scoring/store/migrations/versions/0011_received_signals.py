"""Received signals: which security event tokens of others were taken, so that none is taken twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "received_signals",
        sa.Column("transmitter", _TEXT, primary_key=True),
        sa.Column("digest", _TEXT, primary_key=True),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("statement", _TEXT, nullable=False),
    )
    op.create_index("ix_received_signals_time", "received_signals", ["received_ms"])
    op.create_index("ix_received_signals_statement", "received_signals", ["transmitter", "statement", "received_ms"])
