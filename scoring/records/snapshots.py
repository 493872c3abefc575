"""Snapshots: files with copies of agents' rows, and what tells whether a copy is still as its row."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .agent_pages import StateFormat


class Snapshot(NamedTuple):
    """A file with copies of rows of one partition, as the database knows it."""

    name: str
    partition: int
    secret: bytes
    """Key that its content is encrypted under. Who removes it from the database makes every copy of the file
    unreadable."""
    generation: int
    """Number of times that all snapshots had been forgotten before its rows were read: an erasure does so."""
    agents: int
    content_bytes: int


class AgentVersions(NamedTuple):
    """Versions of agents' rows, by key: (epoch, offset) of the commit that wrote each.

    Rows of equal versions are equal, but for names that an erasure took out of one of them. Each column has place i for
    agent i; keys ascend where nothing else is said.
    """

    keys: npt.NDArray[np.uint64]
    epochs: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @property
    def agent_count(self) -> int:
        """Number of agents; `len` counts columns."""
        return len(self.keys)

    def at(self, places: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> AgentVersions:
        """Those at some places."""
        return AgentVersions._make(column[places] for column in self)

    def sorted(self) -> AgentVersions:
        """The same with ascending keys."""
        return self.at(np.argsort(self.keys, kind="stable"))

    def find(self, others: AgentVersions) -> npt.NDArray[np.intp]:
        """Place here of each of *others* that is here with the same version, else -1. Keys here ascend."""
        if not self.agent_count:
            return np.full(others.agent_count, -1, np.intp)
        places = np.minimum(np.searchsorted(self.keys, others.keys), self.agent_count - 1)
        found = self.at(places)
        same = (found.keys == others.keys) & (found.epochs == others.epochs) & (found.offsets == others.offsets)
        return np.where(same, places, -1)

    def has(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """True for each of some keys that is here, in whatever version. Keys here ascend."""
        if not self.agent_count:
            return np.zeros(len(keys), np.bool_)
        found = self.keys[np.minimum(np.searchsorted(self.keys, keys), self.agent_count - 1)]
        return np.asarray(found == keys)

    def of_keys(self, keys: npt.NDArray[np.uint64]) -> AgentVersions:
        """Those of some keys, all of them here, in that order. Keys here ascend."""
        return self.at(np.searchsorted(self.keys, keys))

    @staticmethod
    def join(parts: list[AgentVersions]) -> AgentVersions:
        """All of them, one behind the other; at least one."""
        return AgentVersions._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


NO_VERSIONS: Final = AgentVersions(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
"""Of no agent."""


class SnapshotIndex(NamedTuple):
    """Agents that a snapshot has copies of, in the order of its blocks."""

    state_format: StateFormat
    versions: AgentVersions
    block_ends: tuple[int, ...]
    """Place behind the last agent of each block."""
