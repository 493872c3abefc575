"""The slices of the service, in the order of their routes: the only list of them. The console comes last, over all."""

from __future__ import annotations

from typing import Final

from ..access.slice import SLICE as ACCESS
from ..acts.slice import SLICE as ACTS
from ..agents.slice import SLICE as AGENTS
from ..alerts.slice import SLICE as ALERTS
from ..archive.slice import SLICE as ARCHIVE
from ..cases.routes import SLICE as CASES
from ..console.slice import SLICE as CONSOLE
from ..decisions.slice import SLICE as DECISIONS
from ..events.slice import SLICE as EVENTS
from ..feedback.routes import SLICE as FEEDBACK
from ..http.slice import Slice
from ..models.routes import SLICE as MODELS
from ..privacy.routes import SLICE as PRIVACY
from ..shared_signals.slice import SLICE as SHARED_SIGNALS

# `/v1/agents/{agent_id}/…` and `/v1/decisions/{decision_id}` take any text: routes with fixed words come before them.
SLICES: Final[tuple[Slice, ...]] = (
    EVENTS,
    ACCESS,
    PRIVACY,
    AGENTS,
    DECISIONS,
    ALERTS,
    FEEDBACK,
    MODELS,
    ARCHIVE,
    SHARED_SIGNALS,
    CASES,
    ACTS,
    CONSOLE,
)
