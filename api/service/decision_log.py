"""A line of the log for each change of level that became durable."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision

_log = structlog.get_logger(__name__)


def log_decisions(decisions: Sequence[Decision]) -> None:
    """Log decisions. Principals and resources stay out: reasons are in the decision itself."""
    log = _log.bind()  # the settings of the log are looked up once for all of them
    for decision in decisions:
        log.info(
            "decision",
            decision_id=decision.decision_id,
            tenant=decision.agent.tenant,
            issuer=decision.agent.issuer,
            agent_id=decision.agent.agent_id,
            risk_level=RiskLevel(decision.level).label,
            before=RiskLevel(decision.previous_level).label,
            cause=decision.cause,
            mode=decision.mode,
        )
