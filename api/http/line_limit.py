"""A bound on lines of the log that others cause: a flood of refusals fills no disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog

from trustwatch.scoring.records.agents import AgentName

_log = structlog.get_logger(__name__)

LINES_PER_S: Final = 20


class LineLimit:
    """Lets some lines of one kind through each second. For one event loop."""

    def __init__(self, monotonic: Callable[[], float], per_s: int = LINES_PER_S) -> None:
        self._monotonic = monotonic
        self._per_s = per_s
        self._second = -1
        self._written = 0
        self._left_out = 0

    def write(self, line: Callable[..., Any], event: str, **members: Any) -> None:
        """Write a line, or leave it out; the next one that is written says how many were."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_s:
            self._left_out += 1 + members.get("left_out", 0)
            return
        self._written += 1
        if self._left_out:
            members["left_out"] = members.get("left_out", 0) + self._left_out
            self._left_out = 0
        line(event, **members)


_CAUSED_BY_AGENTS = (".request", ".expire")
"""Ends of actions that agents bring about, and may in any number."""


class OrderLines:
    """Writes them, some each second: what agents bring about hides no order of a person. For one event loop."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._of_people, self._of_agents = LineLimit(monotonic), LineLimit(monotonic)

    def write(self, agent: AgentName, action: str, by: str, intervention_id: str | None = None) -> None:
        """Tell what was ordered, by whom; reasons, which are free text, stay in the records."""
        lines = self._of_agents if action.endswith(_CAUSED_BY_AGENTS) else self._of_people
        lines.write(
            _log.info,
            "order",
            action=action,
            by=by,
            tenant=agent.tenant,
            issuer=agent.issuer,
            agent_id=agent.agent_id,
            intervention_id=intervention_id,
        )
