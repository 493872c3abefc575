"""Operators' settings of the engine: how much evidence is how much risk."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from ...ingest.settings import SettingsPart, setting

PER_AGENT_DAYS = "false alerts accepted per 1,000 agent-days and peer group"
MAX_BUDGET = 1000.0
"""Largest budget that can be set: an alert per agent and day."""


class AlertBudget(SettingsPart, frozen=True):
    """The false alerts an operator accepts; thresholds are derived from it."""

    medium: Annotated[float, setting(f"`medium`: {PER_AGENT_DAYS}", gt=0, le=MAX_BUDGET)] = 20.0
    high: Annotated[float, setting(f"`high`: {PER_AGENT_DAYS}", gt=0, le=MAX_BUDGET)] = 5.0
    critical: Annotated[float, setting(f"`critical`: {PER_AGENT_DAYS}", gt=0, le=MAX_BUDGET)] = 1.0

    def __post_init__(self) -> None:
        accepted = msgspec.structs.astuple(self)
        if not all(0.0 < alerts < math.inf for alerts in accepted):
            raise ValueError(f"alert budgets must be positive and finite, are {accepted}")
        if not self.critical <= self.high <= self.medium:
            raise ValueError("a higher level needs a budget that is no larger: critical <= high <= medium")

    def by_level(self) -> dict[str, float]:
        """Accepted alerts by the word of their level, from medium on."""
        return {name: float(alerts) for name, alerts in msgspec.structs.asdict(self).items()}

    def scaled(self, factor: float) -> AlertBudget:
        """The same times *factor*, nothing above what can be set."""
        return AlertBudget(*(min(alerts * factor, MAX_BUDGET) for alerts in msgspec.structs.astuple(self)))
