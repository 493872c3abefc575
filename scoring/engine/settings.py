"""Operators' settings of the engine: how much evidence is how much risk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

import msgspec

from trustwatch.ingest.settings import Name, SettingsPart, setting
from trustwatch.models.call_challenges import MAX_CHALLENGED
from trustwatch_client.events import Effect

from .hard_signals import hard_signal_codes

AlertLevel = Literal["medium", "high", "critical"]
MAX_BUDGET = 1000
"""Largest budget that can be set: an alert per agent and day."""
AcceptedAlerts = Annotated[float, msgspec.Meta(gt=0, le=MAX_BUDGET)]


class AlertBudget(SettingsPart, frozen=True):
    """The false alerts that an operator accepts. Thresholds follow from it."""

    medium: float = 20.0
    high: float = 5.0
    critical: float = 1.0

    def __post_init__(self) -> None:
        accepted = msgspec.structs.astuple(self)
        if not all(0.0 < alerts < math.inf for alerts in accepted):
            raise ValueError(f"alert budgets must be positive and finite, are {accepted}")
        if not self.critical <= self.high <= self.medium:
            raise ValueError(
                "`alert_budget`: a higher level needs a budget that is not larger: critical <= high <= medium"
            )

    def by_level(self) -> dict[Any, float]:
        """Return the accepted alerts by the name of their level, from medium on."""
        return {name: float(alerts) for name, alerts in msgspec.structs.asdict(self).items()}

    def scaled(self, factor: float) -> AlertBudget:
        """Return the budget times *factor*, up to the largest that can be set."""
        return AlertBudget(*(min(alerts * factor, MAX_BUDGET) for alerts in msgspec.structs.astuple(self)))


AcceptedCalls = Annotated[float, msgspec.Meta(ge=0, le=MAX_CHALLENGED)]
ChallengeBudget = Mapping[Effect, AcceptedCalls]
"""The honest calls that may wait for a person, by effect; thresholds of call verdicts are derived from it."""
USUAL_CHALLENGES = 10.0
"""Calls of 1,000 that may wait if the budget does not name their effect."""


def accepted_challenges(budget: ChallengeBudget, effect: str) -> float:
    """Calls of an effect that may wait, of 1,000."""
    return budget.get(cast("Effect", effect), USUAL_CHALLENGES)


class RiskEvaluationSettings(SettingsPart, frozen=True):
    """Settings that turn evidence into levels."""

    alert_budget: Annotated[
        Mapping[AlertLevel, AcceptedAlerts],
        setting(
            "false alerts accepted per 1,000 agent-days and peer group, by level; one that is not named has its default"
        ),
    ] = msgspec.field(default_factory=lambda: AlertBudget().by_level())
    challenge_budget: Annotated[
        Mapping[Effect, AcceptedCalls],
        setting(
            "calls that may wait for a person, of 1,000, by effect; one that is not named has its default, 0 is none"
        ),
    ] = msgspec.field(default_factory=lambda: dict.fromkeys(get_args(Effect), USUAL_CHALLENGES))
    half_life_s: Annotated[float, setting("half-life of the displayed risk, s", gt=0)] = 3600.0
    hold_s: Annotated[float, setting("longest time an agent stays `critical` without a person, s", gt=0)] = 86_400.0
    disabled_signals: Annotated[tuple[Name, ...], setting("names of hard signals that are off")] = ()
    sensitive_types: Annotated[
        tuple[Name, ...],
        setting("`resource.type` of sensitive answers; active from the next training on"),
    ] = ()

    @property
    def budget(self) -> AlertBudget:
        """`alert_budget` with what it does not name. Raises ValueError: a higher level has a larger one."""
        return AlertBudget(**{str(level): alerts for level, alerts in self.alert_budget.items()})

    def __post_init__(self) -> None:
        _ = self.budget  # raises for one that grows with the level
        unknown = [name for name in self.disabled_signals if name not in hard_signal_codes()]
        if unknown:
            signals = ", ".join(hard_signal_codes())
            raise ValueError(f"`disabled_signals`: no such hard signal: {', '.join(unknown)}; there are {signals}")
