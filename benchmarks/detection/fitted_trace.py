"""One set taken apart: its model, the vectors it was fitted on and those of the test part, to fit variants quickly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder, EventColumns
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.ingest.features.row_observations import RowObservations
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.models import model_training as crossfit
from trustwatch.models import model_training as learning
from trustwatch.models.detector import DetectorSettings, ForestDetector
from trustwatch.models.detector_training import fit_detector
from trustwatch.models.trained_model import TrainedModel

from .traces import SALT, Trace

BatchTransform = Callable[[EventColumns], EventColumns]


class CrossFittedHistory(NamedTuple):
    """What `crossfit` fits its detector on: cross-fitted vectors (n, F), groups, sessions (n,), and the rest."""

    X: NDArray[np.float64]
    groups: NDArray[np.uint64]
    sessions: NDArray[np.uint64]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class FittedTrace:
    """Attributes: test is the vectors of the test part with the baseline frozen (n, F); test_groups (n,); test_failed
    (n,), calls that did not happen; test_raising (n,), evidence of compromise that is no feature.
    """

    trace: Trace
    model: TrainedModel
    history: CrossFittedHistory
    test: NDArray[np.float64]
    test_groups: NDArray[np.uint64]
    test_failed: NDArray[np.bool_]
    test_raising: NDArray[np.float64]

    def fit(self, importance: NDArray[np.float64] | None = None, **settings: Any) -> ForestDetector:
        """The detector with other importances (F,) or settings, on the same vectors."""
        keywords = dict(self.history.keywords)
        if importance is not None:
            keywords["importance"] = importance
        names = keywords.pop("feature_names")
        chosen = replace(DetectorSettings(), **settings)
        X, groups, sessions, _ = self.history
        return fit_detector(X, groups, sessions, chosen, names, **keywords)[0]

    def scores(self, detector: ForestDetector) -> NDArray[np.float64]:
        """Anomaly scores of the test part (n,)."""
        return detector.assess(self.test, self.test_groups)[0].anomaly_score


def fit_trace(
    trace: Trace,
    change: BatchTransform = lambda columns: columns,
    salt: bytes = SALT,
    settings: DetectorSettings | None = None,
) -> FittedTrace:
    """Learn from the trace's history and measure its test part, both with *change* applied to their columns."""
    encoder = ColumnEncoder(salt)
    train, test = (
        change(encoder.encode([decode_history_event(line)[0] for line in lines])) for lines in (trace.train, trace.test)
    )
    caught: list[CrossFittedHistory] = []

    def spy(X: Any, groups: Any, sessions: Any, settings: Any, names: Any, **keywords: Any) -> Any:
        caught.append(CrossFittedHistory(X, groups, sessions, {**keywords, "feature_names": names}))
        return fit_detector(X, groups, sessions, settings, names, **keywords)

    with mock.patch.object(crossfit, "fit_detector", spy):
        model = learning.train_model(train, salt, trace.name, settings)
    failed = test.codes[:, event_columns.OUTCOME] != event_columns.SUCCESS
    groups = test.names[:, event_columns.GROUP].copy()
    vectors, observations = frozen_vectors(model, test)
    raising = model.target_evidence(observations.told_targets)
    return FittedTrace(trace, model, caught[-1], vectors, groups, failed, raising)


def frozen_vectors(model: TrainedModel, test: EventColumns) -> tuple[NDArray[np.float64], RowObservations]:
    """Vectors (n, F) and observations of events behind the history, of which nothing is learned."""
    # The encoder's identities are under the model's salt, as those of the seeds are.
    agents = len(np.union1d(test.names[:, event_columns.AGENT], model.seeds.keys))
    builder = FeatureBuilder(model.baseline, agents)
    builder.unpack(builder.admit(model.seeds.keys), model.seeds.rows)
    return builder.observe_and_learn(test, learn=False)


def drop_names(*columns: int) -> BatchTransform:
    """A change that takes names away from every event, so that the levels behind them do not exist."""

    def change(batch: EventColumns) -> EventColumns:
        names = batch.names.copy()
        names[:, list(columns)] = 0
        return EventColumns(batch.events, names, batch.numbers, batch.codes, batch.time_ms, batch.arguments)

    return change


def anonymize_agents(batch: EventColumns) -> EventColumns:
    """A change that makes every session one of an agent that nobody has met: no own history."""
    names = batch.names.copy()
    names[:, event_columns.AGENT] = learning.session_ids(batch)
    return EventColumns(batch.events, names, batch.numbers, batch.codes, batch.time_ms, batch.arguments)
