"""Durable state of the scoring layer, and the only importer of SQLAlchemy and Alembic."""

from .base import (
    MAX_PAGE,
    AgentQuery,
    CommitResult,
    DeadLetterCounts,
    DeliveryRoute,
    DeliverySettlement,
    DueAgent,
    LeasedDelivery,
    OutboxStore,
    Page,
    PurgeCounts,
    ReadStore,
    StateStore,
    Store,
    StoredDeadLetter,
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
    "DeadLetterCounts",
    "DeliveryRoute",
    "DeliverySettlement",
    "DueAgent",
    "LeasedDelivery",
    "OutboxStore",
    "Page",
    "PurgeCounts",
    "ReadStore",
    "SqlStore",
    "StateStore",
    "Store",
    "StoreTooNew",
    "StoredDeadLetter",
    "VersionedAgent",
    "open_reading_store",
    "open_store",
    "sqlite_url",
]
