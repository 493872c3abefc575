"""What each part is worth: families of features without and alone, levels of history, stages, the forest's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest import columns
from trustwatch.ingest.features.feature_table import FEATURE_IMPORTANCE, FEATURES

from . import fitted_trace as labs_of
from . import traces
from .fitted_trace import BatchTransform, FittedTrace
from .metrics import AUC, R1, R5, figures
from .report import FigureTable

Scores = NDArray[np.float64]
_FAMILIES = tuple(dict.fromkeys(feature.family for feature in FEATURES))
_NOTE = (
    "ROC-AUC / recall at 5 % FP / recall at 1 % FP with the baseline frozen, without evidence over several events "
    "where not said otherwise."
)


def figure(lab: FittedTrace, event_scores: Scores) -> str:
    """The three figures of one score in a cell."""
    found = figures(lab.trace.units.bad, lab.trace.unit_scores(event_scores))[0]
    return f"{found[AUC]:.3f} / {found[R5]:.2f} / {found[R1]:.2f}"


def run(labs: list[FittedTrace], families: int = len(_FAMILIES)) -> list[FigureTable]:
    """Families (the first so many), then stages and levels."""
    names = tuple(lab.trace.name for lab in labs)
    return [
        FigureTable(
            "Families of features: all but one",
            ("without", "features", *names),
            list(_families(labs, _FAMILIES[:families], alone=False)),
        ),
        FigureTable(
            "Families of features: one alone",
            ("alone", "features", *names),
            list(_families(labs, _FAMILIES[:families], alone=True)),
        ),
        FigureTable("Stages and levels", ("what", *names), [*_stages(labs), *_levels(labs)], _NOTE),
    ]


def _families(labs: list[FittedTrace], families: tuple[str, ...], *, alone: bool) -> Iterator[tuple[str, ...]]:
    if not alone:
        yield (
            "nothing (all features)",
            str(len(FEATURES)),
            *(figure(lab, lab.scores(lab.model.detector)) for lab in labs),
        )
    for family in families:
        inside = np.array([feature.family == family for feature in FEATURES])
        importance = np.where(inside == alone, FEATURE_IMPORTANCE, 0.0)
        yield (family, str(int(inside.sum())), *(figure(lab, lab.scores(lab.fit(importance))) for lab in labs))


def _stages(labs: list[FittedTrace]) -> Iterator[tuple[str, ...]]:
    for name, score in _STAGES.items():
        yield (name, *(figure(lab, score(lab)) for lab in labs))


def _with(**settings: Any) -> Callable[[FittedTrace], Scores]:
    return lambda lab: lab.scores(lab.fit(**settings))


def _replayed(attribute: str, learn: bool) -> Callable[[FittedTrace], Scores]:
    def score(lab: FittedTrace) -> Scores:
        lines = traces.replay(lab.model, lab.trace.test, learn)
        return np.array([getattr(line, attribute) for line in lines])

    return score


_STAGES: dict[str, Callable[[FittedTrace], Scores]] = {
    "as shipped": _with(),
    "features alone (no forest)": _with(forest_weight=0.0),
    "forest alone": _with(forest_weight=1.0),
    "half forest": _with(forest_weight=0.5),
    "sum of the features (norm 1)": _with(norm=1),
    "largest feature (norm 64)": _with(norm=64),
    "all features equally important": lambda lab: lab.scores(lab.fit(np.ones(len(FEATURES)))),
    "one scale for all peer groups": lambda lab: lab.model.detector.evidence(lab.test).statistic,
    "anomaly score of the replay": _replayed("anomaly_score", False),
    "risk score (evidence over events) of the replay": _replayed("risk_score", False),
    "anomaly score of the replay, learning": _replayed("anomaly_score", True),
    "risk score of the replay, learning": _replayed("risk_score", True),
}

_LEVELS: dict[str, BatchTransform] = {
    "without the declared task": labs_of.drop_names(columns.TASK),
    "without peer groups": labs_of.drop_names(columns.GROUP),
    "without task and peer groups": labs_of.drop_names(columns.TASK, columns.GROUP),
    "without own history (every session a new agent)": labs_of.anonymize_agents,
    "without targets": labs_of.drop_names(columns.TARGET),
}


def _levels(labs: list[FittedTrace]) -> Iterator[tuple[str, ...]]:
    for name, change in _LEVELS.items():
        changed = [labs_of.fit_trace(lab.trace, change) for lab in labs]
        yield (name, *(figure(lab, lab.scores(lab.model.detector)) for lab in changed))
