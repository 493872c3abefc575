"""Pages of stored agents by column, in which a worker reads a partition that it takes over."""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .agents import AgentIdentity, AgentRow


class StateFormat(NamedTuple):
    """Format of stored state: its name, and the sizes in bytes of one agent's parts."""

    state_version: str
    features_bytes: int
    risk_bytes: int

    def holds(self, row: AgentRow) -> bool:
        """Return whether the state of a row has this format."""
        return (row.state_version, len(row.features), len(row.risk)) == self


NAME_MEMBERS = ("tenant", "issuer", "agent_id")
KEPT_MEMBERS = (
    *("agent_type", "decision_id", "reasons", "counterfactual", "indicators", "announced_paths", "capabilities"),
)
"""Members of `AgentRow` that are not part of the states, in the order of `AgentColumns`."""


class AgentColumns(NamedTuple):
    """Stored agents of one state format; item i of every column belongs to agent i. For names see `AgentRow`."""

    keys: npt.NDArray[np.uint64]
    tenants: list[str]
    issuers: list[str]
    agent_ids: list[str]
    agent_types: list[str]
    decision_ids: list[str]
    reasons: list[bytes]
    counterfactuals: list[str]
    indicators: list[bytes]
    announced_paths: list[bytes]
    capabilities: list[bytes]
    features: npt.NDArray[np.uint8]
    """(n, StateFormat.features_bytes)"""
    risk: npt.NDArray[np.uint8]
    """(n, StateFormat.risk_bytes)"""

    @staticmethod
    def of_rows(rows: list[AgentRow], state_format: StateFormat) -> AgentColumns:
        """Return the columns of rows that all have the format."""
        names = [row.name for row in rows]
        return AgentColumns._make(
            [
                np.array([name.key for name in names], np.uint64),
                *([getattr(name, part) for name in names] for part in NAME_MEMBERS),
                *([getattr(row, member) for row in rows] for member in KEPT_MEMBERS),
                state_matrix(b"".join(row.features for row in rows), state_format.features_bytes),
                state_matrix(b"".join(row.risk for row in rows), state_format.risk_bytes),
            ]
        )

    @property
    def agent_count(self) -> int:
        """Number of agents; `len` counts columns."""
        return len(self.keys)

    def identity(self, place: int) -> AgentIdentity:
        """Return the full name of one agent."""
        return self.tenants[place], self.issuers[place], self.agent_ids[place]

    def part(self, start: int, stop: int) -> AgentColumns:
        """Return the agents from *start* up to, but not including, *stop*."""
        return AgentColumns._make(column[start:stop] for column in self)

    def where(self, kept: npt.NDArray[np.bool_]) -> AgentColumns:
        """Return the agents at the places that are True."""
        flags = kept.tolist()
        return AgentColumns._make(
            list(compress(column, flags)) if isinstance(column, list) else column[kept] for column in self
        )


class AgentPage(NamedTuple):
    """Agents of a partition that were read at once."""

    columns: AgentColumns | None
    """Agents whose state has the requested format, in the order of their keys as signed numbers; None if there are
    none."""
    rows: list[AgentRow]
    """All others, in that order, too."""
    last_key: int | None
    """Key (unsigned) after which the next page begins; None if this was the last page."""

    @property
    def agent_count(self) -> int:
        return len(self.rows) + (0 if self.columns is None else self.columns.agent_count)


def split_rows(rows: list[AgentRow], limit: int, state_format: StateFormat | None) -> AgentPage:
    """Return a page of *rows*, the result of a query for *limit* rows in the order of their keys."""
    last_key = rows[-1].name.key if len(rows) == limit else None
    fitting = [] if state_format is None else [row for row in rows if state_format.holds(row)]
    if state_format is None or not fitting:
        return AgentPage(None, rows, last_key)
    others = [row for row in rows if not state_format.holds(row)] if len(fitting) < len(rows) else []
    return AgentPage(AgentColumns.of_rows(fitting, state_format), others, last_key)


def state_matrix(states: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Return concatenated states as a matrix of bytes with one row of *size* for each."""
    return np.frombuffer(states, np.uint8).reshape(-1, size)
