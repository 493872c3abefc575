"""Lines of the log about what people order of an agent: why an answer changed that no event explains."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from trustwatch.scoring.records.agents import AgentName

from .line_limit import LineLimit

_log = structlog.get_logger(__name__)


_CAUSED_BY_AGENTS = (".request", ".expire")
"""Ends of actions that agents bring about, and may in any number."""


class OrderLines:
    """Writes them, some each second: what agents bring about hides no order of a person. For one event loop.

    Args:
        monotonic: seconds on a clock that never goes back.
    """

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
