"""Agents: their risk, lists, baseline and recent events, and the release by which a person vouches for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, NamedTuple

import msgspec

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.scoring.records.agents import AgentName, AgentRow, AgentSummary, ReleaseAgent, RiskLevel
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.agent_store import AgentOrder, AgentQuery
from trustwatch.scoring.store.database import Page

from ..events.intake import EventIntake
from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.filtered_pages import DEFAULT_PAGE_SIZE, FilteredPage, read_filtered_page
from ..http.line_limit import OrderLines
from ..http.problems import ProblemDetails, problem_of
from ..http.reasons import check_reason
from ..http.refused_callers import BEYOND_CALLER, RefusedCallers
from ..http.runtime import Runtime
from ..http.separation_of_duties import attribute_to_caller
from ..http.store_executor import StoreExecutor
from .baseline_profile import BaselineProfile, read_baseline_profile
from .recent_events import AgentEventHistory, DecisionMoment, event_locations, load_event_history
from .risk_answer_cache import RiskAnswerCache

ANSWERS_PER_TURN = 100
"""Questions answered in one go; then other requests get their turn."""

SEARCH_PAGE_SIZE = 500
"""Agents that are read in one go where a text is looked for: most of them are not shown."""


class AgentFilters(NamedTuple):
    """Filters and order of a list of agents; None or empty = all.

    *levels* are words, *prefix* is of the agent id, *text* is in the id or the type, in upper or lower case.
    """

    tenant: str | None = None
    levels: Sequence[str] | None = None
    agent_type: str | None = None
    prefix: str = ""
    text: str = ""
    order: AgentOrder = "name"


class ReleasedAgent(NamedTuple):
    """An agent that a person vouched for, and who did."""

    name: AgentName
    by: Annotated[str, member("who released it", "analyst")]


class AgentService:
    """Risk, lists and history of agents, and their release. For one event loop."""

    def __init__(
        self,
        runtime: Runtime,
        answers: RiskAnswerCache,
        agents: AgentResolver,
        executor: StoreExecutor,
        intake: EventIntake,
        open_erasures: Callable[[], Awaitable[Sequence[Erasure]]],
        refused_callers: RefusedCallers,
    ) -> None:
        self._runtime = runtime
        self._answers = answers
        self._agents = agents
        self._executor = executor
        self._intake = intake
        self._open_erasures = open_erasures
        self._refused_callers = refused_callers
        self._orders = OrderLines(runtime.monotonic)

    def answer(self, caller: AuthenticatedCaller, agent: AgentSelector) -> bytes:
        """The risk of an agent as JSON, from memory.

        Raises:
            TenantNotAllowed: the caller may not ask about that tenant.
            ProblemError: 409, several agents are meant.
        """
        return self._answers.answer(caller, *agent)

    async def answer_many(
        self, caller: AuthenticatedCaller, questions: Sequence[AgentSelector]
    ) -> list[bytes | ProblemDetails]:
        """Answers in the order of the questions; one that has no answer gets a problem in its place."""
        answers: list[bytes | ProblemDetails] = []
        for number, question in enumerate(questions, 1):
            answers.append(self._answer_or_problem(caller, question))
            if not number % ANSWERS_PER_TURN:
                await asyncio.sleep(0)
        return answers

    def _answer_or_problem(self, caller: AuthenticatedCaller, question: AgentSelector) -> bytes | ProblemDetails:
        try:
            return self.answer(caller, question)
        except TrustwatchError as error:
            problem = problem_of(error)
            if problem.status >= 500:
                raise
            if problem.code in BEYOND_CALLER:
                told = {"why": problem.detail, "tenant": question.tenant, "agent_id": question.agent_id}
                self._refused_callers.tell(caller, problem.code, **told)
            return problem

    async def list(
        self, caller: AuthenticatedCaller, filters: AgentFilters, limit: int | None = None, cursor: str | None = None
    ) -> FilteredPage[AgentSummary]:
        """Agents as of the last commit.

        Raises:
            TenantNotAllowed: see `visible_tenants`.
            ProblemError: 400, the cursor is none of ours.
            Unavailable: the store does not answer.
        """
        size = limit or (SEARCH_PAGE_SIZE if filters.text else DEFAULT_PAGE_SIZE)
        levels = None if filters.levels is None else [RiskLevel[word.upper()] for word in filters.levels]
        tenants = visible_tenants(caller, filters.tenant)
        query = AgentQuery(tenants, levels, filters.agent_type, filters.prefix, size, order=filters.order)

        def page_at(page_cursor: str | None) -> Page[AgentSummary]:
            return self._runtime.store.agents.page(msgspec.structs.replace(query, cursor=page_cursor))

        keep = partial(_contains_text, filters.text.strip().casefold())
        least = 1 if limit else DEFAULT_PAGE_SIZE
        return await self._executor(partial(read_filtered_page, page_at, keep, cursor, least_items=least))

    async def get(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentSummary:
        """The agent that is meant, from memory or the store. Raises ProblemError (404, 409), Unavailable."""
        return await self._agents.summary(caller, agent)

    async def release(
        self, caller: AuthenticatedCaller, agent: AgentSelector, note: str, *, note_required: bool = False
    ) -> ReleasedAgent:
        """Drop the evidence against an agent as soon as the pipeline reads of it; durable when this returns.

        Raises:
            TenantNotAllowed: see `visible_tenants`.
            ProblemError: 403, nobody vouches for itself; 404, the agent is not known; 409, several agents are meant;
                422, the note is too long, or there is none.
            Overloaded, LogFailed: nothing was done.
        """
        check_reason("note", note, required=note_required)
        entry = self._agents.entry(caller, agent)
        if entry is None:
            raise not_found_error("agent")
        name = entry.summary.name
        by = attribute_to_caller(self._runtime.settings.actuators, caller, name, note).name
        record = msgspec.json.encode(ReleaseAgent("", by, note, *name.identity))
        await self._intake.write_control_record(record, agent_partition_key(name.tenant, name.issuer, name.agent_id))
        self._orders.write(name, "release", by)
        return ReleasedAgent(name, by)

    async def baseline(self, caller: AuthenticatedCaller, name: AgentName) -> BaselineProfile | None:
        """The behaviour that is usual for an agent; None = none is stored yet, or it is of another layout."""
        row: AgentRow | None = await self._executor(
            self._runtime.store.agents.get, name.tenant, name.issuer, name.agent_id, visible_tenants(caller, None)
        )
        return read_baseline_profile(row)

    async def recent_events(
        self, caller: AuthenticatedCaller, name: AgentName, moment: DecisionMoment
    ) -> AgentEventHistory:
        """Events of an agent, without those of anybody who is being erased.

        Raises:
            TenantNotAllowed: the agent is of another tenant.
            Unavailable: the store does not answer, or the event log can not be read.
        """
        caller.require_tenant(name.tenant)
        erasures = await self._open_erasures()  # known before anything is looked at
        locations = event_locations(self._runtime.settings)
        try:
            return await self._executor(load_event_history, locations, name, moment, erasures)
        except OSError as error:
            raise Unavailable(f"the event log can not be read: {error}") from None


def _contains_text(text: str, agent: AgentSummary) -> bool:
    return not text or any(text in part.casefold() for part in (agent.name.agent_id, agent.agent_type))
