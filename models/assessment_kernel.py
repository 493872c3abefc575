"""All scores of a batch in one kernel: evidence, statistics, anomaly scores and p-values, in all and by concern.

A small batch costs as much as its calls, and there were some fifty of them in a row. Every number has the bits that
the functions for whole columns give (`combined_evidence`, `score_concerns`, `anomaly_scores`, `Calibration.p_values`),
which training uses: both are made of the same inlined helpers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ingest.compilation import compiled, inlined
from .calibration import (
    DECADES_OF_SCALE,
    Calibration,
    PeerScales,
    anomaly_score,
    calibrated_entry,
    group_index,
    has_addable_entries,
    p_value,
)
from .concerns import COMPROMISE_NORM, CONCERNS, OVERREACH_NORM, PROBE_SCALE, ConcernModel
from .evidence_combination import EvidenceCombination, is_seen_by_forest, power_norm
from .feature_tails import TailTables, value_evidence
from .forest_evaluator import ForestArrays, score_rows

COMPROMISE, MALFUNCTION, OVERREACH = range(len(CONCERNS))

FourCalibrations = tuple[Calibration, Calibration, Calibration, Calibration]


class AssessmentTables(NamedTuple):
    """Everything that the kernel reads of a detector; arrays are shared with it.

    Attributes:
        tails, importance, added: see `EvidenceCombination`.
        seen: bool (F,), features that the forest sees.
        forest_features, forest_thresholds, forest_leaves, forest_normaliser: see `ForestArrays`.
        score_tail: upper tail of the forest's scores.
        forest_weight: share of the forest in the statistic.
        norms: int64 (3,), norm of each concern's statistic; that of malfunction is of all evidence.
        compromise, overreach: int64 (k,), numbers of the features that these concerns ask about, ascending.
        scales: of all evidence (and of malfunction), of compromise and of overreach.
        calibrations: of all evidence, then of each concern.
        familiar: the same for agents that the history shows well.
    """

    tails: TailTables
    importance: NDArray[np.float64]
    added: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    forest_features: NDArray[np.uint16]
    forest_thresholds: NDArray[np.float32]
    forest_leaves: NDArray[np.float64]
    forest_normaliser: float
    score_tail: TailTables
    forest_weight: float
    norms: NDArray[np.int64]
    compromise: NDArray[np.int64]
    overreach: NDArray[np.int64]
    scales: tuple[PeerScales, PeerScales, PeerScales]
    calibrations: FourCalibrations
    familiar: FourCalibrations


def assessment_tables(
    parts: EvidenceCombination,
    scales: PeerScales,
    calibration: Calibration,
    familiar: Calibration,
    by_concern: ConcernModel,
) -> AssessmentTables:
    """Tables of a detector's members; see `detector.ForestDetector`."""
    forest: ForestArrays = parts.forest
    return AssessmentTables(
        parts.tails,
        np.ascontiguousarray(parts.importance),
        parts.added,
        is_seen_by_forest(parts.importance),
        forest.features,
        forest.thresholds,
        forest.leaves,
        float(forest.normaliser),
        parts.score_tail,
        float(parts.forest_weight),
        np.array([COMPROMISE_NORM, parts.norm, OVERREACH_NORM], np.int64),
        np.flatnonzero(by_concern.roles.compromise),
        np.flatnonzero(by_concern.roles.overreach),
        (scales, by_concern.compromise_scales, by_concern.overreach_scales),
        (calibration, *by_concern.calibrations),
        (familiar, *by_concern.familiar),
    )


@inlined
def _picked_norm(
    evidence: NDArray[np.float64], features: NDArray[np.int64], norm: int, room: NDArray[np.float64]
) -> float:
    """Norm of the evidence of some *features* of a row (F,); *room* (F,) is written to."""
    for at in range(len(features)):
        room[at] = evidence[features[at]]
    return power_norm(room[: len(features)], norm)


@inlined
def _calibrated(
    score: float, group: np.uint64, addable: bool, familiar: bool, of_strangers: Calibration, of_familiar: Calibration
) -> float:
    """p-value of one anomaly score; of a *familiar* agent by the calibration of those, where there is one."""
    chosen = of_strangers
    if familiar and len(of_familiar.groups) > 0:
        chosen = of_familiar
        addable = False
    entry = calibrated_entry(chosen.groups, group, addable and has_addable_entries(chosen.groups))
    return p_value(score, entry, chosen.start, chosen.sizes, chosen.values, chosen.above)


@compiled  # `score_rows` allocates, and is compiled as its caller is
def assess_rows(
    tables: AssessmentTables,
    X: NDArray[np.float64],
    groups: NDArray[np.uint64],
    failed: NDArray[np.bool_],
    familiar: NDArray[np.bool_],
    raising: NDArray[np.float64],
    room: NDArray[np.float64],
    line: NDArray[np.float64],
    evidence: NDArray[np.float64],
    anomaly: NDArray[np.float64],
    p_values: NDArray[np.float64],
    concern_anomaly: NDArray[np.float64],
    concern_p_values: NDArray[np.float64],
) -> int:
    """Assess rows; returns -1, or `row * F + feature` of the first value that is not finite.

    Args:
        X, groups, failed, familiar, raising: (n, F) and (n,), as for `ForestDetector.assess`.
        room, line: float64 (2, n, F) and (n + F,), written to.
        evidence: float64 (n, F), written: weighed evidence of each feature.
        anomaly, p_values: float64 (n,), written: of all evidence.
        concern_anomaly, concern_p_values: float64 (n, 3), written: by concern.
    """
    tails, tail, width = tables.tails, tables.score_tail, X.shape[1]
    inner, seen, forest, picked = room[0], room[1], line[: len(X)], line[len(X) :]
    for row in range(len(X)):
        for feature in range(width):
            value = X[row, feature]
            if not np.isfinite(value):
                return int(row * width + feature)
            weighed = value_evidence(value, tails.x, tails.u, tails.rate, feature) * tables.importance[feature]
            evidence[row, feature] = weighed
            inner[row, feature] = 0.0 if tables.added[feature] else weighed
            seen[row, feature] = inner[row, feature] if tables.seen[feature] else 0.0
    score_rows(
        seen,
        tables.forest_features,
        tables.forest_thresholds,
        tables.forest_leaves,
        tables.forest_normaliser,
        forest,
    )
    scales, of_compromise, of_overreach = tables.scales
    of_all, first, second, third = tables.calibrations
    of_all_familiar, first_familiar, second_familiar, third_familiar = tables.familiar
    for row in range(len(X)):
        added, addable, group = 0.0, False, groups[row]
        for feature in range(width):
            if tables.added[feature]:
                added += evidence[row, feature]
                addable |= X[row, feature] > 0.0
        added = (added + raising[row]) / DECADES_OF_SCALE
        from_forest = value_evidence(forest[row], tail.x, tail.u, tail.rate, 0)
        from_tails = power_norm(inner[row], tables.norms[MALFUNCTION])
        statistic = tables.forest_weight * from_forest + (1.0 - tables.forest_weight) * from_tails
        compromise = _picked_norm(evidence[row], tables.compromise, tables.norms[COMPROMISE], picked)
        overreach = _picked_norm(evidence[row], tables.overreach, tables.norms[OVERREACH], picked)
        most = PROBE_SCALE if failed[row] else np.inf
        entry = group_index(scales.groups, group)
        scores = concern_anomaly[row]
        anomaly[row] = anomaly_score(statistic, scales, entry, added, np.inf)
        scores[MALFUNCTION] = anomaly_score(statistic, scales, entry, 0.0, np.inf)
        entry = group_index(of_compromise.groups, group)
        scores[COMPROMISE] = anomaly_score(compromise, of_compromise, entry, added, most)
        entry = group_index(of_overreach.groups, group)
        scores[OVERREACH] = anomaly_score(overreach, of_overreach, entry, 0.0, np.inf)
        known, found = familiar[row], concern_p_values[row]
        p_values[row] = _calibrated(anomaly[row], group, addable, known, of_all, of_all_familiar)
        found[0] = _calibrated(scores[0], group, addable, known, first, first_familiar)
        found[1] = _calibrated(scores[1], group, addable, known, second, second_familiar)
        found[2] = _calibrated(scores[2], group, addable, known, third, third_familiar)
    return -1
