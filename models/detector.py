"""A detector: feature vectors in, calibrated anomaly scores and p-values out, with the features that made them.

It is a snapshot: scoring changes nothing, and an event is scored before anything learns from it. `detector_training.py`
fits one, `model_persistence.py` writes and reads one; scoring needs neither scikit-learn nor the training data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.compilation import allocation_free, inlined
from trustwatch.ingest.errors import ConfigError

from .calibration import (
    DECADES_OF_SCALE,
    Calibration,
    PackedCalibrations,
    PeerScales,
    anomaly_score,
    count_below,
    group_index,
)
from .concerns import COMPROMISE_NORM, CONCERNS, OVERREACH_NORM, PROBE_SCALE, ConcernModel, ConcernScores
from .evidence_combination import (
    CombinedEvidence,
    EvidenceCombination,
    TailTables,
    check_rows,
    combined_evidence,
    forest_input,
    is_seen_by_forest,
    power_norm,
    value_evidence,
    weighted_evidence,
)
from .forest_evaluator import ForestArrays, path_shortenings, score_float32_rows
from .input_checks import Flags, Floats, Ids, Ints, NotFinite, WrongShape

# One kernel computes all scores of a batch: evidence, statistics, anomaly scores and p-values, in all and by concern. A
# small batch costs as much as its calls, and there were some fifty of them in a row. Every number has the bits that the
# functions for whole columns give, which training uses (`combined_evidence`, `concern_anomaly`, `anomaly_scores`,
# `Calibration.p_values`): both are made of the same inlined helpers.


COMPROMISE, MALFUNCTION, OVERREACH = range(len(CONCERNS))


class AssessmentTables(NamedTuple):
    """All arrays that the kernel reads from a detector; most are shared with it."""

    # tails, importance: see `EvidenceCombination`
    tails: TailTables
    importance: Floats
    added: Ints  # int64 (k,), numbers of the features whose evidence is added to the statistic, ascending
    seen: Flags  # bool (F,), features that the forest sees; none that is added
    # forest_features, forest_thresholds, forest_leaves: (T * S,), of `ForestArrays`, tree by tree
    forest_features: NDArray[np.uint16]
    forest_thresholds: NDArray[np.float32]
    forest_leaves: Floats
    # forest_slots, forest_normaliser: S, and see `ForestArrays`
    forest_slots: int
    forest_normaliser: float
    score_tail: TailTables  # upper tail of the forest's scores
    forest_weight: float  # share of the forest in the statistic
    norms: Ints  # int64 (3,), norm of each concern's statistic
    # compromise, malfunction, overreach: int64 (k,), numbers of the features that each concern asks about, ascending;
    # malfunction asks about all but those that are added, as the statistic of all evidence does
    compromise: Ints
    malfunction: Ints
    overreach: Ints
    # location, scale: float64 (G, 3), `PeerScales` of each of the groups of `calibrations`: by concern; those of
    # malfunction are of all evidence
    location: Floats
    scale: Floats
    calibrations: PackedCalibrations  # of each concern, then of all evidence


def assessment_tables(
    parts: EvidenceCombination,
    scales: PeerScales,
    calibration: Calibration,
    familiar: Calibration,
    by_concern: ConcernModel,
) -> AssessmentTables:
    """Build the tables from a detector's members; see `ForestDetector`."""
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
def _picked_norm(evidence: Floats, features: Ints, norm: int, room: Floats) -> float:
    count = 0  # of those that bring any: the others, half of them, would add 0
    for feature in features:
        room[count] = evidence[feature]
        count += 1 if evidence[feature] != 0.0 else 0
    return power_norm(room[:count], norm)


@inlined
def _calibrated(score: float, entry: int, calibrations: PackedCalibrations) -> float:
    first = calibrations.start[entry]
    below = count_below(score, calibrations.values, first, calibrations.start[entry + 1])
    return 1.0 if below == 0 else calibrations.p_values[first + below - 1]


@allocation_free
def assess_rows(
    tables: AssessmentTables,
    X: Floats,
    groups: Ids,
    failed: Flags,
    familiar: Flags,
    raising: Floats,
    seen: NDArray[np.float32],
    line: Floats,
    evidence: Floats,
    anomaly: Floats,
    p_values: Floats,
    concern_anomaly: Floats,
    concern_p_values: Floats,
) -> int:
    """Assess rows; return -1, or `row * F + feature` of the first value that is not finite.

    Args:
        X, groups, failed, familiar, raising: (n, F) and (n,), as for `ForestDetector.assess`.
        seen, line: float32 (n, F) and float64 (n + F,), written to.
        evidence: float64 (n, F), written: weighed evidence of each feature.
        anomaly, p_values: float64 (n,), written: of all evidence.
        concern_anomaly, concern_p_values: float64 (n, 3), written: by concern.
    """
    tails, width, calibrations = tables.tails, X.shape[1], tables.calibrations
    forest, picked = line[: len(X)], line[len(X) :]
    for row in range(len(X)):
        for feature in range(width):
            value = X[row, feature]
            if not np.isfinite(value):
                return int(row * width + feature)
            weighed = value_evidence(value, tails, feature) * tables.importance[feature]
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
        from_forest = value_evidence(forest[row], tables.score_tail, 0)
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


FAMILIAR_EVENTS = 500
"""Number of events in the model's history from which an agent is familiar. Below it, much of what the agent does is new
for the first time, and would be flagged if it were judged as strictly as agents with years of history."""


class Scores(NamedTuple):
    """Scores of n rows."""

    # float64 (n,) in [0, 1], higher is more anomalous, comparable across peer groups: 0.5 is the median of normal
    # behavior, 0.75 what one in a hundred exceeds
    anomaly_score: Floats
    # float64 (n,) in (0, 1], share of held-out normal events of the peer group (or fleet) at least as anomalous
    p_value: Floats
    # float64 (n, F), each feature's own evidence, `-log10 P(X_f >= x)`, times its importance; in [0, 6], for features
    # that are logarithms of probabilities themselves in [0, 12]
    feature_evidence: Floats


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Settings for the training of a `ForestDetector`."""

    trees: int = 100  # trees of the forest
    max_samples: int = 256  # rows each tree sees, at most 4,096
    forest_weight: float = 0.15  # share of the forest in the statistic, 0 (features alone) to 1 (forest alone)
    # how much the largest evidence of an event outweighs the others: a power of two from 1 (all add up) to 64
    norm: int = 8
    seed: int = 0  # seed of the forest and of the folds
    folds: int = 5  # parts in which the history is held out in turn, at least 2
    group_minimum: int = 200  # held-out events that a peer group needs for a separate calibration
    knots: int = 256  # grid size of a feature's tail, a power of two, at least 128
    # part of the alert budget that each concern has, in the order of `CONCERNS`; at most 1 in all. A concern without a
    # share changes no level (`ONE_QUESTION`).
    budget_shares: tuple[float, float, float] = (0.5, 0.4, 0.1)

    def __post_init__(self) -> None:
        for name, low, high in _SETTING_RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"detector setting {name} is {value}; it must be from {low} to {high}")
        if self.norm & (self.norm - 1):
            raise ConfigError(f"detector setting norm is {self.norm}; it must be a power of two")
        shares = self.budget_shares
        if len(shares) != len(CONCERNS) or min(shares) < 0.0 or not 0.0 < sum(shares) <= 1.0 + 1e-9:
            raise ConfigError(
                f"detector setting budget_shares is {list(shares)}; it must be a number from 0 to 1 for each of "
                f"{', '.join(CONCERNS)}, at most 1 in all"
            )


ONE_QUESTION = (0.0, 1.0, 0.0)
"""Shares that treat all anomalies as one concern, as before there were concerns. Evidence that is added to that of
compromise then changes no level."""

_MAX_FEATURE_VALUE = 64.0
"""Upper bound of every feature's value."""

_SETTING_RANGES = (
    ("trees", 1, 10_000),
    ("max_samples", 2, 4096),
    ("forest_weight", 0.0, 1.0),
    ("norm", 1, 64),
    ("seed", 0, 2**32 - 1),
    ("folds", 2, 100),
    ("group_minimum", 1, 2**31),
    ("knots", 128, 4096),
)


@dataclass(frozen=True, slots=True)
class UsualEvidence:
    """Usual evidence of each feature, from the training rows."""

    median: Floats  # float64 (F,), decades
    # float64 (F,), its 90th percentile, decades: evidence up to here explains nothing
    upper: Floats


@dataclass(frozen=True, slots=True)
class ForestDetector:
    """Tail evidence per feature, an isolation forest over it, and conformal calibration per peer group.

    `tests/support/detector_checks.py` states the contract that another detector would have to keep.
    """

    parts: EvidenceCombination  # what turns rows into the statistic T
    scales: PeerScales  # T to anomaly score, per peer group
    calibration: Calibration  # anomaly score to p-value, per peer group
    # the same for agents that the history shows well (`FAMILIAR_EVENTS`), which score lower: part of what is normal is
    # their own past. Without groups if no history was long enough (`walkforward`).
    familiar: Calibration
    by_concern: ConcernModel  # scales and calibrations of each concern
    usual: UsualEvidence  # what is usual, for explanations
    settings: DetectorSettings  # how it was trained
    feature_names: tuple[str, ...]  # names of the F features
    version: str  # version of the model
    _tables: AssessmentTables = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tables = assessment_tables(self.parts, self.scales, self.calibration, self.familiar, self.by_concern)
        object.__setattr__(self, "_tables", tables)  # the class is frozen

    @property
    def budget_shares(self) -> tuple[float, float, float]:
        """The share of the alert budget of each concern, in the order of `CONCERNS`. A concern without a share changes
        no level."""
        return self.settings.budget_shares

    @property
    def asked_by_compromise(self) -> Flags:
        """Flags of the features that are evidence of compromise; none if compromise changes no level."""
        asked = self.by_concern.roles.compromise
        return asked if self.budget_shares[0] > 0.0 else np.zeros_like(asked)

    def assess(
        self,
        X: Floats,
        groups: Ids,
        failed: Flags | None = None,
        familiar: Flags | None = None,
        raising: Floats | None = None,
    ) -> tuple[Scores, ConcernScores]:
        """Score rows, by all evidence and by concern; see `Scores` for ranges and direction.

        Args:
            X: float64 (n, F), finite; not changed.
            groups: uint64 (n,), peer group of each row; 0 or an unknown one means the fleet.
            failed: bool (n,), calls that did not happen: denied, or failed; None = none is.
            familiar: bool (n,), rows of agents that the history shows well (`FAMILIAR_EVENTS`); None = none is.
            raising: float64 (n,) >= 0, evidence of compromise that is not a feature, decades; it is added to all
                evidence, too. None = none.

        Raises:
            NotFinite: a value is NaN or infinite.
            WrongShape: X is not (n, F), or another argument not (n,).
        """
        # The kernel checks no bounds.
        for name, given in (("groups", groups), ("failed", failed), ("familiar", familiar), ("raising", raising)):
            if given is not None and given.shape != (len(X),):
                raise WrongShape(f"rows of shape {X.shape} but {name} of shape {given.shape}")
        X, n = check_rows(X, len(self.feature_names)), len(X)
        scores = Scores(np.empty(n), np.empty(n), np.empty(X.shape))
        concerns = ConcernScores(np.empty((n, len(CONCERNS))), np.empty((n, len(CONCERNS))))
        bad = assess_rows(
            self._tables,
            X,
            np.ascontiguousarray(groups, dtype=np.uint64),
            np.zeros(n, np.bool_) if failed is None else np.ascontiguousarray(failed),
            np.zeros(n, np.bool_) if familiar is None else np.ascontiguousarray(familiar),
            np.zeros(n) if raising is None else np.ascontiguousarray(raising),
            np.empty(X.shape, np.float32),
            np.empty(n + X.shape[1]),
            scores.feature_evidence,
            scores.anomaly_score,
            scores.p_value,
            *concerns,
        )
        if bad >= 0:
            raise self._named(NotFinite(*divmod(bad, X.shape[1])))
        return scores, concerns

    def covers(self, group: int) -> bool:
        """Return whether the p-values of a peer group come from its history; otherwise they come from the fleet's."""
        return self.calibration.covers(group)

    def evidence(self, X: Floats) -> CombinedEvidence:
        """Return the statistic T of rows (n, F) and its parts, in decades, before any calibration."""
        try:
            return combined_evidence(self.parts, X)
        except NotFinite as error:
            raise self._named(error) from None

    def explain(self, X: Floats, raising: Floats | None = None) -> Floats:
        """Return the contribution of each feature to the score of each row.

        The share of the features alone is spread over their evidence above the usual 90th percentile; the share of the
        forest over the steps that shortened the row's paths (`path_shortenings`). Added evidence counts as
        it is. Costs about as much as scoring.

        Args:
            X: float64 (n, F), finite.
            raising: float64 (n, F), decades that were added because of what a feature is about; None = none.

        Returns:
            float64 (n, F), >= 0; each row sums to 1, or is all zero if nothing stands out.

        Raises:
            NotFinite, WrongShape: as `assess`.
        """
        combined = self.evidence(X)
        weight = self.parts.forest_weight
        added = np.where(self.parts.added, combined.feature_evidence, 0.0)
        alone = np.maximum(combined.feature_evidence - added - self.usual.upper, 0.0)
        total = _shares(alone) * ((1.0 - weight) * combined.tails)[:, None]
        if weight > 0.0:
            seen = forest_input(combined.feature_evidence - added, self.parts.importance)
            total += (
                _shares(np.maximum(path_shortenings(self.parts.forest, seen), 0.0))
                * (weight * combined.forest)[:, None]
            )
        return _shares(total + added if raising is None else total + added + raising)

    def usual_values(self) -> Floats:
        """Return the usual value of each feature, (F,): the largest one with no more evidence than the median of the
        training rows.

        A row with such a value is ordinary in that feature, neither anomalous nor more normal than normal.
        """
        low, high = np.zeros(len(self.feature_names)), np.full(len(self.feature_names), _MAX_FEATURE_VALUE)
        for _ in range(60):  # evidence never falls with the value
            middle = 0.5 * (low + high)
            evidence = weighted_evidence(self.parts.tails, self.parts.importance, middle[None, :])[0]
            ordinary = evidence <= self.usual.median
            low, high = np.where(ordinary, middle, low), np.where(ordinary, high, middle)
        return low

    def _named(self, error: NotFinite) -> NotFinite:
        name = self.feature_names[error.feature] if isinstance(error.feature, int) else error.feature
        return NotFinite(error.row, name)


def fit_usual_evidence(parts: EvidenceCombination, X: Floats) -> UsualEvidence:
    """Compute median and 90th percentile of each feature's evidence over training rows (n, F)."""
    median, upper = np.quantile(weighted_evidence(parts.tails, parts.importance, X), [0.5, 0.9], axis=0)
    return UsualEvidence(median, upper)


def _shares(amounts: Floats) -> Floats:
    """Scale rows (n, F) of amounts >= 0 to sum 1. Rows of zeros stay zero."""
    total = amounts.sum(axis=1, keepdims=True)
    shares = np.zeros_like(amounts)
    np.divide(amounts, total, out=shares, where=total > 0.0)
    return shares
