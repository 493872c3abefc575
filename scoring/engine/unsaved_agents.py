"""Agents of which memory knows more than the store: they moved out, are being written, or were erased."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

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


class MetAgents:
    """Keys of agents that moved in or were erased: while rows are preloaded what a page says of them may be older.

    Once all rows were preloaded, every agent that the store can have was met. Of more agents than *most* nothing is
    remembered, be it a flood of new names.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._since_take_over: set[int] | None = None
        self._stored: set[int] | None = None

    def begin(self) -> None:
        """Remember from here on who is met."""
        self._since_take_over, self._stored = set(), None

    def note(self, keys: Iterable[int]) -> None:
        """Note agents that move in or are erased."""
        noted = self._stored if self._since_take_over is None else self._since_take_over
        if noted is not None:
            noted.update(keys)
            if len(noted) > self._most:
                self._since_take_over = self._stored = None

    def unmet(self, rows: Iterable[AgentRow]) -> dict[int, AgentRow] | None:
        """Those of *rows*, by key, whose agents were not met; None where that is not remembered."""
        met = self._since_take_over
        return None if met is None else {row.name.key: row for row in rows if row.name.key not in met}

    def are_unmet(self, keys: Collection[int]) -> npt.NDArray[np.bool_] | None:
        """True for those of *keys* whose agents were not met; None where that is not remembered."""
        met = self._since_take_over
        if met is None:
            return None
        if met.isdisjoint(keys):
            return np.ones(len(keys), np.bool_)
        return np.array([key not in met for key in keys], np.bool_)

    def end(self, *, all_met: bool) -> None:
        """Note that no more rows are preloaded; *all_met*: the store has no agent that was not met."""
        self._stored, self._since_take_over = self._since_take_over if all_met else None, None

    def may_be_stored(self, key: int) -> bool:
        """False = the store has no row of the agent for certain."""
        return self._stored is None or key in self._stored
