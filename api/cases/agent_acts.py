"""Acts on the agents of a case: their levels are pinned, their evidence is released, their decisions labelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ...ingest.errors import TrustwatchError
from ...scoring.records.agents import AgentName, RiskLevel
from ...scoring.records.cases import CaseAgent
from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.drafts import FeedbackDraft
from ..feedback.service import KNOWN_CODE, FeedbackService
from ..http.agent_lookup import AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemError


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

        async def pin_one(case_agent: CaseAgent) -> None:
            if not await self._is_pinned(caller, case_agent.agent, valid_s):
                selector = _selector(case_agent.agent)
                await self._containment.pin(caller, selector, RiskLevel.CRITICAL.label, note, valid_s)

        return await _failures(agents, pin_one)

    async def _is_pinned(self, caller: AuthenticatedCaller, agent: AgentName, valid_s: float) -> bool:
        """True if a person fixed the level at critical for longer already: that is not made shorter."""
        pins = (await self._containment.list(caller, "pin", "active", _selector(agent))).items
        until_ms = self._now_ms() + int(valid_s * 1000)
        return any(pin.level == RiskLevel.CRITICAL and pin.expires_ms >= until_ms for pin in pins)

    async def label(self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str) -> list[str]:
        """Feedback that the decision which brought each agent highest was right; what is said already stays.

        Returns the agents whose decision could not be labelled, and why.
        """
        if self._feedback is None:
            return []
        draft, feedback = FeedbackDraft("true_positive", reason=note), self._feedback

        async def label_one(case_agent: CaseAgent) -> None:
            try:
                await feedback.adopt(caller, case_agent.decision_id, draft)
            except ProblemError as error:
                if error.code != KNOWN_CODE:
                    raise

        return await _failures(agents, label_one)

    async def release(self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str) -> list[str]:
        """Drop the evidence against each agent, and end its pin; returns those that could not be, and why."""

        async def release_one(case_agent: CaseAgent) -> None:
            selector = _selector(case_agent.agent)
            if (await self._containment.list(caller, "pin", "active", selector)).items:
                await self._containment.unpin(caller, selector, note)
            try:
                await self._agents.release(caller, selector, note, note_required=True)
            except ProblemError as error:
                if error.problem.status != 404:  # no state, no evidence: it was forgotten meanwhile
                    raise

        return await _failures(agents, release_one)


async def _failures(agents: Sequence[CaseAgent], act: Callable[[CaseAgent], Awaitable[None]]) -> list[str]:
    """Act on each agent, whatever became of those before it; returns those that failed, and why."""
    failed = []
    for case_agent in agents:
        try:
            await act(case_agent)
        except TrustwatchError as error:
            failed.append(f"{case_agent.agent.agent_id}: {error}")
    return failed


def _selector(name: AgentName) -> AgentSelector:
    return AgentSelector(name.agent_id, name.tenant, name.issuer)
