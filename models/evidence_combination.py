"""The statistic T of an event: evidence of the forest and of the most unusual features, in decades.

`T = w * u_forest + (1 - w) * (sum_f u_f**norm) ** (1 / norm)` with each feature's evidence `u_f`. A high norm is close
to the largest evidence, and lets further odd features add to it; a sum would let many slightly odd ones drown one that
is impossible. The forest sees combinations that no feature shows alone; the norm sees what its random cuts miss.

Evidence is weighed by the *importance* that a feature has by its meaning (the feature table says why) before all this.
A forest cuts every feature alike whatever its scale, and drowns in features that do not matter; those below
`FOREST_MIN_IMPORTANCE` are kept from it.

A norm asks how odd the oddest is; that is no question for evidence of another kind. Whence a call has its arguments is
independent of how odd the call is, so its evidence, minus the logarithm of the rate at which honest calls show it, is
added (`added`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.compilation import compiled, inlined

from .feature_tails import TailTables, tail_evidence, value_evidence
from .forest_evaluator import ForestArrays, forest_scores

FOREST_MIN_IMPORTANCE = 0.5
"""Least importance of a feature that the forest sees."""


class EvidenceCombination(NamedTuple):
    """Everything that turns rows into T. All arrays are read only by convention: a combination is a snapshot."""

    tails: TailTables  # upper tails of the F features
    forest: ForestArrays  # forest over the evidence of the F features
    score_tail: TailTables  # upper tail of the forest's scores, one "feature"
    forest_weight: float  # w in [0, 1]
    norm: int  # a power of two, 1 (sum) to 64 (all but the largest)
    importance: NDArray[np.float64]  # float64 (F,) in [0, 1], factor of each feature's evidence
    # bool (F,), features whose evidence is no part of T and is added to it on the scale of p-values
    added: NDArray[np.bool_]


class CombinedEvidence(NamedTuple):
    """T and its parts, all in decades: statistic (n,), forest (n,), tails (n,), u (n, F), weighed, and the sum of the
    features that are added to it (n,); and whether any of those could bring evidence, bool (n,)."""

    statistic: NDArray[np.float64]
    forest: NDArray[np.float64]
    tails: NDArray[np.float64]
    feature_evidence: NDArray[np.float64]
    added: NDArray[np.float64]
    addable: NDArray[np.bool_]


def combined_evidence(parts: EvidenceCombination, X: NDArray[np.float64]) -> CombinedEvidence:
    """T of rows (n, F) and its parts.

    Raises:
        NotFinite: a value is NaN or infinite.
        WrongShape: X is not (n, F).
    """
    combined = combine_evidence(parts, weighted_evidence(parts.tails, parts.importance, X))
    return combined._replace(addable=np.any(X[:, parts.added] > 0.0, axis=1, keepdims=True)[:, 0])


def weighted_evidence(
    tails: TailTables, importance: NDArray[np.float64], X: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Tail evidence of rows (n, F), each feature's times its importance."""
    return np.asarray(tail_evidence(tails, X) * importance)


def is_seen_by_forest(importance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Flags (F,) of the features that the forest sees."""
    return np.asarray(importance >= FOREST_MIN_IMPORTANCE)


def forest_input(u: NDArray[np.float64], importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The evidence (n, F) that the forest sees: features of little importance are constant, so no tree cuts them."""
    return np.asarray(u * is_seen_by_forest(importance))


def combine_evidence(parts: EvidenceCombination, u: NDArray[np.float64]) -> CombinedEvidence:
    """T of rows whose weighed evidence (n, F) is known already."""
    inner = np.where(parts.added, 0.0, u)
    scores = forest_scores(parts.forest, forest_input(inner, parts.importance))
    statistic, from_forest, from_tails = np.empty((3, len(u)))
    tail = parts.score_tail
    combine_rows(
        inner, scores, tail.x, tail.u, tail.rate, parts.forest_weight, parts.norm, from_forest, from_tails, statistic
    )
    added = u[:, parts.added].sum(axis=1)
    return CombinedEvidence(statistic, from_forest, from_tails, u, added, added > 0.0)


@inlined
def power_norm(u: NDArray[np.float64], norm: int) -> float:
    """Norm of one row, relative to its largest so that nothing underflows."""
    largest = 0.0
    for feature in range(len(u)):
        largest = max(largest, u[feature])
    if largest <= 0.0:
        return 0.0
    total = 0.0
    for feature in range(len(u)):
        share = u[feature] / largest
        power = norm
        while power > 1:
            share *= share
            power >>= 1
        total += share
    return float(largest * total ** (1.0 / norm))


@compiled
def power_norms(u: NDArray[np.float64], norm: int) -> NDArray[np.float64]:
    """Norm (n,) of each row of evidence (n, k), a power of two from 1, the sum, to 64, about the largest."""
    out = np.empty(len(u))
    for row in range(len(u)):
        out[row] = power_norm(u[row], norm)
    return out


@compiled
def combine_rows(
    u: NDArray[np.float64],
    scores: NDArray[np.float64],
    tail_x: NDArray[np.float64],
    tail_u: NDArray[np.float64],
    tail_rate: NDArray[np.float64],
    forest_weight: float,
    norm: int,
    from_forest: NDArray[np.float64],
    from_tails: NDArray[np.float64],
    statistic: NDArray[np.float64],
) -> None:
    """Evidence of the forest, of the features, and T, of each row."""
    for row in range(len(u)):
        from_tails[row] = power_norm(u[row], norm)
        from_forest[row] = value_evidence(scores[row], tail_x, tail_u, tail_rate, 0)
        statistic[row] = forest_weight * from_forest[row] + (1.0 - forest_weight) * from_tails[row]
