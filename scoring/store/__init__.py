"""Durable state of the scoring layer, and the only importer of SQLAlchemy and Alembic."""

from .base import (
    MAX_PAGE,
    AgentQuery,
    CommitResult,
    Due,
    LetterCounts,
    OutboxStore,
    Outgoing,
    Page,
    Purged,
    ReadStore,
    Route,
    Settlement,
    StateStore,
    Store,
    StoredLetter,
    VersionedAgent,
)
from .errors import BadCursor, StoreTooNew
from .readonly import open_reading_store
from .sql import SqlStore, open_store, sqlite_url

__all__ = [
    "MAX_PAGE",
    "AgentQuery",
    "BadCursor",
    "CommitResult",
    "Due",
    "LetterCounts",
    "OutboxStore",
    "Outgoing",
    "Page",
    "Purged",
    "ReadStore",
    "Route",
    "Settlement",
    "SqlStore",
    "StateStore",
    "Store",
    "StoreTooNew",
    "StoredLetter",
    "VersionedAgent",
    "open_reading_store",
    "open_store",
    "sqlite_url",
]
