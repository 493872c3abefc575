"""Privacy: the chain of decisions, erasures and their proofs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from trustwatch.scoring.store.migrations.columns import blob, integer, integer_key, long, text, text_key

revision = "0006"
down_revision = "0005"

_LINK = ("chain_salt", "chain_content", "chain_previous", "chain_digest", "erasure_id", "redacted")


def upgrade() -> None:
    """Create the tables; the chain begins with the next decision."""
    op.add_column("decisions", long("chain_sequence", "0"))
    for name in _LINK:
        op.add_column("decisions", text(name, ""))
    op.create_index("ix_decisions_chain", "decisions", ["partition", "chain_sequence"])
    op.create_table(
        "decision_chains",
        integer_key("partition", sa.Integer),
        long("sequence"),
        text("digest"),
        long("anchor_sequence"),
        text("anchor_digest"),
    )
    op.create_table(
        "erasures",
        text_key("erasure_id"),
        *(text(name) for name in ("kind", "status", "tenant", "issuer", "subject", "subject_salt")),
        *(text(name) for name in ("subject_digest", "reason", "asked_by")),
        *(long(name) for name in ("asked_ms", "at_offset", "at_ms")),
        integer("rounds"),
        text("error"),
        *(long(name) for name in ("updated_ms", "done_ms")),
        blob("counts"),
        blob("proof"),
    )
    op.create_index("ix_erasures_time", "erasures", ["asked_ms", "erasure_id"])
    op.create_table("forgotten", text_key("mark"), long("at_ms"))
