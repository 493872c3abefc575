"""Received signals: which security event tokens of others were taken, and which of them count as evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "received_signals",
        sa.Column("transmitter", _TEXT, primary_key=True),
        sa.Column("digest", _TEXT, primary_key=True),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_received_signals_time", "received_signals", ["received_ms"])
    op.create_table(
        "signal_statements",
        sa.Column("transmitter", _TEXT, primary_key=True),
        sa.Column("statement", _TEXT, primary_key=True),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("said_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_signal_statements_time", "signal_statements", ["said_ms"])
