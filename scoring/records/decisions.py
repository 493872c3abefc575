"""Decisions about agents, and their reasons."""

from __future__ import annotations

from typing import Any

import msgspec

from .agents import AgentName
from .indicators import Indicator, indicators_of_plain

DECISION_CAUSES = ("event", "tick", "release", "feedback")
"""Causes of a change of level."""


class RiskReason(msgspec.Struct, frozen=True):
    """Reason of a change of risk: one feature or hard signal, with what was seen and what is usual."""

    code: str
    feature: str
    observed: str
    usual: str
    contribution: float
    text: str


class Decision(msgspec.Struct, frozen=True):
    """A change of level: append-only, and enough to replay it.

    `evidence` is what the risk kernel saw, by these keys: `statistic`, `events` and `thresholds` (by level), and where
    an event brought the change `gain`, `prior` (the statistic before it), `signals` (codes of hard signals),
    `left_aside` (features that had counted before, if any), `target_evidence` (decades, of a target that nobody named,
    if any), `new_network_p` (share of days on which a new network is expected, if the event had one), `concerns`
    (p-value of what was judged, by concern) and `statistics` (after it, by concern), of a rise
    `indicators`. Statistic, thresholds, gain and prior are those of the gravest of them; `concern` is what the risk is
    about.
    """

    decision_id: str
    agent: AgentName
    agent_type: str
    decided_ms: int
    event_id: str  # "" when time alone changed the level
    event_time_ms: int
    previous_level: int
    level: int
    risk_score: float
    confidence: float
    anomaly_score: float
    p_value: float
    reasons: tuple[RiskReason, ...]
    counterfactual: str
    feature_vector: dict[str, float]
    evidence: dict[str, Any]  # inputs of the risk kernel, see below
    model_version: str
    baseline_version: str
    policy_version: str
    mode: str  # shadow | enforce
    cause: str  # of DECISION_CAUSES
    partition: int
    offset: int

    @property
    def concern(self) -> str:
        """Concern that the level is about, or was; "" for levels below medium, and decisions of before concerns."""
        concern = self.evidence.get("concern")
        return concern if isinstance(concern, str) else ""

    @property
    def indicators(self) -> tuple[Indicator, ...]:
        """Indicators of the events that raised the agent; none where it did not rise."""
        return indicators_of_plain(self.evidence.get("indicators"))
