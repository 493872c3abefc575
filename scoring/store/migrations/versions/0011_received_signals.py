"""Received signals: which security event tokens of others were taken, and which of them count as evidence."""

from __future__ import annotations

from alembic import op

from trustwatch.scoring.store.migrations.columns import long, text, text_key

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "received_signals",
        text_key("transmitter"),
        text_key("digest"),
        long("received_ms"),
    )
    op.create_index("ix_received_signals_time", "received_signals", ["received_ms"])
    op.create_table(
        "signal_statements",
        text_key("transmitter"),
        text_key("statement"),
        text("digest"),
        long("said_ms"),
    )
    op.create_index("ix_signal_statements_time", "signal_statements", ["said_ms"])
