"""The seam of the store: what the pipeline, the edge and the dispatcher ask of a database.

Every method may raise Unavailable (nothing was written, the same call may succeed later). Every method blocks: an event
loop calls it in a thread. One store may be used from several threads at once. *tenants* is what the caller may see;
None = all. Floats must be finite. Pages hold at most `MAX_PAGE` items.

One module for each area, with the SQL of it in the module of the same name one folder up.
"""

from .containment import ContainmentStore
from .deliveries import OutboxStore, Outgoing, Route, Settlement
from .feedback import FeedbackStore
from .models import ModelStore
from .paging import MAX_PAGE, Page, Tenants
from .reads import AgentQuery, LetterCounts, ReadStore, StoredLetter
from .state import CommitResult, Due, StateStore, VersionedAgent
from .store import Purged, Store

__all__ = [
    "MAX_PAGE",
    "AgentQuery",
    "CommitResult",
    "ContainmentStore",
    "Due",
    "FeedbackStore",
    "LetterCounts",
    "ModelStore",
    "OutboxStore",
    "Outgoing",
    "Page",
    "Purged",
    "ReadStore",
    "Route",
    "Settlement",
    "StateStore",
    "Store",
    "StoredLetter",
    "Tenants",
    "VersionedAgent",
]
