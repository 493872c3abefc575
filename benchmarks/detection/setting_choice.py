"""The choice of what can be chosen in a detector, on sets that are not the one reported.

A scale for each family of features, the norm and the forest's share, each from a short list. Whoever shipped the
importances looked at the test parts of three sets (decision 0012), so a figure of those sets needs others: here all
features begin equal, and one setting after the other moves to what is best on the given sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.features.feature_table import FEATURE_COUNT, FEATURES
from trustwatch.models.evidence_combination import weighted_evidence

from .fitted_trace import FittedTrace
from .metrics import AUC, R5, figures
from .traces import Trace

FAMILIES = tuple(dict.fromkeys(feature.family for feature in FEATURES))
SCALES = (0.0, 0.25, 0.5, 1.0)
NORMS = (1, 2, 4, 8, 64)
FOREST_WEIGHTS = (0.05, 0.15, 0.5)
PASSES = 3
LEAST_GAIN = 0.005
"""Gain of the mean figure below which a setting stays where it was: less is chance."""


@dataclass(frozen=True)
class DetectorChoice:
    """Settings of a detector. Attributes: scales is one factor per family, in the order of `FAMILIES`."""

    scales: tuple[float, ...] = (1.0,) * len(FAMILIES)
    norm: int = 4
    forest_weight: float = 0.15

    def importance(self) -> NDArray[np.float64]:
        """Factor of each feature's evidence (F,)."""
        return np.array([self.scales[FAMILIES.index(feature.family)] for feature in FEATURES])

    def text(self) -> str:
        """The choice in a cell: families that do not count fully, norm and forest."""
        changed = [f"{name} {scale:g}" for name, scale in zip(FAMILIES, self.scales, strict=True) if scale != 1.0]
        return ", ".join([*changed, f"norm {self.norm}", f"forest {self.forest_weight:g}"])


Move = Callable[[DetectorChoice, float], DetectorChoice]
"""One setting of a choice set to a value."""


class FamilyEvidence(NamedTuple):
    """Powers of the evidence of each family in one set's test events, (n, families), for every norm."""

    fitted: FittedTrace
    powers: dict[int, NDArray[np.float64]]

    def figure(self, choice: DetectorChoice) -> float:
        """The figure that a choice has on this set, of the features alone."""
        weights = np.array(choice.scales) ** choice.norm
        return goodness(self.fitted.trace, (self.powers[choice.norm] @ weights) ** (1.0 / choice.norm))


def goodness(trace: Trace, event_scores: NDArray[np.float64]) -> float:
    """The figure that is maximised: mean of ROC-AUC and recall at 5 % false positives."""
    found = figures(trace.units.bad, trace.unit_scores(event_scores))[0]
    return float(found[AUC] + found[R5]) / 2.0


def family_evidence(fitted: FittedTrace) -> FamilyEvidence:
    """Evidence of a set, taken once for all choices."""
    u = weighted_evidence(fitted.model.detector.parts.tails, np.ones(FEATURE_COUNT), fitted.test)
    member = np.array([[feature.family == family for family in FAMILIES] for feature in FEATURES], float)
    return FamilyEvidence(fitted, {norm: u**norm @ member for norm in NORMS})


def choose(sets: Sequence[FamilyEvidence], forest: bool = True) -> DetectorChoice:
    """The choice that is best on the mean over *sets*, found one setting at a time.

    Args:
        forest: whether the forest's share is chosen, too; its forests take most of the time.
    """
    choice = climb(DetectorChoice(), _mean_figure(sets))
    if not forest:
        return choice
    importance = choice.importance()
    detectors = [one.fitted.fit(importance, norm=choice.norm, folds=2) for one in sets]
    found = [detector.evidence(one.fitted.test) for detector, one in zip(detectors, sets, strict=True)]

    def of_forest(weight: float) -> float:
        mixed = [weight * one.forest + (1.0 - weight) * one.tails for one in found]
        return float(np.mean([goodness(one.fitted.trace, scores) for one, scores in zip(sets, mixed, strict=True)]))

    return _moved(choice, _with_forest, FOREST_WEIGHTS, lambda one: of_forest(one.forest_weight))


def _mean_figure(sets: Sequence[FamilyEvidence]) -> Callable[[DetectorChoice], float]:
    return cache(lambda choice: float(np.mean([one.figure(choice) for one in sets])))


def climb(choice: DetectorChoice, figure: Callable[[DetectorChoice], float]) -> DetectorChoice:
    """Move the norm and the scales, one at a time, to the best of their lists, until none moves."""
    for _ in range(PASSES):
        before = choice
        for move, options in _MOVES:
            choice = _moved(choice, move, options, figure)
        if choice == before:
            break
    return choice


def _with_forest(choice: DetectorChoice, weight: float) -> DetectorChoice:
    return replace(choice, forest_weight=weight)


def _with_norm(choice: DetectorChoice, norm: float) -> DetectorChoice:
    return replace(choice, norm=int(norm))


def _with_scale(at: int) -> Move:
    def move(choice: DetectorChoice, scale: float) -> DetectorChoice:
        return replace(choice, scales=(*choice.scales[:at], scale, *choice.scales[at + 1 :]))

    return move


_MOVES: tuple[tuple[Move, tuple[float, ...]], ...] = (
    (_with_norm, NORMS),
    *((_with_scale(at), SCALES) for at in range(len(FAMILIES))),
)
"""What is moved in turn, and where to."""


def _moved(
    choice: DetectorChoice, move: Move, options: Sequence[float], figure: Callable[[DetectorChoice], float]
) -> DetectorChoice:
    """The choice with one setting at the best of its options, or as it was where that gains too little."""
    best = max((move(choice, option) for option in options), key=figure)
    return best if figure(best) >= figure(choice) + LEAST_GAIN else choice
