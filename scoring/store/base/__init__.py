"""The seam of the store: what the pipeline, the edge and the dispatcher ask of a database.

Every method may raise Unavailable (nothing was written, the same call may succeed later). Every method blocks: an event
loop calls it in a thread. One store may be used from several threads at once. *tenants* is what the caller may see;
None = all. Floats must be finite. Pages hold at most `MAX_PAGE` items.

One module for each area, with the SQL of it in the module of the same name one folder up.
"""

from .containment import ContainmentStore
from .deliveries import DeliveryRoute, DeliverySettlement, LeasedDelivery, OutboxStore
from .feedback import FeedbackStore
from .models import ModelStore
from .paging import MAX_PAGE, Page, Tenants
from .reads import AgentQuery, DeadLetterCounts, ReadStore, StoredDeadLetter
from .state import CommitResult, DueAgent, StateStore, VersionedAgent
from .store import PurgeCounts, Store

__all__ = [
    "MAX_PAGE",
    "AgentQuery",
    "CommitResult",
    "ContainmentStore",
    "DeadLetterCounts",
    "DeliveryRoute",
    "DeliverySettlement",
    "DueAgent",
    "FeedbackStore",
    "LeasedDelivery",
    "ModelStore",
    "OutboxStore",
    "Page",
    "PurgeCounts",
    "ReadStore",
    "StateStore",
    "Store",
    "StoredDeadLetter",
    "Tenants",
    "VersionedAgent",
]
