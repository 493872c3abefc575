"""What the pipeline asks: its state and how far it got, written together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

from ....ingest.errors import Fenced
from ....ingest.unread import ErasedSubject
from ...records import AgentRow, AgentSummary, Commit, Decision, Position


class DueAgent(NamedTuple):
    """An agent whose level changes by time alone at *due_ms*."""

    due_ms: int
    key: int


class VersionedAgent(NamedTuple):
    """An agent, and the position (of its partition) of the commit that wrote it. Versions order as (epoch, offset)."""

    agent: AgentSummary
    epoch: int
    offset: int


class CommitResult(NamedTuple):
    """What a commit could not keep: dead letters beyond `max_dead_letters`, which were counted instead."""

    dropped_dead_letters: int


class StateStore(Protocol):
    """What the pipeline needs: its state and how far it got, written together."""

    def position(self, partition: int) -> Position:
        """Stored position; epoch 0, offset 0 for a partition that was never claimed."""

    def claim(self, partition: int) -> Position:
        """Take the partition over: the epoch goes up by one, so that the previous owner is fenced."""

    def commit(self, commit: Commit) -> CommitResult:
        """Write all of *commit* in one transaction, or nothing.

        Raises Fenced unless the stored position equals `commit.expected`. After Unavailable the outcome is unknown:
        read `position` and go on from there.
        """

    def commit_all(self, commits: Sequence[Commit]) -> list[CommitResult | Fenced]:
        """Write *commits*, each of another partition, in one transaction; a result for each, in their order.

        Those whose position is not the expected one are left out, and get `Fenced` (not raised); all others are written
        together, or nothing. After Unavailable as `commit`.
        """

    def agents(self, keys: Collection[int]) -> dict[int, AgentRow]:
        """Rows of those *keys* (unsigned) that exist."""

    def due(self, before_ms: int, limit: int, after: DueAgent | None = None, partition: int = 0) -> list[DueAgent]:
        """Agents of *partition* with 0 < due_ms <= *before_ms* by (due_ms, key as signed), starting behind *after*.

        The pipeline skips those it holds in memory and loads the rest with `agents`.
        """

    def published(self, partition: int) -> int:
        """Highest `Commit.published` of *partition*; 0 = nothing yet."""

    def forgets(self, partition: int, after: int) -> list[ErasedSubject]:
        """Agents of *partition* whose order to forget was met in it at the offset *after* or later."""

    def bygone(self) -> list[ErasedSubject]:
        """Everybody who was erased while a topic still has their records; nobody where there is no topic."""

    def unpublished_agents(self, partition: int, after: int, chunk: int = 10_000) -> Iterator[VersionedAgent]:
        """Agents of *partition* that commits with an offset above *after* wrote, read in chunks.

        The whole table is looked through, since an index would have to be kept up by every commit. Nobody but the owner
        of the partition writes such rows, so that chunks agree.
        """

    def unpublished_decisions(self, partition: int, after: int, chunk: int = 1_000) -> Iterator[Decision]:
        """Decisions of *partition* that commits with an offset above *after* wrote, in the order of their records."""

    def get_meta(self, key: str) -> str | None:
        """Value of *key*, None = not set."""

    def set_meta(self, key: str, value: str) -> None:
        """Set *key*."""

    def default_meta(self, key: str, value: str) -> str:
        """Set *key* unless it is set; what is set then. Two processes get the same answer."""
