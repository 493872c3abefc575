"""Shared signals: streams of receivers, the subjects they named, security event tokens that wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import ROW_ID, TEXT, blob, long, small, text, text_key

revision = "0010"
down_revision = "0009"

_STREAM_TEXTS = ("method", "endpoint_url", "authorization", "description", "status", "status_reason")
_STREAM_TIMES = ("failures", "failing_since_ms", "next_push_ms", "verified_ms")


def _stream_id(*, primary_key: bool) -> sa.Column[str]:
    reference = sa.ForeignKey("event_streams.stream_id", ondelete="CASCADE")
    return sa.Column("stream_id", TEXT, reference, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Create the tables. What the outbox holds already is older than every stream, so nothing is derived from it."""
    op.add_column("outbox", long("derived_ms", "0"))
    op.create_index("ix_outbox_derived", "outbox", ["derived_ms", "seq"])
    op.create_table(
        "event_streams",
        text_key("stream_id"),
        text("owner"),
        text("audience"),
        long("created_ms"),
        long("updated_ms"),
        *(text(name) for name in _STREAM_TEXTS),
        *(long(name) for name in _STREAM_TIMES),
        blob("events_requested"),
    )
    op.create_index("ix_event_streams_owner", "event_streams", ["owner", "created_ms"])
    op.create_table(
        "stream_subjects",
        _stream_id(primary_key=True),
        text_key("digest"),
        text("owner"),
        small("wanted"),
        long("changed_ms"),
        blob("subject"),
    )
    op.create_table(
        "security_events",
        sa.Column("seq", ROW_ID, primary_key=True),
        _stream_id(primary_key=False),
        text("jti"),
        long("queued_ms"),
        long("agent_key"),
        text("tenant"),
        small("announces_status"),
        blob("claims"),
    )
    op.create_index("ix_security_events_jti", "security_events", ["stream_id", "jti"], unique=True)
    op.create_index("ix_security_events_order", "security_events", ["stream_id", "seq"])
