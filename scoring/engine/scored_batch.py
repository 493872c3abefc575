"""Results of an engine for a batch of events: scores, evidence and levels, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.feature_builder import SlotIndices
from trustwatch.ingest.features.layout import K_FROM
from trustwatch.ingest.features.row_observations import IGNORED_EVENT, LATE_EVENT, OUT_OF_ORDER_EVENT, RowObservations
from trustwatch.models.concerns import ConcernScores
from trustwatch.models.detector import FAMILIAR_EVENTS

from . import risk


class ScoredBatch(NamedTuple):
    """Result of a batch, one row per event in input order."""

    columns: EventColumns
    slots: SlotIndices
    vectors: npt.NDArray[np.float64]  # (n, F)
    observations: RowObservations
    anomaly: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]  # with names that have counted left aside (see `counted`)
    concern_p_values: npt.NDArray[np.float64]  # (n, 3): likewise by concern, as risk rests on them
    concerns: ConcernScores  # of the events by themselves
    effective_concerns: npt.NDArray[np.float64]  # (n, 3): anomaly scores by concern, without what counted
    levels: npt.NDArray[np.int8]  # (n, 2): before and after
    risk: npt.NDArray[np.float64]  # (n, risk.OUTPUTS): see there
    concern_risk: npt.NDArray[np.float64]  # (n, 3, risk.CONCERN_OUTPUTS): see there
    signals: npt.NDArray[np.float64]  # (n, COUNTS): evidence of hard signals, see `hard_signals`
    threshold_rows: npt.NDArray[np.int64]  # row of the thresholds that apply to the event's peer group
    agent_numbers: npt.NDArray[np.float32]  # (n, NUMBERS): what the agent's numbers were when the row was measured
    known_items: npt.NDArray[np.uint8]  # (n, KINDS): likewise its counts of different items
    raw_p_values: npt.NDArray[np.float64]  # (n,): p-values of the single events, as if nothing had counted before
    effective_anomaly: npt.NDArray[np.float64]  # (n,): as anomaly, with names that have counted left aside
    effective_rows: dict[int, npt.NDArray[np.float64]]  # vectors (F,) of rows of which something was left aside
    target_evidence: npt.NDArray[np.float64]  # (n,): decades, of a target that no person named (`told_targets`)
    effective_target_evidence: npt.NDArray[np.float64]  # (n,): likewise, without a target that has counted
    caller_changed: npt.NDArray[np.bool_]  # (n,): a name that says who calls, such as its network, brought evidence
    habits: npt.NDArray[np.int8]  # (n,): `usual_anomalies.USUAL`, `NO_HABIT` or `NEVER_USUAL`
    at_ms: npt.NDArray[np.int64]  # (n,): when each event happened, or arrived if that is later
    announced_paths: npt.NDArray[np.uint8]  # (n,): parts of its path announced before it, a bit each
    types: dict[int, list[tuple[int, str]]]  # by slot: agent types that it took in this batch, from which row on

    def effective_vectors(self, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the vectors (len(rows), F) behind the p-values of *rows*, without what has counted before."""
        vectors = self.vectors[list(rows)]
        for place, row in enumerate(rows):
            if row in self.effective_rows:
                vectors[place] = self.effective_rows[row]
        return vectors

    def type_at(self, row: int, latest: Sequence[str]) -> str:
        """Return the type of a row's agent when the event happened, however often it changed in the batch."""
        slot = int(self.slots[row])
        types = [name for first, name in self.types.get(slot, ()) if first <= row]
        return types[-1] if types else latest[slot]

    def is_familiar(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Flag those *rows* whose agents are well known from the model's history."""
        return np.asarray(self.agent_numbers[list(rows), layout.N_SHARED] >= FAMILIAR_EVENTS)

    @property
    def risk_scores(self) -> npt.NDArray[np.float64]:
        """Risk score of each row's agent after the row, in [0, 1]."""
        return self.risk[:, risk.SCORE]

    @property
    def evidence(self) -> npt.NDArray[np.float64]:
        """Evidence that each row brought, natural log."""
        return self.risk[:, risk.GAIN]

    def is_quiet(self, concerns: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Flag (n,) rows after which no evidence against their agent is left in any of *concerns*."""
        return np.asarray((self.concern_risk[:, concerns, risk.CONCERN_STATISTIC] <= 0.0).all(axis=1))

    @property
    def level_changes(self) -> list[int]:
        """Rows that changed their agent's level."""
        return np.flatnonzero(self.levels[:, 0] != self.levels[:, 1]).tolist()

    @property
    def late_events(self) -> int:
        """Number of events older than one already seen of their agent."""
        return int((self.observations.flags == LATE_EVENT).sum()) + self.out_of_order_events

    @property
    def unordered_events(self) -> int:
        """Number of events that do not count for order, because their agent's events arrive out of order."""
        behaves = self.observations.flags != IGNORED_EVENT
        return int((behaves & (self.observations.items[:, K_FROM] == 0)).sum())

    @property
    def out_of_order_events(self) -> int:
        """Number of events that are late by more than a minute and do not count for pace and order."""
        return int((self.observations.flags == OUT_OF_ORDER_EVENT).sum())
