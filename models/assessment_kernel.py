"""All scores of a batch in one kernel: evidence, statistics, anomaly scores and p-values, in all and by concern.

A small batch costs as much as its calls, and there were some fifty of them in a row. Every number has the bits that
the functions for whole columns give (`combined_evidence`, `score_concerns`, `anomaly_scores`, `Calibration.p_values`),
which training uses: both are made of the same inlined helpers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.compilation import allocation_free, inlined

from .calibration import (
    DECADES_OF_SCALE,
    Calibration,
    PackedCalibrations,
    PeerScales,
    anomaly_score,
    count_below,
    group_index,
)
from .concerns import COMPROMISE_NORM, CONCERNS, OVERREACH_NORM, PROBE_SCALE, ConcernModel
from .evidence_combination import EvidenceCombination, is_seen_by_forest, power_norm
from .feature_tails import TailTables, value_evidence
from .forest_evaluator import ForestArrays, score_float32_rows

COMPROMISE, MALFUNCTION, OVERREACH = range(len(CONCERNS))


class AssessmentTables(NamedTuple):
    """Everything that the kernel reads of a detector; most arrays are shared with it."""

    # tails, importance: see `EvidenceCombination`
    tails: TailTables
    importance: NDArray[np.float64]
    added: NDArray[np.int64]  # int64 (k,), numbers of the features whose evidence is added to the statistic, ascending
    seen: NDArray[np.bool_]  # bool (F,), features that the forest sees; none that is added
    # forest_features, forest_thresholds, forest_leaves: (T * S,), of `ForestArrays`, tree by tree
    forest_features: NDArray[np.uint16]
    forest_thresholds: NDArray[np.float32]
    forest_leaves: NDArray[np.float64]
    # forest_slots, forest_normaliser: S, and see `ForestArrays`
    forest_slots: int
    forest_normaliser: float
    score_tail: TailTables  # upper tail of the forest's scores
    forest_weight: float  # share of the forest in the statistic
    norms: NDArray[np.int64]  # int64 (3,), norm of each concern's statistic
    # compromise, malfunction, overreach: int64 (k,), numbers of the features that each concern asks about, ascending;
    # malfunction asks about all but those that are added, as the statistic of all evidence does
    compromise: NDArray[np.int64]
    malfunction: NDArray[np.int64]
    overreach: NDArray[np.int64]
    # location, scale: float64 (G, 3), `PeerScales` of each of the groups of `calibrations`: by concern; those of
    # malfunction are of all evidence
    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    calibrations: PackedCalibrations  # of each concern, then of all evidence


def assessment_tables(
    parts: EvidenceCombination,
    scales: PeerScales,
    calibration: Calibration,
    familiar: Calibration,
    by_concern: ConcernModel,
) -> AssessmentTables:
    """Tables of a detector's members; see `detector.ForestDetector`."""
    forest: ForestArrays = parts.forest
    by_question = by_concern.compromise_scales, scales, by_concern.overreach_scales
    calibrations = PackedCalibrations.pack(
        (*by_concern.calibrations, calibration), (*by_concern.familiar, familiar), [part.groups for part in by_question]
    )
    rows = [[group_index(part.groups, group) for group in calibrations.groups] for part in by_question]
    return AssessmentTables(
        parts.tails,
        np.ascontiguousarray(parts.importance),
        np.flatnonzero(parts.added),
        is_seen_by_forest(parts.importance) & ~parts.added,
        forest.features.ravel(),
        forest.thresholds.ravel(),
        forest.leaves.ravel(),
        forest.features.shape[1],
        float(forest.normaliser),
        parts.score_tail,
        float(parts.forest_weight),
        np.array([COMPROMISE_NORM, parts.norm, OVERREACH_NORM], np.int64),
        np.flatnonzero(by_concern.roles.compromise),
        np.flatnonzero(~parts.added),
        np.flatnonzero(by_concern.roles.overreach),
        np.column_stack([part.location[at] for part, at in zip(by_question, rows, strict=True)]),
        np.column_stack([part.scale[at] for part, at in zip(by_question, rows, strict=True)]),
        calibrations,
    )


@inlined
def _picked_norm(
    evidence: NDArray[np.float64], features: NDArray[np.int64], norm: int, room: NDArray[np.float64]
) -> float:
    """Norm of the evidence of some *features* of a row (F,); *room* (F,) is written to."""
    count = 0  # of those that bring any: the others, half of them, would add 0
    for feature in features:
        room[count] = evidence[feature]
        count += 1 if evidence[feature] != 0.0 else 0
    return power_norm(room[:count], norm)


@inlined
def _calibrated(score: float, entry: int, calibrations: PackedCalibrations) -> float:
    """p-value of one anomaly score by one entry."""
    first = calibrations.start[entry]
    below = count_below(score, calibrations.values, first, calibrations.start[entry + 1])
    return 1.0 if below == 0 else calibrations.p_values[first + below - 1]


@allocation_free
def assess_rows(
    tables: AssessmentTables,
    X: NDArray[np.float64],
    groups: NDArray[np.uint64],
    failed: NDArray[np.bool_],
    familiar: NDArray[np.bool_],
    raising: NDArray[np.float64],
    seen: NDArray[np.float32],
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
        seen, line: float32 (n, F) and float64 (n + F,), written to.
        evidence: float64 (n, F), written: weighed evidence of each feature.
        anomaly, p_values: float64 (n,), written: of all evidence.
        concern_anomaly, concern_p_values: float64 (n, 3), written: by concern.
    """
    tails, tail, width, calibrations = tables.tails, tables.score_tail, X.shape[1], tables.calibrations
    forest, picked = line[: len(X)], line[len(X) :]
    for row in range(len(X)):
        for feature in range(width):
            value = X[row, feature]
            if not np.isfinite(value):
                return int(row * width + feature)
            weighed = value_evidence(value, tails.x, tails.u, tails.rate, feature) * tables.importance[feature]
            evidence[row, feature] = weighed
            seen[row, feature] = np.float32(weighed) if tables.seen[feature] else np.float32(0.0)
    score_float32_rows(
        seen,
        tables.forest_features,
        tables.forest_thresholds,
        tables.forest_leaves,
        tables.forest_slots,
        tables.forest_normaliser,
        forest,
    )
    for row in range(len(X)):
        added, addable = 0.0, False
        for feature in tables.added:
            added += evidence[row, feature]
            addable |= X[row, feature] > 0.0
        added = (added + raising[row]) / DECADES_OF_SCALE
        from_forest = value_evidence(forest[row], tail.x, tail.u, tail.rate, 0)
        from_tails = _picked_norm(evidence[row], tables.malfunction, tables.norms[MALFUNCTION], picked)
        statistic = tables.forest_weight * from_forest + (1.0 - tables.forest_weight) * from_tails
        compromise = _picked_norm(evidence[row], tables.compromise, tables.norms[COMPROMISE], picked)
        overreach = _picked_norm(evidence[row], tables.overreach, tables.norms[OVERREACH], picked)
        most = PROBE_SCALE if failed[row] else np.inf
        group = group_index(calibrations.groups, groups[row])
        location, scale = tables.location[group], tables.scale[group]
        scores, found = concern_anomaly[row], concern_p_values[row]
        anomaly[row] = anomaly_score(statistic, location[MALFUNCTION], scale[MALFUNCTION], added, np.inf)
        scores[COMPROMISE] = anomaly_score(compromise, location[COMPROMISE], scale[COMPROMISE], added, most)
        scores[MALFUNCTION] = anomaly_score(statistic, location[MALFUNCTION], scale[MALFUNCTION], 0.0, np.inf)
        scores[OVERREACH] = anomaly_score(overreach, location[OVERREACH], scale[OVERREACH], 0.0, np.inf)
        known, added_to = int(familiar[row]), int(addable)
        for concern in range(len(found)):
            entry = calibrations.entries[group, concern, known, added_to]
            found[concern] = _calibrated(scores[concern], entry, calibrations)
        entry = calibrations.entries[group, len(found), known, added_to]
        p_values[row] = _calibrated(anomaly[row], entry, calibrations)
    return -1
