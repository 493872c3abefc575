"""Seeded randomness, cheap to draw from one at a time, and identifiers that are unique by construction."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np

_BLOCK_SIZE = 64
"""Numbers drawn from numpy at once: large enough to hide the call, small enough for 10,000 streams (2 kB each)."""

_QUANTILE_COUNT = 2048
_NORMAL_QUANTILES = tuple(NormalDist().inv_cdf((i + 0.5) / _QUANTILE_COUNT) for i in range(_QUANTILE_COUNT))
_MASK = (1 << 64) - 1


class RandomStream:
    """One independent stream of random numbers."""

    __slots__ = ("_block", "_key", "_rng")

    def __init__(self, *key: int) -> None:
        self._key = key
        self._rng: np.random.Generator | None = None
        self._block: list[float] = []

    def _fill_block(self) -> list[float]:
        # Made on first use: most of 10,000 agents may stay silent in a short run.
        if self._rng is None:
            self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self._key)))
        self._block = self._rng.random(_BLOCK_SIZE).tolist()
        return self._block

    def uniform(self) -> float:
        """Uniform in [0, 1)."""
        return (self._block or self._fill_block()).pop()

    def uniform_index(self, n: int) -> int:
        """Uniform whole number in [0, n)."""
        return int((self._block or self._fill_block()).pop() * n)

    def uniform_between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * (self._block or self._fill_block()).pop()

    def zipf_rank(self, n: int) -> int:
        """Rank in [0, n) with a Zipf-like tail: rank k is drawn with probability log((k+2)/(k+1)) / log(n+1)."""
        return min(int((n + 1) ** (self._block or self._fill_block()).pop()) - 1, n - 1)

    def lognormal(self, median: float, sigma: float) -> float:
        """Log-normal, cut at 3.5 sigma (a table of quantiles; no stray value spoils a test or a demo)."""
        return median * math.exp(
            sigma * _NORMAL_QUANTILES[int((self._block or self._fill_block()).pop() * _QUANTILE_COUNT)]
        )

    def exponential(self) -> float:
        """Exponential with mean 1."""
        return -math.log1p(-(self._block or self._fill_block()).pop())


def mix64(value: int) -> int:
    """The finaliser of splitmix64: a bijection of 64-bit numbers, so distinct values stay distinct."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def hex_digest(*parts: object) -> str:
    """SHA-256 in hex over the parts: stands for fingerprints of tokens and keys that never existed."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()
