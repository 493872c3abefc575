"""Decisions about agents, and their reasons."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trustwatch.ingest import described
from trustwatch.ingest.described import member
from trustwatch_client.risk_answers import Reason

from .agents import AgentName, Indicator, indicators_of_plain

DECISION_CAUSES = ("event", "tick", "release", "feedback")
"""Causes of a change of level."""

RiskReason = Reason


class Decision(msgspec.Struct, frozen=True):
    """A change of level: append-only, and enough to replay it.

    `evidence` is what the risk kernel saw, by these keys: `statistic`, `events` and `thresholds` (by level), and where
    an event brought the change `gain`, `prior` (the statistic before it), `signals` (codes of hard signals),
    `left_aside` (features that had counted before, if any), `target_evidence` (decades, if no prompt named the target),
    `new_network_p` (share of days on which a new network is expected, if the event had one), `concerns` (p-value of
    what was judged, by concern) and `statistics` (after it, by concern), of a rise
    `indicators`. Statistic, thresholds, gain and prior are those of the gravest of them; `concern` is what the risk is
    about.
    """

    decision_id: described.DecisionId
    agent: AgentName
    agent_type: described.AgentType
    decided_ms: Annotated[int, member("when it was decided")]
    event_id: Annotated[described.EventId, described.NULL]
    event_time_ms: Annotated[int, member("time of the event, or of the change of level if there was no event")]
    previous_level: Annotated[described.Level, member("level before the decision", "medium")]
    level: described.Level
    risk_score: described.RiskScore
    confidence: described.Confidence
    anomaly_score: described.AnomalyScore
    p_value: described.PValue
    reasons: Annotated[tuple[RiskReason, ...], described.REASONS]
    counterfactual: described.Counterfactual
    feature_vector: Annotated[dict[str, float], member("measured features of the event by name", {"pace": 7.1})]
    evidence: Annotated[dict[str, Any], member("inputs of the risk kernel", {"compromise": 9.2})]
    model_version: described.ModelVersionName
    baseline_version: Annotated[str, member("version of the layout of baselines", "7")]
    policy_version: described.PolicyVersion
    mode: Annotated[str, described.MODE]
    cause: Annotated[str, member("what changed the level: an event, time, or a person", "event")]
    partition: Annotated[int, member("partition of the event log", 0)]
    offset: Annotated[int, member("offset in the partition", 154000)]

    @property
    def concern(self) -> Annotated[str, described.CONCERN]:
        """Concern that the level is or was about; "" for levels below medium and decisions from before concerns
        existed."""
        concern = self.evidence.get("concern")
        return concern if isinstance(concern, str) else ""

    @property
    def indicators(self) -> Annotated[tuple[Indicator, ...], described.INDICATORS]:
        """Indicators of the events that raised the level, if it rose."""
        return indicators_of_plain(self.evidence.get("indicators"))
