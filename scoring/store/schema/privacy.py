"""Tables of privacy: wishes to erase, and marks of agents that must not come back."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, Table

from ..text import TEXT
from .columns import METADATA, integer_column, text_column

ERASURES = Table(
    "erasures",
    METADATA,
    Column("erasure_id", TEXT, primary_key=True),
    text_column("kind"),
    text_column("status"),
    text_column("tenant"),
    text_column("issuer"),
    # What is erased: here while the work goes on, empty once it is done.
    text_column("subject"),
    # Salted digest of it, in the words of the proof.
    text_column("subject_salt"),
    text_column("subject_digest"),
    text_column("reason"),
    text_column("asked_by"),
    integer_column("asked_ms"),
    # The record of the log that ended what was known: offset and arrival; -1 = not written yet.
    integer_column("at_offset"),
    integer_column("at_ms"),
    Column("rounds", Integer, nullable=False),
    text_column("error"),
    integer_column("updated_ms"),
    integer_column("done_ms"),
    Column("counts", LargeBinary, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Index("ix_erasures_time", "asked_ms", "erasure_id"),
)

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    # Keyed hash of an agent that must not go on from a model's history.
    Column("mark", TEXT, primary_key=True),
    integer_column("at_ms"),
)
