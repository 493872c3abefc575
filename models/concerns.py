"""Concerns: the ways in which an agent can be in trouble, each with a separate calibration.

- *compromise*: it acts for another party. Evidence is who calls, what it calls, its destination and rights, and where
  the arguments come from. Sizes, pace and failures are ignored, several small anomalies count together, and a call that
  did not happen counts only as a probe, except for a value that others may have written and a target that no person
  named.
- *malfunction*: it works badly. One strong anomaly of any kind is enough, and failures count in full; origins of
  arguments are ignored.
- *overreach*: it does more, or may do more, than it used to: pace, volume, new names, scopes and what it was declared
  for. Each of these is weak in a single event, so they are judged among themselves.

The anomaly score of an event (`detector.Scores`) is that of all evidence together. Evidence that is not a feature and
can only raise risk (`is_told_new`) is added to that score and to compromise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .calibration import DECADES_OF_SCALE, Calibration, PeerScales, ScoresBeforeAdding, anomaly_scores, fit_peer_scales
from .evidence_combination import CombinedEvidence, power_norms
from .input_checks import Flags, Floats, Ids

CONCERNS = ("compromise", "malfunction", "overreach")

T = TypeVar("T")
ByConcern = tuple[T, T, T]
"""One value for each of `CONCERNS`, in their order."""

COMPROMISE_NORM, OVERREACH_NORM = 4, 1
"""Norms by concern: at 1 all evidence adds up, above it the largest outweighs the rest (`DetectorSettings.norm`)."""

PROBE_P_VALUE = 0.1
"""Minimum p-value toward compromise of a call that did not happen."""
PROBE_SCALE = float(np.log10((1.0 - 0.5) / PROBE_P_VALUE)) / DECADES_OF_SCALE


class FeatureRoles(NamedTuple):
    """Features that are treated separately."""

    added: Flags  # bool (F,), their evidence is added to that of all others
    compromise: Flags  # bool (F,), evidence of compromise
    overreach: Flags  # bool (F,), evidence of overreach

    @staticmethod
    def none(features: int) -> FeatureRoles:
        """Return roles without any feature."""
        return FeatureRoles(*np.zeros((3, features), np.bool_))


class ConcernScores(NamedTuple):
    """Scores of n rows by concern, in the order of `CONCERNS`."""

    anomaly_score: Floats  # float64 (n, 3) in [0, 1], higher is more anomalous, as in `detector.Scores`
    p_value: Floats  # float64 (n, 3) in (0, 1]


class ConcernModel(NamedTuple):
    """The parameters of scores by concern."""

    roles: FeatureRoles  # of the features
    compromise_scales: PeerScales  # of the evidence of compromise, per peer group
    overreach_scales: PeerScales  # of the evidence of overreach
    calibrations: ByConcern[Calibration]  # anomaly score to p-value, one per concern
    familiar: ByConcern[Calibration]  # the same for agents that the history shows well (see `detector.ForestDetector`)


def fit_concerns(
    scales: PeerScales, held_out: CombinedEvidence, groups: Ids, failed: Flags, roles: FeatureRoles, minimum: int
) -> tuple[ConcernModel, ConcernScores]:
    """Calibrate each concern on held-out rows of normal behavior; also return the scores of these rows.

    Args:
        scales: of the statistic.
        held_out: evidence of n rows from detectors that had not seen them.
        groups: uint64 (n,).
        failed: bool (n,), calls that did not happen.
        roles: of the features.
        minimum: rows that a peer group needs for a separate calibration.
    """
    none = Calibration.empty()
    model = ConcernModel(
        roles,
        fit_peer_scales(
            concern_statistic(held_out.feature_evidence, roles.compromise, COMPROMISE_NORM), groups, minimum
        ),
        fit_peer_scales(concern_statistic(held_out.feature_evidence, roles.overreach, OVERREACH_NORM), groups, minimum),
        (none, none, none),
        (none, none, none),
    )
    anomaly = concern_anomaly(model, scales, held_out, groups, failed)
    without_added = held_out._replace(added=np.zeros(len(groups)))
    before_adding = concern_anomaly(model, scales, without_added, groups, failed)[0]
    without = ScoresBeforeAdding(before_adding, held_out.addable)
    model = model._replace(calibrations=fit_calibrations(anomaly, groups, minimum, without))
    p_values = calibrated(model, anomaly, groups, None, held_out.addable)
    return model, ConcernScores(np.stack(anomaly, axis=1), p_values)


def fit_calibrations(
    anomaly: Sequence[Floats], groups: Ids, minimum: int, before_adding: ScoresBeforeAdding | None = None
) -> ByConcern[Calibration]:
    """Fit the calibration of each concern on its anomaly scores (n,) of rows in peer groups (n,).

    *before_adding* are those of compromise without the evidence that is added; None = none is.
    """
    compromise = Calibration.fit(anomaly[0], groups, minimum, before_adding)
    malfunction, overreach = (Calibration.fit(column, groups, minimum) for column in anomaly[1:])
    return compromise, malfunction, overreach


def calibrated(
    model: ConcernModel,
    anomaly: Sequence[Floats],
    groups: Ids,
    familiar: Flags | None = None,
    addable: Flags | None = None,
) -> Floats:
    """Return the p-values (n, 3) of anomaly scores by concern, each contiguous (n,); *addable* (n,) as for
    `Calibration.p_values`, *familiar* as for `ForestDetector.assess`."""
    p_values = np.empty((len(groups), len(CONCERNS)))
    is_familiar = np.zeros(len(groups), np.bool_) if familiar is None else familiar
    for at, (column, of_strangers, of_familiar) in enumerate(
        zip(anomaly, model.calibrations, model.familiar, strict=True)
    ):
        p_values[:, at] = of_strangers.p_values(column, groups, addable)
        if len(of_familiar.groups) and is_familiar.any():
            p_values[is_familiar, at] = of_familiar.p_values(column[is_familiar], groups[is_familiar])
    return p_values


def concern_anomaly(
    model: ConcernModel,
    scales: PeerScales,
    combined: CombinedEvidence,
    groups: Ids,
    failed: Flags,
    raising: Floats | None = None,
) -> tuple[Floats, ...]:
    """Return the anomaly scores (n,) of each concern; *raising* as for `ForestDetector.assess`, the rest as for
    `fit_concerns`."""
    most = np.where(failed, PROBE_SCALE, np.inf)
    compromise = concern_statistic(combined.feature_evidence, model.roles.compromise, COMPROMISE_NORM)
    overreach = concern_statistic(combined.feature_evidence, model.roles.overreach, OVERREACH_NORM)
    added = combined.added if raising is None else combined.added + raising
    return (
        anomaly_scores(model.compromise_scales, compromise, groups, added, most),
        anomaly_scores(scales, combined.statistic, groups),
        anomaly_scores(model.overreach_scales, overreach, groups),
    )


def concern_statistic(evidence: Floats, asked: Flags, norm: int) -> Floats:
    """Return the norm (n,), in decades, of the evidence (n, F) of the features *asked* (F,)."""
    return np.asarray(power_norms(np.ascontiguousarray(evidence[:, asked]), norm))
