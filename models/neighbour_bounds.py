"""Bound how much each tenant's held-out calls count for the thresholds of others.

One model is trained on all tenants, and a few anomalous calls of any tenant would raise a threshold that is read from
the calls of all. So a neighbor fills at most twice its share of all calls among the calls that may wait, and at most
half of the shares of all others (`bounded_part`). All neighbors together leave a tenant a quarter of its own share, in
whole calls: if its calls are too few for one, its threshold rests on others. Calls above these bounds are left out, and
the threshold falls to the next calls that count. All of a tenant's own calls count.

If tenants are alike, nothing changes: shares are hardly ever exceeded by that much. A closer bound, or thresholds from
a tenant's own calls alone, keep neighbors out better. But what is new comes in bursts, to one tenant this week and to
another the next: the first such call of a tenant that has seen none would wait.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .input_checks import Floats, Ids, Ints

OWN_PART = 0.25
"""Part of a tenant's share of the waiting calls that all its neighbors together leave to it."""
MAX_TENANTS = 8
"""Maximum number of tenants with separate thresholds."""

_ROUNDING = 1e-9


class RankedCalls(NamedTuple):
    """n calls of T tenants in the order of their scores."""

    scores: Floats  # (n,), descending
    tenants: Ints  # (n,), numbers of their tenants in `keys`
    places: Ints  # (n,), calls of the same tenant that come before
    keys: Ids  # (T,), hashed names
    calls: Ints  # (T,), of each tenant

    def without_largest(self, own: int | None = None) -> int:
        """Return the number of calls without the largest neighbor of *own*."""
        of_others = self.calls.copy()
        if own is not None:
            of_others[own] = 0
        return int(self.calls.sum() - of_others.max(initial=0))


def rank_calls(tenants: Ids, scores: Floats) -> RankedCalls:
    """Rank calls (n,) of hashed *tenants* by *scores*."""
    order = np.argsort(-scores, kind="stable")
    keys, numbers, calls = np.unique(tenants[order], return_inverse=True, return_counts=True)
    by_tenant = np.argsort(numbers, kind="stable")
    places = np.empty(len(order), np.int64)
    places[by_tenant] = np.arange(len(order)) - np.repeat(np.cumsum(calls) - calls, calls)
    return RankedCalls(scores[order], numbers.astype(np.int64), places, keys, calls)


def bounded_part(share: Floats) -> Floats:
    """Return the largest part of the waiting calls that a neighbor with a share (T,) of all calls may fill.

    >>> bounded_part(np.array([0.1, 0.25, 0.5, 0.75, 1.0])).tolist()
    [0.2, 0.5, 0.75, 0.875, 1.0]
    """
    return share + np.minimum(share, (1.0 - share) / 2)


class BoundedScores(NamedTuple):
    """Scores at ranks of calls whose tenants are bounded."""

    scores: Floats  # (k,), descending
    left_out: Floats  # (T,), calls of each tenant that were left out, as the largest part of a rank


def bounded_scores(calls: RankedCalls, ranks: Ints, own: int | None = None) -> BoundedScores:
    """Return the scores at *ranks* (k,), ascending from 1, counting only bounded calls above each."""
    shares = calls.calls / max(1, len(calls.scores))
    parts = bounded_part(shares)
    kept_free = 0.0
    if own is not None:
        parts[own], kept_free = np.inf, shares[own] * OWN_PART
    reserved = np.floor(ranks * kept_free + _ROUNDING).astype(np.int64)
    at = [_index_at(calls, int(rank), rank * parts, own, int(few)) for rank, few in zip(ranks, reserved, strict=True)]
    at = np.maximum.accumulate(at).tolist()
    left_out = np.zeros(len(parts))
    for rank, index in zip(ranks.tolist(), at, strict=True):
        above = np.bincount(calls.tenants[:index], minlength=len(parts))
        left_out = np.maximum(left_out, (above - rank * parts) / rank)
    return BoundedScores(calls.scores[at], left_out)


def _index_at(calls: RankedCalls, rank: int, most: Floats, own: int | None, reserved: int) -> int:
    """Return the index of the last call above which fewer than *rank* calls count, if each tenant counts at most so
    often (T,) and all but *own* together leave *reserved*."""
    n, looked_at = len(calls.scores), 2 * rank
    while True:
        tenants = calls.tenants[:looked_at]
        counted = np.clip(most[tenants] - calls.places[:looked_at], 0.0, 1.0)
        of_own = np.where(tenants == own, counted, 0.0) if reserved else np.zeros(len(tenants))
        of_others = np.minimum(np.cumsum(counted - of_own), rank - reserved)
        above = np.concatenate(([0.0], (of_others + np.cumsum(of_own))[:-1]))
        if looked_at >= n or above[-1] > rank - 1 + _ROUNDING:
            return int(np.searchsorted(above, rank - 1 + _ROUNDING, side="right")) - 1
        looked_at *= 2


def tenants_apart(calls: RankedCalls, left_out: Floats) -> list[int]:
    """Return the numbers of tenants with separate thresholds, at most `MAX_TENANTS`: those whose own calls count more
    for them than for others, up to half of them, and those with the most calls."""
    odd = [int(number) for number in np.argsort(-left_out, kind="stable") if left_out[number] > _ROUNDING]
    largest = np.argsort(-calls.calls, kind="stable")
    apart = dict.fromkeys([*odd[: MAX_TENANTS // 2], *map(int, largest)])
    return sorted(list(apart)[:MAX_TENANTS])
