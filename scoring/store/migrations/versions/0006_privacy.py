"""Privacy: the chain of decisions, erasures and their proofs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_LINK = ("chain_salt", "chain_content", "chain_previous", "chain_digest", "erasure_id", "redacted")


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _long(name: str, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def upgrade() -> None:
    """Create the tables; the chain begins with the next decision."""
    op.add_column("decisions", _long("chain_sequence", "0"))
    for name in _LINK:
        op.add_column("decisions", _text(name, ""))
    op.create_index("ix_decisions_chain", "decisions", ["partition", "chain_sequence"])
    op.create_table(
        "decision_chains",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        _long("sequence"),
        _text("digest"),
        _long("anchor_sequence"),
        _text("anchor_digest"),
    )
    op.create_table(
        "erasures",
        sa.Column("erasure_id", _TEXT, primary_key=True),
        *(_text(name) for name in ("kind", "status", "tenant", "issuer", "subject", "subject_salt")),
        *(_text(name) for name in ("subject_digest", "reason", "asked_by")),
        *(_long(name) for name in ("asked_ms", "at_offset", "at_ms")),
        sa.Column("rounds", sa.Integer, nullable=False),
        _text("error"),
        *(_long(name) for name in ("updated_ms", "done_ms")),
        sa.Column("counts", sa.LargeBinary, nullable=False),
        sa.Column("proof", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_erasures_time", "erasures", ["asked_ms", "erasure_id"])
    op.create_table("forgotten", sa.Column("mark", _TEXT, primary_key=True), _long("at_ms"))
