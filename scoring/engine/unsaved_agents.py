"""Agents of which memory knows more than the store: they moved out, are being written, or were erased."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from typing import Protocol, TypeVar

from ..records.agents import AgentIdentity, AgentRow, AgentSummary

AnyAgent = TypeVar("AnyAgent", AgentRow, AgentSummary)


class RedactText(Protocol):
    """Takes a name out of the reasons of an agent."""

    def __call__(self, agent: AnyAgent, /) -> AnyAgent:
        """The agent without the name; the same one if it does not occur."""


class UnsavedAgents:
    """Agents that are not in memory, and of which the store may still say something older.

    A commit is written beside the work that goes on. So there are two generations: what waits for the next commit, and
    what the present one is writing.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, AgentRow] = {}
        """Agents that moved out since a commit of their rows was begun (without a store: ever), by key."""
        self._in_flight: dict[int, AgentRow] = {}
        self._removed: set[int] = set()
        self._removed_in_flight: set[int] = set()
        self._unpublished: dict[int, AgentSummary] = {}

    def get(self, key: int) -> AgentRow | None:
        """The newest row of an agent; None where what the store says is the newest."""
        row = self.waiting.get(key)
        return row if row is not None or key in self._removed else self._in_flight.get(key)

    def identities(self) -> Iterator[AgentIdentity]:
        """Full names of all of them."""
        return (row.name.identity for row in chain(self.waiting.values(), self._in_flight.values()))

    def due_keys(self, now_ms: int) -> list[int]:
        """Keys of agents whose level changes by *now_ms*; those that are in memory again may be among them."""
        newest = {**self._in_flight, **self.waiting}
        return [key for key, row in newest.items() if 0 < row.due_ms <= now_ms and self.get(key) is row]

    def redact(self, redact: RedactText) -> None:
        """Let *redact* go over what waits and what is to be published; what is being written is erased in the store."""
        self.waiting = {key: redact(row) for key, row in self.waiting.items()}
        self._unpublished = {key: redact(summary) for key, summary in self._unpublished.items()}

    def remove(self, key: int) -> None:
        """Forget an erased agent: its row goes with the next commit, and is not read meanwhile."""
        self.waiting.pop(key, None)
        self._unpublished.pop(key, None)
        self._removed.add(key)

    def take_back(self, key: int) -> bool:
        """Note that an agent moves in again; returns whether it is dirty."""
        return self.waiting.pop(key, None) is not None

    def is_removed(self, key: int) -> bool:
        """True if the store's row of an agent is not to be read any more, since it was erased."""
        return key in self._removed or key in self._removed_in_flight

    @property
    def removed(self) -> tuple[int, ...]:
        """Keys of agents whose rows go with the next commit."""
        return tuple(sorted(self._removed))

    def add_unpublished(self, summaries: Collection[AgentSummary]) -> None:
        """Keep the risk of agents that move out before it was published."""
        self._unpublished.update((summary.name.key, summary) for summary in summaries)

    def take_unpublished(self) -> list[AgentSummary]:
        """The risk that `add_unpublished` kept since the last call."""
        unpublished, self._unpublished = list(self._unpublished.values()), {}
        return unpublished

    def begin_commit(self, rows: Collection[AgentRow]) -> None:
        """Note that *rows*, those that wait among them, are on their way to the store."""
        self._in_flight, self.waiting = {row.name.key: row for row in rows}, {}
        self._removed_in_flight, self._removed = self._removed, set()

    def mark_committed(self) -> None:
        """Note that what `begin_commit` began is in the store."""
        self._in_flight, self._removed_in_flight = {}, set()
