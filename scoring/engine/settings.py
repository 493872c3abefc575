"""Operators' settings of the engine: how much evidence is how much risk."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from trustwatch.ingest.settings import Name, SettingsPart, setting
from trustwatch.models.call_challenges import MAX_CHALLENGED

from .hard_signals import hard_signal_codes

PER_AGENT_DAYS = "false alerts per 1,000 agent-days and peer group"
MAX_BUDGET = 1000
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


PER_CALLS = "that may wait for a person, of 1,000"


class ChallengeBudget(SettingsPart, frozen=True):
    """The honest calls that may wait for a person, by effect; thresholds of call verdicts are derived from it."""

    read: Annotated[float, setting(f"reading calls {PER_CALLS}", ge=0, le=MAX_CHALLENGED)] = 10.0
    write: Annotated[float, setting(f"writing calls {PER_CALLS}", ge=0, le=MAX_CHALLENGED)] = 10.0
    delete: Annotated[float, setting(f"deleting calls {PER_CALLS}", ge=0, le=MAX_CHALLENGED)] = 10.0
    admin: Annotated[float, setting(f"administrative calls {PER_CALLS}", ge=0, le=MAX_CHALLENGED)] = 10.0
    unknown: Annotated[float, setting(f"calls of unknown effect {PER_CALLS}", ge=0, le=MAX_CHALLENGED)] = 10.0

    def of_effect(self, effect: str) -> float:
        """Calls of an effect that may wait, of 1,000."""
        return float(getattr(self, effect))


class RiskEvaluationSettings(SettingsPart, frozen=True):
    """Settings of the way from evidence to levels."""

    alert_budget: Annotated[AlertBudget, setting("false alerts accepted per level")] = AlertBudget()
    challenge_budget: Annotated[ChallengeBudget, setting("calls that may wait for a person, per effect")] = (
        ChallengeBudget()
    )
    half_life_s: Annotated[float, setting("half-life of the displayed risk, s", gt=0)] = 3600.0
    hold_s: Annotated[float, setting("longest time an agent stays `critical` without a person, s", gt=0)] = 86_400.0
    disabled_signals: Annotated[tuple[Name, ...], setting("names of hard signals that are off")] = ()
    sensitive_types: Annotated[
        tuple[Name, ...],
        setting("`resource.type` of sensitive answers; active from the next training on"),
    ] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.disabled_signals if name not in hard_signal_codes()]
        if unknown:
            signals = ", ".join(hard_signal_codes())
            raise ValueError(f"`disabled_signals`: no such hard signal: {', '.join(unknown)}; there are {signals}")
