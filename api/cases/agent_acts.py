"""Acts on the agents of a case: their levels are pinned, their evidence is released, their decisions labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from ...ingest.errors import TrustwatchError
from ...scoring.records.agents import AgentName, RiskLevel
from ...scoring.records.cases import CaseAgent
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.drafts import FeedbackDraft
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemError

_log = structlog.get_logger(__name__)


class CaseAgentActs:
    """Acts on each agent of a case, through the services that anybody else uses.

    Args:
        agents: releases agents.
        containment: pins agents.
        feedback: takes labels; None = this process takes none.
        now_ms: UTC milliseconds.
    """

    def __init__(
        self,
        agents: AgentService,
        containment: ContainmentService,
        feedback: FeedbackService | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._agents = agents
        self._containment = containment
        self._feedback = feedback
        self._now_ms = now_ms

    async def pin(
        self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str, valid_s: float
    ) -> list[str]:
        """Fix the level of each agent at critical for *valid_s* seconds; returns those that could not be, and why."""
        failed = []
        for case_agent in agents:
            name = case_agent.agent
            try:
                if not await self._is_pinned(caller, name, valid_s):
                    await self._containment.pin(caller, _selector(name), RiskLevel.CRITICAL.label, note, valid_s)
            except TrustwatchError as error:
                failed.append(f"{name.agent_id}: {error}")
        return failed

    async def _is_pinned(self, caller: AuthenticatedCaller, agent: AgentName, valid_s: float) -> bool:
        """True if a person fixed the level at critical for longer already: that is not made shorter."""
        pins = (await self._containment.list(caller, "pin", "active", _selector(agent))).items
        until_ms = self._now_ms() + int(valid_s * 1000)
        return any(pin.level == RiskLevel.CRITICAL and pin.expires_ms >= until_ms for pin in pins)

    async def label(self, caller: AuthenticatedCaller, case_id: str, agents: Sequence[CaseAgent], note: str) -> None:
        """Feedback that the decision which brought each agent highest was right; what is said already stays."""
        if self._feedback is None:
            return
        draft = FeedbackDraft("true_positive", reason=note)
        for case_agent in agents:
            try:
                await self._feedback.adopt(caller, case_agent.decision_id, draft)
            except ProblemError as error:
                _log.info("case_not_labelled", case=case_id, decision=case_agent.decision_id, error=str(error))

    async def release(self, caller: AuthenticatedCaller, case_id: str, agents: Sequence[CaseAgent], note: str) -> None:
        """Drop the evidence against each agent, and end its pin."""
        for case_agent in agents:
            selector = _selector(case_agent.agent)
            try:
                if (await self._containment.list(caller, "pin", "active", selector)).items:
                    await self._containment.unpin(caller, selector, note)
                await self._agents.release(caller, selector, note, note_required=True)
            except ProblemError as error:
                _log.info("case_agent_not_released", case=case_id, error=str(error))


def _selector(name: AgentName) -> AgentSelector:
    return AgentSelector(name.agent_id, name.tenant, name.issuer)
