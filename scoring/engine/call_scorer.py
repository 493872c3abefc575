"""Scores of calls before they are made, in memory: from the model alone, without the agent's present session. An
evaluation leaves no trace. It is measured in a slot of a separate feature builder, which is filled from the model's
history for each evaluation and never learns; the agent's row in the live pipeline is not touched.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder, EventColumns, full_name
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.events import EFFECTS, NativeEvent
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.feature_table import ADDED_FEATURES, COMPROMISE_FEATURES, FEATURE_COUNT
from trustwatch.ingest.features.feature_vector import F_ARGUMENT
from trustwatch.ingest.features.frequency_tables import mix_pairs, scope_row
from trustwatch.ingest.features.layout import AgentState
from trustwatch.ingest.features.row_observations import ACTED_ON, LOOKED_UP, allocate_observations
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.models.call_challenges import ChallengeThreshold, score_asked, tenant_key
from trustwatch.models.model_persistence import LEARNING_VERSION
from trustwatch.models.trained_model import TrainedModel

from ..records.decisions import RiskReason
from .announced_paths import KINDS, NO_PATHS, find_announced, part_names, unpack
from .explanations import ReasonWriter
from .settings import ChallengeBudget, accepted_challenges

_ASKED_FEATURES = np.array(COMPROMISE_FEATURES) | np.array(ADDED_FEATURES)
_SESSION_ARRAYS = tuple(name for name in AgentState._fields if name.startswith("session_") or name == "disorder")


Vectors = npt.NDArray[np.float64]


class NoCallVerdicts(ModelError):
    """Raised if the model cannot score calls before they are made."""


class CallScore(NamedTuple):
    """Anomaly of a call that is about to be made."""

    anomaly_score: float  # of compromise, in [0, 1]
    p_value: float  # of compromise, in (0, 1]
    effect: str  # of the call
    threshold: ChallengeThreshold | None  # what it was compared with; None = the model has none for it
    known_agent: bool  # the model's history shows the agent
    reasons: tuple[RiskReason, ...]  # the strongest first, if the score is above the threshold; otherwise none

    @property
    def exceeds(self) -> bool:
        """Return whether a person should look at the call first."""
        return self.threshold is not None and self.anomaly_score > self.threshold.anomaly_score


class CallScorer:
    """Scores calls. Thread-safe.

    Attributes:
        thresholds: by effect, of tenants without separate ones.
        tenants_with_own: number of tenants with separate ones.

    Raises:
        NoCallVerdicts: the model was trained before there were verdicts on calls, or knows nothing yet.
    """

    def __init__(
        self,
        model: TrainedModel,
        budget: ChallengeBudget,
        domains: Mapping[str, Sequence[str]] | None = None,
        slots: int = 1,
    ) -> None:
        if model.version == LEARNING_VERSION:
            raise NoCallVerdicts(
                "the learning model knows no habits: a new service trains its first model automatically when it has"
                " enough history; after a person returns it to learning, it waits for `trustwatch models promote`"
            )
        if model.challenges is None:
            raise NoCallVerdicts(f"model {model.version} was trained before there were verdicts on calls: retrain")
        self.version = model.version
        self._model, self._detector, self._challenges = model, model.detector, model.challenges
        self.thresholds = self._thresholds_of("", budget)
        self._of_tenants = {key: self._thresholds_of(key, budget) for key in model.challenges.tenants}
        self.tenants_with_own = len(self._of_tenants)
        self._identities = IdentityHasher(model.salt)
        self._encoder = ColumnEncoder(model.salt, domains)
        self._builder = FeatureBuilder(model.baseline, slots)
        self._reason_writer = ReasonWriter(model.baseline)
        self._slots, self._rows = np.arange(slots, dtype=np.int32), np.arange(slots)
        self._lock = threading.Lock()

    def _thresholds_of(self, tenant: str, budget: ChallengeBudget) -> dict[str, ChallengeThreshold | None]:
        return {
            effect: self._challenges.threshold(effect, accepted_challenges(budget, effect), tenant)
            for effect in EFFECTS
        }

    def score(self, call: NativeEvent, announced: bytes = NO_PATHS, *, trusted: bool = False) -> CallScore:
        """Score *call* as if it were made now, without its outcome and session.

        Access paths that were *announced* with the agent's risk are not anomalous; if *trusted*, no part of it is.
        """
        return self._score_batch((call,), np.full((1, KINDS), trusted), announced)[0]

    def score_many(self, calls: Sequence[NativeEvent], trusted: npt.NDArray[np.bool_] | None = None) -> list[CallScore]:
        """Score calls independently of each other. Fast if the scorer has many slots.

        Args:
            trusted: (n, 3), parts of their access paths that are trusted or announced, so not anomalous; None = none.
        """
        size = len(self._slots)
        parts = np.zeros((len(calls), KINDS), np.bool_) if trusted is None else trusted
        return [
            score
            for at in range(0, len(calls), size)
            for score in self._score_batch(calls[at : at + size], parts[at : at + size])
        ]

    def _score_batch(
        self, calls: Sequence[NativeEvent], trusted: npt.NDArray[np.bool_], announced: bytes = NO_PATHS
    ) -> list[CallScore]:
        columns = self._encoder.encode(
            [msgspec.structs.replace(call, outcome="success", session=None) for call in calls]
        )
        if announced:
            trusted = trusted | find_announced(unpack([announced]), part_names(columns.names), columns.time_ms)
        scores = self._measure(calls, columns, trusted)
        # A task without history in its peer group could be invented, so whatever it would excuse counts as if no task
        # had been declared.
        groups, tasks = columns.names[:, event_columns.GROUP], columns.names[:, event_columns.TASK]
        keys, baseline = mix_pairs(groups, tasks), self._model.baseline
        unknown = [row for row in np.flatnonzero(tasks).tolist() if scope_row(baseline, keys[row]) < 0]
        if unknown:
            undeclared = columns.take(np.array(unknown))
            undeclared.names[:, event_columns.TASK] = 0
            declaring = [calls[row] for row in unknown]
            for row, score in zip(unknown, self._measure(declaring, undeclared, trusted[unknown]), strict=True):
                scores[row] = max(scores[row], score, key=lambda one: one.anomaly_score)
        return scores

    def _measure(
        self, calls: Sequence[NativeEvent], columns: EventColumns, trusted: npt.NDArray[np.bool_]
    ) -> list[CallScore]:
        n = len(calls)
        slots, rows = self._slots[:n], self._rows[:n]
        with self._lock:
            known = self._recall_agents(calls)
            vectors, observations = np.zeros((n, FEATURE_COUNT)), allocate_observations(n, columns.arguments)
            self._builder.observe(columns, slots, rows, vectors, observations)
            numbers, items = self._builder.state.numbers[:n].copy(), self._builder.state.known[:n].copy()
        challenges, codes = self._challenges, columns.codes[:, event_columns.EFFECT]
        baseline, rates = self._model.baseline, challenges.foreign
        anomalies, asked, foreign = score_asked(
            self._detector, rates, baseline, columns, vectors, observations, trusted
        )
        asked[:, F_ARGUMENT] = foreign
        scores = []
        for row, (anomaly, code, is_known) in enumerate(zip(anomalies.tolist(), codes.tolist(), known, strict=True)):
            effect, tenant = EFFECTS[code], tenant_key(int(columns.names[row, event_columns.TENANT]))
            threshold = self._of_tenants.get(tenant, self.thresholds)[effect]
            p_value = challenges.p_value(effect, anomaly, tenant)
            found = CallScore(anomaly, p_value, effect, threshold, is_known, ())
            if found.exceeds:  # for reasons that are evidence of compromise, strongest first
                observations.is_foreign[observations.is_foreign == LOOKED_UP] = ACTED_ON  # both are reported alike
                vector = np.where(_ASKED_FEATURES, asked[[row]], 0.0)
                words = vector[0].tolist(), self._detector.explain(vector)[0].tolist()
                reasons = self._reason_writer.reasons(columns, row, numbers[row], items[row], observations, *words, ())
                found = found._replace(reasons=reasons)
            scores.append(found)
        return scores

    def _recall_agents(self, calls: Sequence[NativeEvent]) -> list[bool]:
        """Fill a slot for each call with the history of its caller, without sessions; return False if there is none.

        This overwrites the slots' previous content.
        """
        state, seeds = self._builder.state, self._model.seeds
        at = seeds.find([self._identities.agent_hash(*full_name(call)) for call in calls])
        known, unknown = np.flatnonzero(at >= 0), np.flatnonzero(at < 0)
        if len(known):
            self._builder.unpack(self._slots[known], seeds.rows[at[known]])
            for name in _SESSION_ARRAYS:
                getattr(state, name)[known] = 0
        if len(unknown):
            for array in state:
                array[unknown] = 0
        return [place >= 0 for place in at.tolist()]
