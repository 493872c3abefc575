"""Simulated events on their way to the output: their text without id and time, and their labels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

_BLOCK_SIZE = 64
"""Numbers drawn from numpy at once: large enough to hide the call, small enough for 10,000 streams (2 kB each)."""

_QUANTILE_COUNT = 2048
_NORMAL_QUANTILES = tuple(NormalDist().inv_cdf((i + 0.5) / _QUANTILE_COUNT) for i in range(_QUANTILE_COUNT))
_MASK = (1 << 64) - 1


class RandomStream:
    """An independent stream of random numbers."""

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
        """Return a number, uniform in [0, 1)."""
        return (self._block or self._fill_block()).pop()

    def uniform_index(self, n: int) -> int:
        """Return an integer, uniform in [0, n)."""
        return int((self._block or self._fill_block()).pop() * n)

    def uniform_between(self, low: float, high: float) -> float:
        """Return a number, uniform in [low, high)."""
        return low + (high - low) * (self._block or self._fill_block()).pop()

    def zipf_rank(self, n: int) -> int:
        """Return a rank in [0, n) with a Zipf-like tail: rank k has probability log((k+2)/(k+1)) / log(n+1)."""
        return min(int((n + 1) ** (self._block or self._fill_block()).pop()) - 1, n - 1)

    def lognormal(self, median: float, sigma: float) -> float:
        """Return a log-normal number, cut at 3.5 sigma by a table of quantiles, since outliers would spoil tests."""
        return median * math.exp(
            sigma * _NORMAL_QUANTILES[int((self._block or self._fill_block()).pop() * _QUANTILE_COUNT)]
        )

    def exponential(self) -> float:
        """Return an exponential number with mean 1."""
        return -math.log1p(-(self._block or self._fill_block()).pop())


def mix64(value: int) -> int:
    """Apply the finalizer of splitmix64, a bijection of 64-bit numbers, so that distinct values stay distinct."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def hex_digest(*parts: object) -> str:
    """Return the SHA-256 of the parts in hex, in place of fingerprints of tokens and keys that never existed."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


CLEAN_LABEL = "clean"
_NUMBER_OFFSET = 1 << 31
"""Separates the numbers of names from those of rows, because a session must not look like an event ID."""


class SimulatedToken(NamedTuple):
    """Fingerprint of a token, its expiry (milliseconds since 1970), and the key to which it is bound."""

    name: str
    until_ms: int
    thumbprint: str


class SimulatedLabel(msgspec.Struct, frozen=True, gc=False, rename={"scenario": "class"}):
    """Ground truth of one event. `scenario` is written as `class`."""

    id: str
    agent_id: str
    tenant: str
    session: str
    event_label: int
    session_label: int
    scenario: str


class SimulatedEvent(NamedTuple):
    event: bytes
    label: SimulatedLabel
    at_ms: int


class GroundTruth(NamedTuple):
    """Part of the labels that all rows of one session share."""

    agent_id: str
    tenant: str
    session: str
    session_label: int
    scenario: str


class DraftEvent(NamedTuple):
    """Row of an actor, before it gets ID and time. Rows are totally ordered by time, then by a unique key."""

    at_ms: int
    key: int
    body_json: str
    truth: GroundTruth
    event_label: int


class ActorStream:
    """Random numbers, numbering and output of one actor (an agent or an attack).

    Attacks have separate streams, so that adding one does not change what other agents do.

    Attributes:
        tokens: those the actor still holds, by task and principal.
    """

    def __init__(self, number: int, draws: RandomStream, salt: int, scenario: str = CLEAN_LABEL) -> None:
        self.draws = draws
        self.salt = salt
        self.scenario = scenario
        self.tokens: dict[tuple[str, str | None], SimulatedToken] = {}
        self._base = number << 32
        self._draft_count = 0
        self._numbers = 0
        self._drafts: list[DraftEvent] = []

    @property
    def extends_baseline(self) -> bool:
        """Whether the resources it touches become part of the agent's usual ones."""
        return self.scenario == CLEAN_LABEL

    def next_number(self) -> int:
        """Return a number that no other actor gets, for sessions, traces and tokens."""
        self._numbers += 1
        return self._base | _NUMBER_OFFSET | self._numbers

    def append(self, at_ms: int, text: str, truth: GroundTruth, event_label: int) -> None:
        self._draft_count += 1
        self._drafts.append(DraftEvent(at_ms, self._base | self._draft_count, text, truth, event_label))

    def drain(self) -> list[DraftEvent]:
        """Return the rows since the last call, and forget them."""
        rows, self._drafts = self._drafts, []
        return rows


encode_label = msgspec.json.Encoder().encode
"""Makes one line of a label file, without the newline."""


def write_jsonl(events: Iterable[SimulatedEvent], out: BinaryIO, labels: BinaryIO | None = None) -> int:
    """Write one JSON object per line, and labels in the same order to a separate file."""
    written = 0
    for event, label, _ in events:
        out.write(event + b"\n")
        if labels is not None:
            labels.write(encode_label(label) + b"\n")
        written += 1
    return written
