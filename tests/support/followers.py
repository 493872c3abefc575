"""Members of the groups that contract tests watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from trustwatch.ingest.source import GroupSource, Record


class Follower:
    """A member of a group, and its owner: keeps what it was told and handed. The source is closed by whoever opened it.

    Args:
        source: not joined yet.
        starts: offset by partition where it begins; 0 for others.
    """

    def __init__(self, source: GroupSource, starts: Mapping[int, int] | None = None) -> None:
        self.source = source
        self.starts = dict(starts or {})
        self.log: list[tuple[str, frozenset[int]]] = []
        self.records: dict[int, list[Record]] = {}
        self.offsets: dict[int, list[int]] = {}

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Go on where it stopped, else where it was told to begin."""
        self.log.append(("assigned", frozenset(partitions)))
        return {p: self.offsets[p][-1] + 1 if self.offsets.get(p) else self.starts.get(p, 0) for p in partitions}

    def revoked(self, partitions: Collection[int]) -> None:
        self.log.append(("revoked", frozenset(partitions)))

    def lost(self, partitions: Collection[int]) -> None:
        self.log.append(("lost", frozenset(partitions)))

    def step(self, max_records: int = 1000, timeout_s: float = 0.1) -> None:
        batch = self.source.poll(max_records, timeout_s)
        if batch is not None:
            self.records.setdefault(batch.partition, []).extend(batch.records)
            offsets = range(batch.base_offset, batch.next_offset)
            self.offsets.setdefault(batch.partition, []).extend(offsets)

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))


def poll_until(done: Callable[[], Any], *members: Follower, within_s: float = 90.0) -> None:
    """Let all members poll in turn until *done*."""
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, [(member.log, member.count, member.source.owned()) for member in members]
        for member in members:
            member.step()
