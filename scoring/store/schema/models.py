"""Tables of models: versions, their history, where each came into force, what groups did day by day."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table

from ..text import TEXT
from .columns import METADATA, integer_column, text_column

MODEL_VERSIONS = Table(
    "model_versions",
    METADATA,
    Column("version", TEXT, primary_key=True),
    text_column("status"),
    text_column("digest"),
    integer_column("from_ms"),
    integer_column("to_ms"),
    integer_column("created_ms"),
    integer_column("promoted_ms"),
    integer_column("changed_ms"),
    integer_column("counted_from"),
    Column("trained", LargeBinary, nullable=False),
    Column("figures", LargeBinary, nullable=False),
    Index("ix_model_versions_status", "status"),
    Index("ix_model_versions_time", "created_ms", "version"),
)

MODEL_HISTORY = Table(
    "model_history",
    METADATA,
    Column("entry_id", TEXT, primary_key=True),
    integer_column("at_ms"),
    text_column("version"),
    text_column("act"),
    text_column("by"),
    text_column("why"),
    Column("detail", LargeBinary, nullable=False),
    Index("ix_model_history_time", "at_ms", "entry_id"),
)

MODEL_SWITCHES = Table(
    "model_switches",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    text_column("version"),
    text_column("digest"),
    text_column("installed"),
    integer_column("at_ms"),
)

MODEL_DAYS = Table(
    "model_days",
    METADATA,
    Column("version", TEXT, primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tenant", TEXT, primary_key=True),
    Column("agent_type", TEXT, primary_key=True),
    integer_column("events"),
    integer_column("agent_days"),
    Column("alerts", LargeBinary, nullable=False),
    Column("p_values", LargeBinary, nullable=False),
    Column("drift", LargeBinary, nullable=False),
    Index("ix_model_days_day", "day"),
)
