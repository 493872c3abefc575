"""Tables of what leaves: the outbox, what became of its rows at each target, targets that were stopped."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, SmallInteger, Table

from ..text import TEXT
from .columns import METADATA, ROW_ID, integer_column, text_column

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("seq", ROW_ID, primary_key=True),
    Column("key", TEXT, nullable=False, unique=True),
    text_column("kind"),
    text_column("target"),
    text_column("tenant"),
    integer_column("created_ms"),
    integer_column("agent_key"),
    text_column("group"),
    Column("level", SmallInteger, nullable=False),
    Column("routed_ms", BigInteger, nullable=False, server_default="0"),
    Column("payload", LargeBinary, nullable=False),
    Index("ix_outbox_routed", "routed_ms", "seq"),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("seq", ROW_ID, ForeignKey("outbox.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("target", TEXT, primary_key=True),
    text_column("status"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    integer_column("queued_ms"),
    integer_column("next_attempt_ms"),
    text_column("last_error", ""),
    Column("delivered_ms", BigInteger, nullable=False, server_default="0"),
    Column("suppressed_before", Integer, nullable=False, server_default="0"),
    integer_column("agent_key"),
    text_column("group"),
    Index("ix_deliveries_due", "target", "status", "next_attempt_ms"),
    Index("ix_deliveries_status", "status", "queued_ms"),
    Index("ix_deliveries_cooldown", "target", "agent_key", "group", "seq"),
)

TARGET_STOPS = Table(
    "target_stops",
    METADATA,
    Column("name", TEXT, primary_key=True),
    text_column("fingerprint"),
    integer_column("stopped_ms"),
    text_column("reason"),
)
