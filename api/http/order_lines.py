"""Lines of the log about what people order of an agent: why an answer changed that no event explains."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ...scoring.records.agents import AgentName
from .line_limit import LineLimit

_log = structlog.get_logger(__name__)


class OrderLines:
    """Writes them, some each second: agents ask for approvals as often as they like. For one event loop.

    Args:
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._lines = LineLimit(monotonic)

    def write(self, agent: AgentName, action: str, by: str, intervention_id: str | None = None) -> None:
        """Tell what was ordered, by whom; reasons, which are free text, stay in the records."""
        self._lines.write(
            _log.info,
            "order",
            action=action,
            by=by,
            tenant=agent.tenant,
            issuer=agent.issuer,
            agent_id=agent.agent_id,
            intervention_id=intervention_id,
        )
