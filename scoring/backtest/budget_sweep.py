"""Other alert budgets: the p-values of one run through the risk kernel again, under the thresholds of each budget.

It costs a fraction of another run and is exact but for one thing: what the run did not learn, because its own budget
found it suspicious, it did not learn for the others either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns, full_name
from trustwatch.ingest.features.row_observations import IGNORED_EVENT
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..engine import level_thresholds, risk, risk_levels, usual_oddness
from ..engine.resident_agents import ResidentAgents
from ..engine.scored_batch import ScoredBatch
from ..engine.settings import AlertBudget, RiskEvaluationSettings
from ..records.agents import ALERTING_LEVELS, AgentIdentity


class BudgetSweep:
    """Alerts at several budgets.

    Args:
        model, settings: of the run.
        budgets: to try.
    """

    def __init__(self, model: TrainedModel, settings: RiskEvaluationSettings, budgets: Sequence[AlertBudget]) -> None:
        self._model = model
        self._parameters = risk_levels.kernel_parameters(settings)
        self._thresholds = [level_thresholds.model_thresholds(model, budget) for budget in budgets]
        self._states = [risk_levels.allocate(0) for _ in budgets]
        self._agent_rows: dict[int, int] = {}
        self._threshold_rows = np.zeros(0, np.int64)  # row of the thresholds of each agent's peer group
        self.rises = np.zeros((len(budgets), len(ALERTING_LEVELS)), np.int64)

    def apply_batch(self, scored: ScoredBatch, agents: ResidentAgents, counted: npt.NDArray[np.bool_]) -> None:
        """Apply a batch at every budget; rows that are not *counted* bool (n,) move state alone."""
        columns, n = scored.columns, len(scored.columns)
        places = self._rows_of_agents(columns)
        self._threshold_rows[places] = agents.threshold_rows[scored.slots]
        coverage = self._model.coverage(columns.names[:, event_columns.GROUP])
        levels, out = np.zeros((n, 2), np.int8), np.zeros((n, risk.OUTPUTS))
        by_concern = np.zeros((n, len(CONCERNS), risk.CONCERN_OUTPUTS))
        rows, skip = np.arange(n), scored.observations.flags == IGNORED_EVENT
        for at, (bounds, state) in enumerate(zip(self._thresholds, self._states, strict=True)):
            risk.update(
                rows,
                places,
                state,
                columns.time_ms,
                scored.concern_p_values,
                scored.p_values,
                scored.anomaly,
                coverage,
                scored.signals,
                bounds,
                scored.threshold_rows,
                columns.codes[:, event_columns.SELF_ASSERTED],
                skip,
                scored.habits,
                self._parameters,
                levels,
                out,
                by_concern,
            )
            self.rises[at] += risk_levels.count_rises(out[counted, risk.LEVEL_BEFORE], levels[counted, 1])

    def advance_time(self, now_ms: int) -> None:
        """Let time pass, as in the run, behind the batch that was seen last."""
        for bounds, state in zip(self._thresholds, self._states, strict=True):
            due = np.flatnonzero((state["due_ms"] != 0) & (state["due_ms"] <= now_ms))
            levels = np.zeros((len(due), 2), np.int8)
            risk_levels.advance(
                due.astype(np.int32), state, bounds, self._threshold_rows, now_ms, self._parameters, levels
            )

    def _rows_of_agents(self, columns: EventColumns) -> npt.NDArray[np.int32]:
        """Row of each agent in the states; agents that are new here begin as the model's history left them."""
        agents, acting, inverse = np.unique(
            columns.names[:, event_columns.AGENT], return_index=True, return_inverse=True
        )
        row_by_agent = self._agent_rows
        first = len(row_by_agent)
        rows = [row_by_agent.setdefault(key, len(row_by_agent)) for key in agents.tolist()]
        if len(row_by_agent) > first:
            fresh = [at for at, row in zip(acting.tolist(), rows, strict=True) if row >= first]
            self._seed_agents([full_name(columns.events[at]) for at in fresh], first)
        return np.array(rows, np.int32)[inverse]

    def _seed_agents(self, names: Sequence[AgentIdentity], first: int) -> None:
        seeds, identities = self._model.seeds, IdentityHasher(self._model.salt)
        at = seeds.find([identities.agent_hash(*name) for name in names])
        places = first + np.flatnonzero(at >= 0)
        if len(self._threshold_rows) < first + len(names):
            self._threshold_rows = np.resize(self._threshold_rows, 2 * (first + len(names)))
        for position, state in enumerate(self._states):
            if len(state) < first + len(names):
                grown = risk_levels.allocate(2 * (first + len(names)))
                grown[:first] = state[:first]
                self._states[position] = state = grown
            risk_levels.seed(state, places, seeds.events[at[at >= 0]], self._parameters)
            usual_oddness.seed(
                state, places, seeds.odd[at[at >= 0]], seeds.rehearsed[at[at >= 0]], self._model.window_ms[1]
            )
