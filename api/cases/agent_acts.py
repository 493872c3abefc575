"""Acts on the agents of a case: their levels are pinned, their evidence is released, their decisions labelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.records.cases import CaseAgent

from ..access.service import ContainmentService
from ..agents.service import AgentService
from ..feedback.drafts import FeedbackDraft
from ..feedback.service import KNOWN_CODE, FeedbackService
from ..http.agent_lookup import AgentSelector
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemError, problem_of
from ..http.separation_of_duties import MAX_REASON_LENGTH

ACT_WITHIN_S: Final = 30.0
"""Time that one act on a case may take for all of its agents: what is unfinished then is reported as not done."""
MAX_FAILURES_IN_A_ROW: Final = 3  # Agents in a row for which store or log fail, after which no other is tried
MAX_NAMED: Final = 10  # Agents that are named if something was not done; of more only the number is reported
MAX_NAME_LENGTH, MAX_WHY_LENGTH = 40, 100
"""Characters of an agent's id, and of a reason, that are reported: an id may have thousands, and all must fit."""

_TIME_IS_OVER: Final = f"the {ACT_WITHIN_S:g} s of one act were over"

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseAgentActs:
    """Acts on each agent of a case, through the same services as every other caller.

    A store or a log that does not answer delays no caller for long: each act ends within `ACT_WITHIN_S`, and reports
    the agents that it did not reach.
    """

    agents: AgentService
    containment: ContainmentService
    feedback: FeedbackService | None  # takes labels; None = this process takes none
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]
    held_at: Callable[[AgentName], int | None]  # level at which a person fixed an agent, if any
    level_of: Callable[[AgentName], int | None]  # level of an agent, if it is in memory

    def __post_init__(self) -> None:
        self._at_work: set[asyncio.Task[None]] = set()

    def deadline(self) -> float:
        """Moment of `monotonic` until which an act that begins now may continue, including all of its parts."""
        return self.monotonic() + ACT_WITHIN_S

    async def pin(
        self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str, valid_s: float, by: float
    ) -> list[str]:
        """Fix the level of each agent at critical for *valid_s* seconds; returns those that could not be, and why.

        Agents that are not fixed at the level yet come first, so that a retry makes progress.
        """

        async def pin_one(case_agent: CaseAgent) -> None:
            selector = _selector(case_agent.agent)
            pins = (await self.containment.list(caller, "pin", "active", selector)).items
            until_ms = self.now_ms() + int(valid_s * 1000)
            if any(pin.level == RiskLevel.CRITICAL and pin.expires_ms >= until_ms for pin in pins):
                return  # a person fixed it for longer already, which is not made shorter
            self._check_time(by)
            await self.containment.pin(caller, selector, RiskLevel.CRITICAL.label, note, valid_s)

        loose_first = sorted(agents, key=lambda one: self.held_at(one.agent) == RiskLevel.CRITICAL)
        return await self._failures(loose_first, pin_one, by)

    async def label(self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str, by: float) -> list[str]:
        """Give feedback that the decision with the highest level of each agent was right; existing feedback stays.

        Returns the agents whose decision could not be labeled, and why.
        """
        if self.feedback is None:
            return []
        draft, feedback = FeedbackDraft("true_positive", reason=note), self.feedback

        async def label_one(case_agent: CaseAgent) -> None:
            try:
                await feedback.adopt(caller, case_agent.decision_id, draft)
            except ProblemError as error:
                if error.code != KNOWN_CODE:
                    raise

        return await self._failures(agents, label_one, by)

    async def release(
        self, caller: AuthenticatedCaller, agents: Sequence[CaseAgent], note: str, by: float
    ) -> list[str]:
        """Drop the evidence against each agent, and end its pin; returns those that could not be, and why.

        Those whose level is fixed come first, then the highest levels, so that a retry makes progress.
        """

        async def release_one(case_agent: CaseAgent) -> None:
            selector = _selector(case_agent.agent)
            pinned = (await self.containment.list(caller, "pin", "active", selector)).items
            self._check_time(by)
            if pinned:
                await self.containment.unpin(caller, selector, note)
                self._check_time(by)
            try:
                await self.agents.release(caller, selector, note, note_required=True)
            except ProblemError as error:
                if error.problem.status != 404:  # no state, no evidence: it was forgotten meanwhile
                    raise

        worst_first = sorted(
            agents, key=lambda one: (self.held_at(one.agent) is not None, self.level_of(one.agent) or 0), reverse=True
        )
        return await self._failures(worst_first, release_one, by)

    def _check_time(self, by: float) -> None:
        """Stop after the deadline: another caller may have made a newer change since. Raises Unavailable."""
        if self.monotonic() >= by:
            raise Unavailable(_TIME_IS_OVER)

    async def _failures(
        self, agents: Sequence[CaseAgent], act: Callable[[CaseAgent], Coroutine[Any, Any, None]], by: float
    ) -> list[str]:
        """Act on each agent, even if earlier ones failed; returns those that failed, and why.

        After `MAX_FAILURES_IN_A_ROW` agents for which the service itself failed, and after the deadline, the others
        are not tried.
        """
        failed: list[str] = []
        in_a_row = 0
        for at, case_agent in enumerate(agents):
            if in_a_row >= MAX_FAILURES_IN_A_ROW:
                return _summary(failed, agents[at:], f"the {in_a_row} before failed in a row")
            if self.monotonic() >= by:
                return _summary(failed, agents[at:], _TIME_IS_OVER)
            try:
                await self._within(act(case_agent), case_agent.agent, by)
                in_a_row = 0
            except TimeoutError:
                failed.append(f"{_short(case_agent)}: no answer came in time, so it may be done or not")
                return _summary(failed, agents[at + 1 :], _TIME_IS_OVER)
            except TrustwatchError as error:
                failed.append(f"{_short(case_agent)}: {str(error)[:MAX_WHY_LENGTH]}")
                in_a_row = in_a_row + 1 if problem_of(error).status >= 500 else 0
        return _summary(failed, (), "")

    async def _within(self, one: Coroutine[Any, Any, None], agent: AgentName, by: float) -> None:
        """Wait for *one* until the deadline. Raises TimeoutError: *one* continues, since half of it may be done."""
        task = asyncio.create_task(one)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        try:
            await asyncio.wait((task,), timeout=by - self.monotonic())
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():

            def note_late(late: asyncio.Task[None]) -> None:
                error = None if late.cancelled() else late.exception()
                named = {"tenant": agent.tenant, "issuer": agent.issuer, "agent": agent.agent_id}
                done = not late.cancelled() and error is None
                _log.warning("late_act_on_case_ended", **named, done=done, error="" if error is None else str(error))

            task.add_done_callback(note_late)
            raise TimeoutError
        task.result()


def describe_failures(what: str, failed: Sequence[str]) -> str:
    """Describe what could not be done, for which agents, and why; a case keeps those of both parts of a close."""
    return f"{what} of all agents: {'; '.join(failed)}"[: MAX_REASON_LENGTH // 2 - 1]


def _summary(failed: Sequence[str], not_tried: Sequence[CaseAgent], why: str) -> list[str]:
    """Summarize what was not done, numbers first, so that a truncated text keeps them."""
    words = []
    if not_tried:
        names = ", ".join(map(_short, not_tried[:MAX_NAMED]))
        others = ", and others" if len(not_tried) > MAX_NAMED else ""
        words.append(f"{len(not_tried)} not tried, since {why}: {names}{others}")
    if len(failed) > MAX_NAMED:
        words.append(f"{len(failed)} failed, among them")
    return [*words, *failed[:MAX_NAMED]]


def _short(case_agent: CaseAgent) -> str:
    agent_id = case_agent.agent.agent_id
    return agent_id if len(agent_id) <= MAX_NAME_LENGTH else f"{agent_id[:MAX_NAME_LENGTH]}…"


def _selector(name: AgentName) -> AgentSelector:
    return AgentSelector(name.agent_id, name.tenant, name.issuer)
