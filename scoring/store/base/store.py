"""All parts of the seam in one, and what an administrator asks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ...chain import ChainStore
from ...records import AgentName, Position
from .containment import ContainmentStore
from .deliveries import OutboxStore
from .feedback import FeedbackStore
from .models import ModelStore
from .reads import ReadStore
from .state import StateStore


class PurgeCounts(NamedTuple):
    """Rows removed by `purge`."""

    decisions: int
    outbox: int
    dead_letters: int
    agents: int


class Store(StateStore, ReadStore, OutboxStore, ContainmentStore, ModelStore, FeedbackStore, ChainStore, Protocol):
    """All of it. One contract suite (`tests/contract/`) holds for every implementation."""

    def positions(self) -> list[Position]:
        """Every partition that was ever claimed, by number."""

    def set_position(self, partition: int, offset: int, above: int = 0) -> Position:
        """Read *partition* on from *offset*; for an administrator.

        Its owner is fenced. The new epoch is above that of every partition, so that agents which move here get versions
        above those they had, and above *above*. What is not published yet stays so.
        """

    def repartition(self, assign: Callable[[AgentName], int], chunk: int = 10_000) -> int:
        """Give every agent to the partition *assign* says; returns how many moved. For an administrator.

        Nobody may work on the partitions meanwhile (`set_position` fences them). Calling it again goes on where it
        stopped. What was published stays so at the new place; the rest is published there.
        """

    def purge(
        self,
        before_ms: int,
        chunk: int = 1_000,
        agents_before_ms: int = 0,
        *,
        outbox_before_ms: int | None = None,
        letters_before_ms: int | None = None,
        waiting_letters_before_ms: int = 0,
    ) -> PurgeCounts:
        """Remove what is older and finished, *chunk* rows a transaction so that writers get between.

        Decisions go unless one is an agent's current one, on PostgreSQL by whole weeks, so up to one week later; outbox
        rows unless a delivery is pending; dead letters only once replayed; agents only if they are calm (low or
        unknown, nothing due) and were neither seen nor evaluated since *agents_before_ms* (0 = none goes). An agent
        that comes back later begins anew.

        Outbox rows and replayed dead letters may have a time of their own; None is *before_ms*. Dead letters that
        nobody replayed go only where *waiting_letters_before_ms* is not 0.
        """

    def upkeep(self, now_ms: int) -> None:
        """Make room for the weeks to come; to be called at start and once a day. Nothing fails where it was not."""

    def close(self) -> None:
        """Close every connection."""
