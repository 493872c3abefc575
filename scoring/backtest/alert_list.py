"""The alerts of a back-test one by one: who, when, how odd. The sums are made of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.features import layout
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.detector import FAMILIAR_EVENTS

from ..engine import risk
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..records.agents import AgentIdentity, RiskLevel


class BacktestAlert(NamedTuple):
    """An event that brought its agent from level *before* up to *level*, medium or above.

    *newcomer*: the model's history has too little of the agent to be compared with its own.
    """

    at_ms: int
    agent: AgentIdentity
    agent_type: str
    event_id: str
    before: int
    level: int
    concern: str
    risk_score: float
    p_value: float
    newcomer: bool

    def counts_at(self, level: int) -> bool:
        """True if it is one of the alerts of *level*."""
        return self.before < level <= self.level


def find_alerts(scored: ScoredBatch, agents: ResidentAgents, counted: npt.NDArray[np.bool_]) -> list[BacktestAlert]:
    """Alerts among the rows of a batch that are *counted*, right after it was applied."""
    before, after = scored.risk[:, risk.LEVEL_BEFORE], scored.levels[:, 1]
    return [
        _alert_of(row, scored, agents)
        for row in np.flatnonzero(counted & (after >= RiskLevel.MEDIUM) & (after > before)).tolist()
    ]


def _alert_of(row: int, scored: ScoredBatch, agents: ResidentAgents) -> BacktestAlert:
    event = scored.columns.events[row]
    return BacktestAlert(
        int(scored.columns.time_ms[row]),
        (event.tenant or "", event.agent.issuer or "", event.agent.id),
        scored.type_at(row, agents.types),
        event.id or "",
        int(scored.risk[row, risk.LEVEL_BEFORE]),
        int(scored.levels[row, 1]),
        CONCERNS[int(scored.risk[row, risk.CONCERN])],
        float(scored.risk_scores[row]),
        float(scored.p_values[row]),
        bool(scored.agent_numbers[row, layout.N_SHARED] < FAMILIAR_EVENTS),
    )
