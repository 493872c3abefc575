"""A detector: feature vectors in, calibrated anomaly scores and p-values out, with the features that made them.

It is a snapshot: scoring changes nothing, and an event is scored before anything learns from it. `detector_training.py`
fits one, `model_persistence.py` writes and reads one; scoring needs neither scikit-learn nor the training data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.errors import ConfigError

from .assessment_kernel import AssessmentTables, assess_rows, assessment_tables
from .calibration import Calibration, PeerScales, anomaly_scores
from .concerns import CONCERNS, ConcernModel, ConcernScores
from .evidence_combination import (
    CombinedEvidence,
    EvidenceCombination,
    combined_evidence,
    forest_input,
    weighted_evidence,
)
from .feature_tails import check_rows
from .forest_evaluator import path_shortenings
from .input_checks import NotFinite, WrongShape

FAMILIAR_EVENTS = 500
"""Events in the model's history from which an agent is familiar. Below, much that it does is new for the first time,
and judged as calm as agents of years it would be flagged for that."""


class Scores(NamedTuple):
    """Scores of n rows."""

    # float64 (n,) in [0, 1], higher is more anomalous, comparable across peer groups: 0.5 is the median of normal
    # behaviour, 0.75 what one in a hundred exceeds
    anomaly_score: NDArray[np.float64]
    # float64 (n,) in (0, 1], share of held-out normal events of the peer group (or fleet) at least as anomalous
    p_value: NDArray[np.float64]
    # float64 (n, F), each feature's own evidence, `-log10 P(X_f >= x)`, times its importance; in [0, 6], for features
    # that are logarithms of probabilities themselves in [0, 12]
    feature_evidence: NDArray[np.float64]


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
    group_minimum: int = 200  # held-out events from which a peer group is calibrated by itself
    knots: int = 256  # grid size of a feature's tail, a power of two, at least 128
    # part of the alert budget that each concern has, in the order of `CONCERNS`; at most 1 in all. A concern with none
    # moves no level (`ONE_QUESTION`).
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
"""Shares with which all oddities are one question, as before there were concerns. Evidence that is added to that of
compromise moves no level then."""

_MAX_FEATURE_VALUE = 64.0
"""Value that no feature exceeds."""

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

    median: NDArray[np.float64]  # float64 (F,), decades
    # float64 (F,), its 90th percentile, decades: evidence up to here is no reason for anything
    upper: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ForestDetector:
    """Tail evidence per feature, an isolation forest over it, and conformal calibration per peer group.

    `tests/support/detector_checks.py` states the contract that another detector would have to keep.
    """

    parts: EvidenceCombination  # what turns rows into the statistic T
    scales: PeerScales  # T to anomaly score, per peer group
    calibration: Calibration  # anomaly score to p-value, per peer group
    # the same for agents that the history shows well (`FAMILIAR_EVENTS`), which are calmer: part of what is normal is
    # their own past. Without groups, where no history was long enough to tell (`walkforward`).
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

    def score(
        self, X: NDArray[np.float64], groups: NDArray[np.uint64], familiar: NDArray[np.bool_] | None = None
    ) -> Scores:
        """Score rows.

        Args:
            X: float64 (n, F), finite; not changed.
            groups: uint64 (n,), peer group of each row; 0 or an unknown one means the fleet.
            familiar: bool (n,), rows of agents that the history shows well (`FAMILIAR_EVENTS`); None = none is.

        Returns:
            scores; see `Scores` for ranges and direction.

        Raises:
            NotFinite: a value is NaN or infinite.
            WrongShape: X is not (n, F) or groups not (n,).
        """
        if groups.shape != (len(X),):
            raise WrongShape(f"rows of shape {X.shape} but groups of shape {groups.shape}")
        combined = self.evidence(X)
        return self._scores(combined, combined.added, np.ascontiguousarray(groups, dtype=np.uint64), familiar)

    def _scores(
        self,
        combined: CombinedEvidence,
        added: NDArray[np.float64],
        groups: NDArray[np.uint64],
        familiar: NDArray[np.bool_] | None,
    ) -> Scores:
        anomaly = anomaly_scores(self.scales, combined.statistic, groups, added)
        p_values = self.calibration.p_values(anomaly, groups, combined.addable)
        if familiar is not None and len(self.familiar.groups) and familiar.any():
            p_values[familiar] = self.familiar.p_values(anomaly[familiar], groups[familiar])
        return Scores(anomaly, p_values, combined.feature_evidence)

    @property
    def budget_shares(self) -> tuple[float, float, float]:
        """Part of the alert budget that each concern has, in the order of `CONCERNS`; one with none moves no level."""
        return self.settings.budget_shares

    @property
    def asked_by_compromise(self) -> NDArray[np.bool_]:
        """Features that are evidence of compromise; none if that moves no level."""
        asked = self.by_concern.roles.compromise
        return asked if self.budget_shares[0] > 0.0 else np.zeros_like(asked)

    def assess(
        self,
        X: NDArray[np.float64],
        groups: NDArray[np.uint64],
        failed: NDArray[np.bool_],
        familiar: NDArray[np.bool_] | None = None,
        raising: NDArray[np.float64] | None = None,
    ) -> tuple[Scores, ConcernScores]:
        """Scores of rows, of all evidence and by concern.

        Args:
            X, groups, familiar: as for `score`.
            failed: bool (n,), calls that did not happen: denied, or failed.
            raising: float64 (n,) >= 0, evidence of compromise that is no feature, decades; it is added, to all
                evidence, too. None = none.

        Raises:
            NotFinite, WrongShape: as `score`.
        """
        if groups.shape != (len(X),) or failed.shape != (len(X),):
            raise WrongShape(f"rows of shape {X.shape}, groups of shape {groups.shape}, failed of shape {failed.shape}")
        for name, given in (("familiar", familiar), ("raising", raising)):  # the kernel reads them unasked
            if given is not None and given.shape != (len(X),):
                raise WrongShape(f"rows of shape {X.shape} but {name} of shape {given.shape}")
        X, n = check_rows(X, len(self.feature_names)), len(X)
        scores = Scores(np.empty(n), np.empty(n), np.empty(X.shape))
        concerns = ConcernScores(np.empty((n, len(CONCERNS))), np.empty((n, len(CONCERNS))))
        bad = assess_rows(
            self._tables,
            X,
            np.ascontiguousarray(groups, dtype=np.uint64),
            np.ascontiguousarray(failed),
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
        """Returns whether the p-values of a peer group rest on its own history; if not, on the fleet's."""
        return self.calibration.covers(group)

    def evidence(self, X: NDArray[np.float64]) -> CombinedEvidence:
        """The statistic T of rows (n, F) and its parts, in decades, before any calibration."""
        try:
            return combined_evidence(self.parts, X)
        except NotFinite as error:
            raise self._named(error) from None

    def explain(self, X: NDArray[np.float64], raising: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Contribution of each feature to the score of each row.

        The share of the features alone is spread over their evidence above the usual 90th percentile; the share of the
        forest over the steps that shortened the row's paths (`path_shortenings`). Evidence that is added stands for
        itself. Costs about as much as scoring.

        Args:
            X: float64 (n, F), finite.
            raising: float64 (n, F), decades that were added because of what a feature is about; None = none.

        Returns:
            float64 (n, F), >= 0; each row sums to 1, or is all zero if nothing stands out.

        Raises:
            NotFinite, WrongShape: as `score`.
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

    def usual_values(self) -> NDArray[np.float64]:
        """Value of each feature, (F,): the largest one with no more evidence than the median of the training rows.

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


def fit_usual_evidence(parts: EvidenceCombination, X: NDArray[np.float64]) -> UsualEvidence:
    """Median and 90th percentile of each feature's evidence over training rows (n, F)."""
    median, upper = np.quantile(weighted_evidence(parts.tails, parts.importance, X), [0.5, 0.9], axis=0)
    return UsualEvidence(median, upper)


def _shares(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (n, F) of amounts >= 0, scaled to sum 1; rows without any stay zero."""
    total = amounts.sum(axis=1, keepdims=True)
    shares = np.zeros_like(amounts)
    np.divide(amounts, total, out=shares, where=total > 0.0)
    return shares
