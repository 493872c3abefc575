"""Tables of privacy: wishes to erase, and marks of agents that must not come back."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, Table

from ..text import TEXT
from .columns import METADATA, long, words

ERASURES = Table(
    "erasures",
    METADATA,
    Column("erasure_id", TEXT, primary_key=True),
    words("kind"),
    words("status"),
    words("tenant"),
    words("issuer"),
    # What is erased: here while the work goes on, empty once it is done.
    words("subject"),
    # Salted digest of it, in the words of the proof.
    words("subject_salt"),
    words("subject_digest"),
    words("reason"),
    words("asked_by"),
    long("asked_ms"),
    # The record of the log that ended what was known: offset and arrival; -1 = not written yet.
    long("at_offset"),
    long("at_ms"),
    Column("rounds", Integer, nullable=False),
    words("error"),
    long("updated_ms"),
    long("done_ms"),
    Column("counts", LargeBinary, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Index("ix_erasures_time", "asked_ms", "erasure_id"),
)

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    # Keyed hash of an agent that must not go on from a model's history.
    Column("mark", TEXT, primary_key=True),
    long("at_ms"),
)
