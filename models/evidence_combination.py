"""The statistic T of an event: evidence of the forest and of the most unusual features, in decades.

`T = w * u_forest + (1 - w) * (sum_f u_f**norm) ** (1 / norm)` with each feature's evidence `u_f`. A high norm is close
to the largest evidence, and lets further anomalous features add to it; a sum would let many slightly anomalous features
drown one that is impossible. The forest sees combinations that no feature shows alone; the norm sees what the forest's
random cuts miss.

Evidence is weighed by the *importance* that a feature has by its meaning (the feature table says why) before all this.
A forest cuts every feature alike whatever its scale, and drowns in features that do not matter; those below
`FOREST_MIN_IMPORTANCE` are kept from it.

A norm measures how anomalous the most anomalous feature is, which does not fit evidence of another kind. Where a call
gets its arguments is independent of how anomalous the call is, so its evidence, minus the logarithm of the rate at
which honest calls show it, is added (`added`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trustwatch.ingest.compilation import compiled, inlined
from trustwatch.ingest.errors import ConfigError

from .forest_evaluator import ForestArrays, forest_scores
from .input_checks import Flags, Floats, Ints, NotFinite, WrongShape, finite_float32

# Anomaly of each single feature: the upper tail of what training saw, as evidence in decades.
#
# Every feature points one way, higher is more suspicious, so `u = -log10 P(X_f >= x)`: 0 is ordinary, 2 is one in a
# hundred. P is counted as conformal prediction does, `(1 + #{values >= x}) / (n + 1)`. The curve is kept as a grid of
# knots with linear pieces between them. A value that many rows share makes the curve jump; it gets a second knot just
# above, so that 0 in 99 % of the rows has evidence 0 and anything above has 2. Beyond the training maximum the tail
# continues exponentially.


EVIDENCE_CAP = 6.0
"""Maximum evidence of one feature, in decades: no single feature can drown all others."""
SURPRISE_CAP = 12.0
"""Maximum evidence of features that are logarithms of probabilities themselves."""
TRAINING_RANGE_CAP = 5.0
"""Maximum evidence of a value within the training range, so that going beyond it always shows (it matters from 100,000
rows)."""
ADDED_MIN_EVIDENCE = float(-np.log10(0.05))
"""Minimum evidence of a cumulative feature that is added to all others: one in twenty."""
_EXCESS_STEP, _LEAST_EXCESS = 0.25, 2.0
"""Smallest meaningful difference of such a feature, in bits, and the smallest value that is evidence."""
_JUMP = 0.1  # decades by which the curve must jump at a shared value to give it a second knot
_MOST_JUMPS = int(TRAINING_RANGE_CAP / _JUMP)
_TAIL_SHARE, _TAIL_LEAST = 0.01, 10  # largest values that the exponential tail is fitted to
_RELATIVE_RESOLUTION, _CONSTANT_RESOLUTION = 0.01, 1.0
_STEEPEST = 1e300  # decades per unit; infinity would make 0 * inf = NaN at the knot itself


class TailTables(NamedTuple):
    """Upper tails of F features with at most K knots each."""

    x: Floats  # float64 (F, K), ascending values; unused places at the end are +inf
    # float64 (F, K + 1), evidence at `x`, in [0, CAP] (or SURPRISE_CAP), non-decreasing; the cap after the last
    u: Floats
    rate: Floats  # float64 (F, K), decades per unit from a knot on; of the last: the exponential tail

    @property
    def n_features(self) -> int:
        return int(self.x.shape[0])


def fit_tails(
    X: Floats, knots: int = 256, resolution: ArrayLike | None = None, decades: ArrayLike | None = None
) -> TailTables:
    """Learn the upper tail of each feature.

    Args:
        X: float64 (n, F), finite.
        knots: size of the grid, a power of two, at least 128.
        resolution: float64 (F,) or one number, > 0: the smallest difference of the feature that means something. The
            scale of the tail beyond the maximum is at least this, so a feature that was constant in training does not
            explode: each further step of one resolution adds at most 0.43 decades. Default: 1 % of the range in
            training, 1.0 if constant.
        decades: float64 (F,) or one number, >= 0: decades per unit of features that measure the logarithm of a
            probability themselves, 0 for the others. Their evidence is what they say, up to `SURPRISE_CAP`: counting
            how often surprises occurred in training would only lose what training did not show.

    Raises:
        NotFinite: a value is NaN, infinite or beyond float32.
        ConfigError: knots or resolution are out of range.
    """
    X = finite_float32(X)
    if knots < 128 or knots & (knots - 1):
        raise ConfigError(f"knots is {knots}; it must be a power of two, at least 128")
    steps = _resolutions(X, resolution)
    tables = TailTables(
        np.full((X.shape[1], knots), np.inf),
        np.full((X.shape[1], knots + 1), EVIDENCE_CAP),
        np.zeros((X.shape[1], knots)),
    )
    given_decades = np.broadcast_to(np.asarray(0.0 if decades is None else decades, np.float64), (X.shape[1],))
    for feature in range(X.shape[1]):
        if given_decades[feature] > 0.0:
            tables.x[feature, 0], tables.rate[feature, 0] = 0.0, given_decades[feature]
            tables.u[feature, 0], tables.u[feature, 1:] = 0.0, SURPRISE_CAP
            continue
        ordered = np.sort(X[:, feature])
        x, u = _knots_of_feature(ordered, knots, float(steps[feature]))
        with np.errstate(over="ignore"):  # denormal distances; limited to _STEEPEST
            inner = np.minimum(np.diff(u) / np.diff(x), _STEEPEST)
        tables.x[feature, : len(x)], tables.u[feature, : len(u)] = x, u
        tables.rate[feature, : len(x)] = [*inner, _tail_rate(ordered, float(steps[feature]))]
    return tables


def set_rate_tail(tables: TailTables, feature: int, values: Floats, rate_between: float) -> None:
    """Replace the tail of a ranked feature by a rate: among values (n,) from 1 on, how often 2, or 3, is reached.

    Evidence is `-log10((1 + #{values >= 2}) / (1 + #{values >= 1}))` from 2 on, and likewise from 3 on: none if no
    row could show it. From 1.5 on it is that of *rate_between* in (0, 1], which is counted elsewhere, and at most that
    of 2; below 0.
    """
    of_2, of_3 = (
        min(-np.log10((1.0 + (values >= rank).sum()) / (1.0 + (values >= 1.0).sum())), EVIDENCE_CAP)
        for rank in (2.0, 3.0)
    )
    tables.x[feature], tables.u[feature], tables.rate[feature] = np.inf, of_3, 0.0
    tables.x[feature, :4] = 0.0, 1.5, 2.0, 3.0
    tables.u[feature, :3] = 0.0, min(-np.log10(rate_between), of_2), of_2


def set_excess_tail(tables: TailTables, feature: int, values: Floats) -> None:
    """Replace the tail of a feature by that of the values (n,) from 1 on. Values below 1 bring no evidence.

    Evidence begins at 2, one bit, and with what at most one in twenty of the values reach: it is added, so that small
    amounts would only be noise. If values hardly differ, an unusual one need not mean anything.
    """
    comparable = values[values >= 1.0]
    tables.x[feature], tables.u[feature], tables.rate[feature] = np.inf, 0.0, 0.0
    tables.x[feature, 0] = 0.0
    if not len(comparable):
        return
    comparable = np.sort(np.append(comparable, _LEAST_EXCESS))  # a knot, should no value come near it
    x, u = _knots_of_feature(comparable, tables.x.shape[1], _EXCESS_STEP)
    kept = (u >= ADDED_MIN_EVIDENCE) & (x >= _LEAST_EXCESS)
    if not kept.any():
        return
    x, u = x[kept], u[kept]
    tables.x[feature, 1 : len(x) + 1], tables.u[feature, 1 : len(x) + 1] = x, u
    tables.u[feature, len(x) + 1 :] = EVIDENCE_CAP
    with np.errstate(over="ignore"):
        tables.rate[feature, 1 : len(x)] = np.minimum(np.diff(u) / np.diff(x), _STEEPEST)
    tables.rate[feature, len(x)] = _tail_rate(comparable, _EXCESS_STEP)


def _resolutions(X: Floats, resolution: ArrayLike | None) -> Floats:
    if resolution is None:
        spread = np.ptp(X, axis=0)
        return np.where(spread > 0.0, np.maximum(spread * _RELATIVE_RESOLUTION, 1e-6), _CONSTANT_RESOLUTION)
    steps = np.broadcast_to(np.asarray(resolution, np.float64), (X.shape[1],))
    if not (np.isfinite(steps) & (steps > 0.0)).all():
        raise ConfigError("resolution must be positive and finite for every feature")
    return np.array(steps)


def _knots_of_feature(ordered: Floats, knots: int, step: float) -> tuple[Floats, Floats]:
    """Return at most *knots* knots of one feature: strictly ascending values, non-decreasing evidence."""
    n = len(ordered)
    values, counts = np.unique(ordered, return_counts=True)
    above = n - np.cumsum(counts)
    at, beyond = _count_to_decades(above + counts, n), _count_to_decades(above, n)
    jumps = (counts > 1) & (beyond - at > _JUMP)
    places = knots - 2 * _MOST_JUMPS
    chosen = np.arange(len(at))
    if len(at) > places:  # half of the values by rank and half by evidence
        ranks = np.cumsum(counts)
        by_rank = np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], places // 2))
        by_evidence = np.searchsorted(at, np.linspace(0.0, at[-1], places // 2))
        chosen = np.union1d(by_rank, by_evidence)
    chosen = np.union1d(chosen, np.flatnonzero(jumps))
    gaps = np.append(np.diff(values), np.inf)
    after = values + np.minimum(step, gaps / 2)
    # between two neighboring floats there is no room for a second knot; the next value carries the same evidence
    # anyway
    jumps &= (after > values) & (after < np.append(values[1:], np.inf))
    x = np.concatenate([values[chosen], after[jumps]])
    u = np.concatenate([at[chosen], beyond[jumps]])
    order = np.argsort(x)
    return x[order], u[order]


def _count_to_decades(at_least: Ints, n: int) -> Floats:
    decades: Floats = np.minimum(-np.log10((1.0 + at_least) / (n + 1.0)), TRAINING_RANGE_CAP)
    return np.abs(decades)  # no negative zero


def _tail_rate(ordered: Floats, step: float) -> float:
    """Return the decades per unit beyond the maximum, from the exponential through the mean excess of the largest
    values."""
    n = len(ordered)
    largest = min(max(int(np.ceil(n * _TAIL_SHARE)), _TAIL_LEAST), n - 1)
    excess = ordered[n - largest :] - ordered[n - largest - 1]
    scale = max(float(excess.mean()) if largest else 0.0, step)
    return min(float(np.log10(np.e)) / scale, _STEEPEST)


@inlined
def value_evidence(value: float, tails: TailTables, feature: int) -> float:
    """Return the evidence of one finite value, from 0 to the cap; non-decreasing in the value, also after rounding."""
    x, u = tails.x, tails.u
    if value <= x[feature, 0]:
        return float(u[feature, 0])
    knot = 0
    step = x.shape[1] >> 1
    while step > 0:
        knot += step if x[feature, knot + step] <= value else 0
        step >>= 1
    result = u[feature, knot] + tails.rate[feature, knot] * (value - x[feature, knot])
    return float(min(result, u[feature, knot + 1]))


@compiled
def evidence_rows(X: Floats, tails: TailTables, out: Floats) -> int:
    """Write the evidence of rows into `out` (n, F); return -1, or `row * F + feature` of the first value that is not
    finite."""
    for row in range(X.shape[0]):
        for feature in range(X.shape[1]):
            value = X[row, feature]
            if not np.isfinite(value):
                return int(row * X.shape[1] + feature)
            out[row, feature] = value_evidence(value, tails, feature)
    return -1


def check_rows(X: Floats, features: int) -> Floats:
    """Return rows as a contiguous float64 matrix (n, *features*). Raises WrongShape."""
    X = np.ascontiguousarray(X, dtype=np.float64)
    if X.ndim != 2 or X.shape[1] != features:
        raise WrongShape(f"the model has {features} features, the rows have shape {X.shape}")
    return X


def tail_evidence(tails: TailTables, X: Floats) -> Floats:
    """Return the evidence of every value, in decades.

    Args:
        tails: from `fit_tails`.
        X: float64 (n, F), finite.

    Returns:
        float64 (n, F) in [0, CAP], in [0, SURPRISE_CAP] for features fitted with `decades`; non-decreasing in each
        value, strictly increasing beyond the training maximum up to the cap.

    Raises:
        NotFinite: a value is NaN or infinite.
        WrongShape: X is not (n, F).
    """
    X = check_rows(X, tails.n_features)
    out = np.empty_like(X)
    bad = evidence_rows(X, tails, out)
    if bad >= 0:
        raise NotFinite(*divmod(bad, tails.n_features))
    return out


FOREST_MIN_IMPORTANCE = 0.5
"""Minimum importance of a feature that the forest uses."""


class EvidenceCombination(NamedTuple):
    """The parameters that turn rows into T. All arrays are treated as read-only."""

    tails: TailTables  # upper tails of the F features
    forest: ForestArrays  # forest over the evidence of the F features
    score_tail: TailTables  # upper tail of the forest's scores, one "feature"
    forest_weight: float  # w in [0, 1]
    norm: int  # a power of two, 1 (sum) to 64 (all but the largest)
    importance: Floats  # float64 (F,) in [0, 1], factor of each feature's evidence
    # bool (F,), features whose evidence is not part of T and is added to it on the scale of p-values
    added: Flags


class CombinedEvidence(NamedTuple):
    """T and its parts, all in decades: statistic (n,), forest (n,), tails (n,), u (n, F), weighed, and the sum of the
    features that are added to it (n,); and whether any of those could bring evidence, bool (n,)."""

    statistic: Floats
    forest: Floats
    tails: Floats
    feature_evidence: Floats
    added: Floats
    addable: Flags


def combined_evidence(parts: EvidenceCombination, X: Floats) -> CombinedEvidence:
    """Return T of rows (n, F) and its parts.

    Raises:
        NotFinite: a value is NaN or infinite.
        WrongShape: X is not (n, F).
    """
    combined = combine_evidence(parts, weighted_evidence(parts.tails, parts.importance, X))
    return combined._replace(addable=np.any(X[:, parts.added] > 0.0, axis=1, keepdims=True)[:, 0])


def weighted_evidence(tails: TailTables, importance: Floats, X: Floats) -> Floats:
    """Return the tail evidence of rows (n, F), each feature's times its importance."""
    return np.asarray(tail_evidence(tails, X) * importance)


def is_seen_by_forest(importance: Floats) -> Flags:
    """Flag (F,) the features that the forest uses."""
    return np.asarray(importance >= FOREST_MIN_IMPORTANCE)


def forest_input(u: Floats, importance: Floats) -> Floats:
    """Return the evidence (n, F) that the forest uses. Features of little importance are constant, so no tree splits on
    them."""
    return np.asarray(u * is_seen_by_forest(importance))


def combine_evidence(parts: EvidenceCombination, u: Floats) -> CombinedEvidence:
    """Return T of rows whose weighted evidence (n, F) is known."""
    inner = np.where(parts.added, 0.0, u)
    scores = forest_scores(parts.forest, forest_input(inner, parts.importance))
    statistic, from_forest, from_tails = np.empty((3, len(u)))
    combine_rows(inner, scores, parts.score_tail, parts.forest_weight, parts.norm, from_forest, from_tails, statistic)
    added = u[:, parts.added].sum(axis=1)
    return CombinedEvidence(statistic, from_forest, from_tails, u, added, added > 0.0)


@inlined
def power_norm(u: Floats, norm: int) -> float:
    """Return the norm of one row, relative to its largest value so that nothing underflows."""
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
def power_norms(u: Floats, norm: int) -> Floats:
    """Return the norm (n,) of each row of evidence (n, k); the power ranges from 1, the sum, to 64, about the
    largest."""
    out = np.empty(len(u))
    for row in range(len(u)):
        out[row] = power_norm(u[row], norm)
    return out


@compiled
def combine_rows(
    u: Floats,
    scores: Floats,
    score_tail: TailTables,
    forest_weight: float,
    norm: int,
    from_forest: Floats,
    from_tails: Floats,
    statistic: Floats,
) -> None:
    """Compute the evidence of the forest and of the features, and T, of each row."""
    for row in range(len(u)):
        from_tails[row] = power_norm(u[row], norm)
        from_forest[row] = value_evidence(scores[row], score_tail, 0)
        statistic[row] = forest_weight * from_forest[row] + (1.0 - forest_weight) * from_tails[row]
