"""Attack scenarios by name. To add one: a module with a `AttackScenario`, a line here, a test of what its name says."""

from __future__ import annotations

from .base import AttackContext, AttackScenario
from .confused_deputy import CONFUSED_DEPUTY
from .dormant_awakening import DORMANT_AWAKENING
from .exfiltration import EXFILTRATION
from .pace import BURST, RUNAWAY_LOOP, SLOW_RAMP
from .scope_creep import SCOPE_CREEP
from .stolen_credential import STOLEN_CREDENTIAL

SCENARIOS: dict[str, AttackScenario] = {
    scenario.name: scenario
    for scenario in (
        EXFILTRATION,
        STOLEN_CREDENTIAL,
        SCOPE_CREEP,
        BURST,
        SLOW_RAMP,
        CONFUSED_DEPUTY,
        DORMANT_AWAKENING,
        RUNAWAY_LOOP,
    )
}

__all__ = ["SCENARIOS", "AttackContext", "AttackScenario"]
