"""Concerns: the ways in which an agent can be in trouble, each a question of its own with its own calibration.

- *compromise*: it acts for somebody else. Who calls, what, where to and with which rights, and whence the arguments
  come. Sizes, pace and failures are left aside, several small anomalies count together, and a call that did not happen
  counts no more than a probe, but for a value that others may have written and a target that no person named.
- *malfunction*: it works badly. One strong anomaly of any kind is enough, failures count in full; origins of arguments
  say nothing about that.
- *overreach*: it does more, or may do more, than it used to: pace, volume, new names, scopes and what it was declared
  for. Each of these is weak in a single event, so they are judged among themselves.

The anomaly score of an event (`detector.Scores`) is that of all evidence together. Evidence that is no feature and can
only raise risk (`features.told_targets`) is added to that score and to compromise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .calibration import DECADES_OF_SCALE, Calibration, PeerScales, ScoresBeforeAdding, anomaly_scores, fit_peer_scales
from .evidence_combination import CombinedEvidence, power_norms

CONCERNS = ("compromise", "malfunction", "overreach")

T = TypeVar("T")
ByConcern = tuple[T, T, T]
"""One value for each of `CONCERNS`, in their order."""

COMPROMISE_NORM, OVERREACH_NORM = 4, 1
"""Norms by concern: at 1 all evidence adds up, above it the largest outweighs the rest (`DetectorSettings.norm`)."""

PROBE_P_VALUE = 0.1
"""p-value that a call which did not happen counts as towards compromise, at the least."""
PROBE_SCALE = float(np.log10((1.0 - 0.5) / PROBE_P_VALUE)) / DECADES_OF_SCALE


class FeatureRoles(NamedTuple):
    """Features that are treated apart."""

    added: NDArray[np.bool_]  # bool (F,), their evidence is added to that of all others
    compromise: NDArray[np.bool_]  # bool (F,), evidence of compromise
    overreach: NDArray[np.bool_]  # bool (F,), evidence of overreach

    @staticmethod
    def none(features: int) -> FeatureRoles:
        """No feature is treated apart."""
        return FeatureRoles(*np.zeros((3, features), np.bool_))


class ConcernScores(NamedTuple):
    """Scores of n rows by concern, in the order of `CONCERNS`."""

    anomaly_score: NDArray[np.float64]  # float64 (n, 3) in [0, 1], higher is more anomalous, as in `detector.Scores`
    p_value: NDArray[np.float64]  # float64 (n, 3) in (0, 1]


class ConcernModel(NamedTuple):
    """Ground of scores by concern."""

    roles: FeatureRoles  # of the features
    compromise_scales: PeerScales  # of the evidence of compromise, per peer group
    overreach_scales: PeerScales  # of the evidence of overreach
    calibrations: ByConcern[Calibration]  # anomaly score to p-value, one per concern
    familiar: ByConcern[Calibration]  # the same for agents that the history shows well (see `detector.ForestDetector`)


def fit_concerns(
    scales: PeerScales,
    held_out: CombinedEvidence,
    groups: NDArray[np.uint64],
    failed: NDArray[np.bool_],
    roles: FeatureRoles,
    minimum: int,
) -> tuple[ConcernModel, ConcernScores]:
    """Calibrates each concern on held-out rows of normal behavior; returns the scores of these rows, too.

    Args:
        scales: of the statistic.
        held_out: evidence of n rows from detectors that had not seen them.
        groups: uint64 (n,).
        failed: bool (n,), calls that did not happen.
        roles: of the features.
        minimum: rows from which a peer group is calibrated by itself.
    """
    none = Calibration.empty()
    model = ConcernModel(
        roles,
        fit_peer_scales(_statistic(held_out, roles.compromise, COMPROMISE_NORM), groups, minimum),
        fit_peer_scales(_statistic(held_out, roles.overreach, OVERREACH_NORM), groups, minimum),
        (none, none, none),
        (none, none, none),
    )
    anomaly = _anomaly(model, scales, held_out, groups, failed)
    before_adding = _anomaly(model, scales, held_out._replace(added=np.zeros(len(groups))), groups, failed)[0]
    without = ScoresBeforeAdding(before_adding, held_out.addable)
    model = model._replace(calibrations=fit_calibrations(anomaly, groups, minimum, without))
    return model, _scores(model, anomaly, groups, None, held_out.addable)


def fit_calibrations(
    anomaly: Sequence[NDArray[np.float64]],
    groups: NDArray[np.uint64],
    minimum: int,
    before_adding: ScoresBeforeAdding | None = None,
) -> ByConcern[Calibration]:
    """Calibration of each concern on its anomaly scores (n,) of rows in peer groups (n,).

    *before_adding* are those of compromise without the evidence that is added; None = none is.
    """
    compromise = Calibration.fit(anomaly[0], groups, minimum, before_adding)
    malfunction, overreach = (Calibration.fit(column, groups, minimum) for column in anomaly[1:])
    return compromise, malfunction, overreach


def score_concerns(
    model: ConcernModel,
    scales: PeerScales,
    combined: CombinedEvidence,
    groups: NDArray[np.uint64],
    failed: NDArray[np.bool_],
    familiar: NDArray[np.bool_] | None = None,
    raising: NDArray[np.float64] | None = None,
) -> ConcernScores:
    """Scores of rows by concern; arguments as for `fit_concerns` and `ForestDetector.assess`."""
    anomaly = _anomaly(model, scales, combined, groups, failed, raising)
    return _scores(model, anomaly, groups, familiar, combined.addable)


def _scores(
    model: ConcernModel,
    anomaly: Sequence[NDArray[np.float64]],
    groups: NDArray[np.uint64],
    familiar: NDArray[np.bool_] | None,
    addable: NDArray[np.bool_],
) -> ConcernScores:
    return ConcernScores(np.stack(anomaly, axis=1), calibrated(model, anomaly, groups, familiar, addable))


def calibrated(
    model: ConcernModel,
    anomaly: Sequence[NDArray[np.float64]],
    groups: NDArray[np.uint64],
    familiar: NDArray[np.bool_] | None = None,
    addable: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """p-values (n, 3) of anomaly scores by concern, each contiguous (n,); *addable* (n,) as for `Calibration.p_values`,
    other arguments as for `score_concerns`."""
    p_values = np.empty((len(groups), len(CONCERNS)))
    is_familiar = np.zeros(len(groups), np.bool_) if familiar is None else familiar
    for at, (column, of_strangers, of_familiar) in enumerate(
        zip(anomaly, model.calibrations, model.familiar, strict=True)
    ):
        p_values[:, at] = of_strangers.p_values(column, groups, addable)
        if len(of_familiar.groups) and is_familiar.any():
            p_values[is_familiar, at] = of_familiar.p_values(column[is_familiar], groups[is_familiar])
    return p_values


def _anomaly(
    model: ConcernModel,
    scales: PeerScales,
    combined: CombinedEvidence,
    groups: NDArray[np.uint64],
    failed: NDArray[np.bool_],
    raising: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], ...]:
    """Anomaly scores (n,) of each concern."""
    most = np.where(failed, PROBE_SCALE, np.inf)
    compromise = _statistic(combined, model.roles.compromise, COMPROMISE_NORM)
    overreach = _statistic(combined, model.roles.overreach, OVERREACH_NORM)
    added = combined.added if raising is None else combined.added + raising
    return (
        anomaly_scores(model.compromise_scales, compromise, groups, added, most),
        anomaly_scores(scales, combined.statistic, groups),
        anomaly_scores(model.overreach_scales, overreach, groups),
    )


def _statistic(combined: CombinedEvidence, asked: NDArray[np.bool_], norm: int) -> NDArray[np.float64]:
    """Norm (n,) of the evidence of the features *asked* (F,), decades."""
    return np.asarray(power_norms(np.ascontiguousarray(combined.feature_evidence[:, asked]), norm))
