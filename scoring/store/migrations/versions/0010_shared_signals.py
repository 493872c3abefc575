"""Shared signals: streams of receivers, the subjects they named, security event tokens that wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_STREAM_TEXTS = ("method", "endpoint_url", "authorization", "description", "status", "status_reason")
_STREAM_TIMES = ("failures", "failing_since_ms", "next_push_ms", "verified_ms")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _long(name: str, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def _stream_id(*, primary_key: bool) -> sa.Column[str]:
    reference = sa.ForeignKey("event_streams.stream_id", ondelete="CASCADE")
    return sa.Column("stream_id", _TEXT, reference, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Create the tables. What the outbox holds already is older than every stream, so nothing is derived from it."""
    op.add_column("outbox", _long("derived_ms", "0"))
    op.create_index("ix_outbox_derived", "outbox", ["derived_ms", "seq"])
    op.create_table(
        "event_streams",
        sa.Column("stream_id", _TEXT, primary_key=True),
        _text("owner"),
        _text("audience"),
        _long("created_ms"),
        _long("updated_ms"),
        *(_text(name) for name in _STREAM_TEXTS),
        *(_long(name) for name in _STREAM_TIMES),
        sa.Column("events_requested", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_event_streams_owner", "event_streams", ["owner", "created_ms"])
    op.create_table(
        "stream_subjects",
        _stream_id(primary_key=True),
        sa.Column("digest", _TEXT, primary_key=True),
        _text("owner"),
        sa.Column("wanted", sa.SmallInteger, nullable=False),
        _long("changed_ms"),
        sa.Column("subject", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "security_events",
        sa.Column("seq", _ROW_ID, primary_key=True),
        _stream_id(primary_key=False),
        _text("jti"),
        _long("queued_ms"),
        _long("agent_key"),
        _text("tenant"),
        sa.Column("announces_status", sa.SmallInteger, nullable=False),
        sa.Column("claims", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_security_events_jti", "security_events", ["stream_id", "jti"], unique=True)
    op.create_index("ix_security_events_order", "security_events", ["stream_id", "seq"])
