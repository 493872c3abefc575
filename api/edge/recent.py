"""Event ids that were accepted lately, as far as this process knows.

Only for the counts of answers and to spare the log: the pipeline's own window (`ingest/dedup.py`) is the one that
drops every duplicate exactly, across restarts too. An id becomes known after its commit, so two requests that carry the
same id at the same moment may both be told `accepted`.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

IDS_PER_GENERATION = 131_072
"""Ids of one generation, about 12 MB; at least one and at most two generations are remembered."""


class RecentEventIds:
    """A bounded set that forgets the oldest half at once.

    Args:
        generation: ids that are remembered at least.
    """

    def __init__(self, generation: int = IDS_PER_GENERATION) -> None:
        self._generation = generation
        self._young: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, id_hash: int) -> bool:
        return id_hash in self._young or id_hash in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def isdisjoint(self, id_hashes: Set[int]) -> bool:
        """Whether none of them is remembered."""
        return self._young.isdisjoint(id_hashes) and self._old.isdisjoint(id_hashes)

    def add(self, id_hashes: Iterable[int]) -> None:
        """Remember ids whose events are durable."""
        self._young.update(id_hashes)
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, set()
