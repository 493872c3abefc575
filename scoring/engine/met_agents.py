"""Agents that a partition has met since it was taken over, and from that, whom the store can have."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from ..records.agents import AgentRow


class MetAgents:
    """Keys of agents that moved in or were erased: while rows are preloaded what a page says of them may be older.

    Once all rows were preloaded, every agent that the store can have was met. Of more agents than *most* nothing is
    remembered, be it a flood of new names.

    Args:
        most: keys that are remembered.
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
