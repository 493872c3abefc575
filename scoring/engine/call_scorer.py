"""Scores of calls before they are made, in memory: what the model knows, and nothing of the agent's present session.

A question leaves no trace. It is measured in the one slot of a feature builder of its own, which is filled from the
model's history for each question and never learns; the agent's row in the live pipeline is not touched.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ...ingest import columns as event_columns
from ...ingest.columns import ColumnEncoder, EventColumns, full_name
from ...ingest.errors import ModelError
from ...ingest.events import EFFECTS, NativeEvent
from ...ingest.features.feature_builder import FeatureBuilder
from ...ingest.features.feature_table import ADDED_FEATURES, COMPROMISE_FEATURES, FEATURE_COUNT
from ...ingest.features.feature_vector import F_ARGUMENT
from ...ingest.features.foreign_values import foreign_values
from ...ingest.features.layout import AgentState
from ...ingest.features.row_observations import ACTED_ON, LOOKED_UP, RowObservations, allocate_observations
from ...ingest.identities import IdentityHasher
from ...models.call_challenges import ChallengeThreshold, action_keys, as_asked, asked_evidence, score_calls
from ...models.detector import ForestDetector
from ...models.trained_model import TrainedModel
from ..records.decisions import RiskReason
from .explanations import AgentNumbers, KnownItems, ReasonWriter
from .settings import ChallengeBudget

_ASKED_FEATURES = np.array(COMPROMISE_FEATURES) | np.array(ADDED_FEATURES)
_SESSION_ARRAYS = tuple(name for name in AgentState._fields if name.startswith("session_"))


Vectors = npt.NDArray[np.float64]


class NoCallVerdicts(ModelError):
    """Raised for a model that can score no calls before they are made."""


class CallScore(NamedTuple):
    """How odd a call would be.

    Attributes:
        anomaly_score: of compromise, in [0, 1].
        p_value: of compromise, in (0, 1].
        effect: of the call.
        threshold: what it was compared with; None = the model has none for it.
        known_agent: the model's history shows the agent.
        reasons: the strongest first, where the score is above the threshold; else none.
    """

    anomaly_score: float
    p_value: float
    effect: str
    threshold: ChallengeThreshold | None
    known_agent: bool
    reasons: tuple[RiskReason, ...]

    @property
    def exceeds(self) -> bool:
        """True if a person should look at the call first."""
        return self.threshold is not None and self.anomaly_score > self.threshold.anomaly_score


class CallScorer:
    """Scores one call after the other; safe from any thread.

    Args:
        model: in force.
        budget: the challenges that are accepted.
        domains: those that lie inside each tenant, to tell external targets where a question does not say.

    Raises:
        NoCallVerdicts: the model was trained before there were verdicts on calls.
    """

    def __init__(
        self, model: TrainedModel, budget: ChallengeBudget, domains: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        if model.challenges is None or not isinstance(model.detector, ForestDetector):
            raise NoCallVerdicts(f"model {model.version} was trained before there were verdicts on calls: retrain")
        self.version = model.version
        self._model, self._detector, self._challenges = model, model.detector, model.challenges
        self.thresholds: dict[str, ChallengeThreshold | None] = {
            effect: model.challenges.threshold(effect, budget.of_effect(effect)) for effect in EFFECTS
        }
        self._identities = IdentityHasher(model.salt)
        self._encoder = ColumnEncoder(model.salt, domains)
        self._builder = FeatureBuilder(model.baseline, 1)
        self._reason_writer = ReasonWriter(model.baseline)
        self._slots, self._rows = np.zeros(1, np.int32), np.zeros(1, np.int64)
        self._lock = threading.Lock()

    def score(self, call: NativeEvent) -> CallScore:
        """How odd *call* would be, were it made now. Its outcome and session are not looked at."""
        columns = self._encoder.encode([msgspec.structs.replace(call, outcome="success", session=None)])
        with self._lock:
            known = self._recall_agent(call)
            vectors, observations = np.zeros((1, FEATURE_COUNT)), allocate_observations(1, columns.arguments)
            self._builder.observe(columns, self._slots, self._rows, vectors, observations)
            numbers, known_items = (
                array[0].copy() for array in (self._builder.state.numbers, self._builder.state.known)
            )
        asked = as_asked(vectors, columns.codes)
        new_values = foreign_values(columns, self._rows, self._model.baseline, observations, vectors)
        codes, challenges = columns.codes[:, event_columns.EFFECT], self._challenges
        of_others = challenges.foreign.evidence(action_keys(columns), codes, new_values)
        evidence = asked_evidence(self._detector, asked)
        anomaly = float(score_calls(self._detector, evidence, of_others, columns.names[:, event_columns.GROUP])[0])
        effect = EFFECTS[codes[0]]
        p_value = challenges.p_value(effect, anomaly)
        found = CallScore(anomaly, p_value, effect, self.thresholds[effect], known, ())
        if not found.exceeds:
            return found
        asked[:, F_ARGUMENT] = new_values
        return found._replace(reasons=self._reasons(columns, asked, observations, numbers, known_items))

    def _reasons(
        self,
        columns: EventColumns,
        asked: Vectors,
        observations: RowObservations,
        numbers: AgentNumbers,
        known_items: KnownItems,
    ) -> tuple[RiskReason, ...]:
        """Reasons of a call, the strongest first: of what is evidence of compromise alone."""
        observations.is_foreign[observations.is_foreign == LOOKED_UP] = ACTED_ON  # here both are told alike
        vector = np.where(_ASKED_FEATURES, asked, 0.0)
        shares = self._detector.explain(vector)[0]
        told = vector[0].tolist(), shares.tolist()
        return self._reason_writer.reasons(columns, 0, numbers, known_items, observations, *told, ())

    def _recall_agent(self, call: NativeEvent) -> bool:
        """Fill the one slot with what the history shows of the caller, but for its sessions; False if that is nothing.

        Whatever a question before left there is gone.
        """
        state, seeds = self._builder.state, self._model.seeds
        at = int(seeds.find([self._identities.agent_hash(*full_name(call))])[0])
        if at >= 0:
            self._builder.unpack(self._slots, seeds.rows[[at]])
            for name in _SESSION_ARRAYS:
                getattr(state, name)[0] = 0
            return True
        for array in state:
            array[0] = 0
        return False
