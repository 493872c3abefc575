"""Tables of the store. The migrations build the same ones; a test compares the two.

Times are UTC milliseconds. Agent keys are unsigned 64-bit numbers stored as signed ones, the only kind databases have.
State blobs stand behind what lists show, so that a reader of those columns never touches their overflow pages; columns
that a migration adds can only stand behind them.
"""

from .columns import METADATA
from .containment import ACTUATIONS, EDGES, INTERVENTIONS
from .deliveries import DELIVERIES, OUTBOX, TARGET_STOPS
from .feedback import FEEDBACK, FEEDBACK_HOLDINGS, FEEDBACK_PREVIEWS, FEEDBACK_STEPS
from .models import MODEL_DAYS, MODEL_HISTORY, MODEL_SWITCHES, MODEL_VERSIONS
from .privacy import ERASURES, FORGOTTEN
from .state import AGENTS, CHAINS, COUNTERS, DEAD_LETTERS, DECISIONS, META, POSITIONS

__all__ = [
    "ACTUATIONS",
    "AGENTS",
    "CHAINS",
    "COUNTERS",
    "DEAD_LETTERS",
    "DECISIONS",
    "DELIVERIES",
    "EDGES",
    "ERASURES",
    "FEEDBACK",
    "FEEDBACK_HOLDINGS",
    "FEEDBACK_PREVIEWS",
    "FEEDBACK_STEPS",
    "FORGOTTEN",
    "INTERVENTIONS",
    "META",
    "METADATA",
    "MODEL_DAYS",
    "MODEL_HISTORY",
    "MODEL_SWITCHES",
    "MODEL_VERSIONS",
    "OUTBOX",
    "POSITIONS",
    "TARGET_STOPS",
]
