"""Agents: their risk, lists, baseline and recent events, and releases."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import msgspec

from trustwatch.ingest.described import member
from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.features import layout
from trustwatch.ingest.features.earlier_layout import read_state_rows
from trustwatch.ingest.features.evidence_beside_features import (
    is_latest_unvouched,
    unordered_sessions,
    used_sessions,
    was_never_vouched,
)
from trustwatch.ingest.features.feature_table import ITEMS, QUANTITIES
from trustwatch.ingest.features.frequency_tables import different_items_known
from trustwatch.ingest.record_keys import agent_partition_key
from trustwatch.scoring.records.agents import AgentName, AgentRow, AgentSummary, ReleaseAgent, RiskLevel
from trustwatch.scoring.records.erasures import Erasure
from trustwatch.scoring.store.agent_store import AgentOrder, AgentQuery
from trustwatch.scoring.store.searches import DEFAULT_PAGE_SIZE, FilteredPage, search_agents

from ..events.intake import EventIntake
from ..http.agent_lookup import AgentResolver, AgentSelector, not_found_error, visible_tenants
from ..http.auth.callers import AuthenticatedCaller
from ..http.problems import ProblemDetails, problem_of
from ..http.refused_callers import BEYOND_CALLER, OrderLines, RefusedCallers
from ..http.runtime import Runtime
from ..http.separation_of_duties import attribute_to_caller, check_reason
from ..http.store_executor import BulkWork, StoreExecutor
from .recent_events import AgentEventHistory, DecisionMoment, event_locations, load_event_history
from .risk_answer_cache import RiskAnswerCache

_FIRST = (layout.Q_PACE_15M, layout.Q_PACE_4H, layout.Q_GAP, layout.Q_SESSION)
"""The most informative quantities. The others follow in their order."""

DISTINCT_COUNT_LABELS = {kind: item.profile for kind, item in sorted(ITEMS.items()) if item.profile}
QUANTITY_LABELS = {
    q: shown for q in (*_FIRST, *sorted(set(QUANTITIES) - set(_FIRST))) if (shown := QUANTITIES[q].profile) is not None
}

_ADVICE = "where only your own programs write that source, a mapping can say so (reference/sources.md)"
"""How unattested events can be learned."""


class UsualRange(NamedTuple):
    """A figure with its mean and one standard deviation."""

    name: Annotated[str, member("name of the figure", "time between events")]
    unit: Annotated[str, member("unit, if any", "s")]
    mean: Annotated[float, member("mean", 20.0)]
    low: Annotated[float, member("one standard deviation below the mean", 12.0)]
    high: Annotated[float, member("one standard deviation above the mean", 33.0)]


class DistinctCount(NamedTuple):
    """The number of different names of a kind that an agent has learned."""

    name: Annotated[str, member("kind of name", "destinations")]
    number: Annotated[int, member("number of different names that are known", 12)]
    complete: Annotated[bool, member("false if there may be more than are counted")]


class BaselineProfile(NamedTuple):
    """Usual behavior of an agent, read from its state; *notes* state what is not judged or learned."""

    learned: Annotated[
        int,
        member(
            "events that were learned, including the model's history; null if nothing is stored, or "
            "another version of Trustwatch wrote it",
            4210,
        ),
    ]
    distinct_counts: Annotated[list[DistinctCount], member("kinds of names that the agent has learned")]
    usual: Annotated[list[UsualRange], member("usual values of the agent's figures")]
    notes: Annotated[list[str], member("what is not judged or learned of it, and why", ["order is not judged"])]


def read_baseline_profile(row: AgentRow | None) -> BaselineProfile | None:
    """Read the profile in a stored row; None if there is none, or it has another layout."""
    if row is None or not row.features:
        return None
    state = read_state_rows([row.features])
    if state is None:
        return None
    numbers = state[0]["numbers"]
    counts = ((name, different_items_known(state[0]["known"], kind)) for kind, name in DISTINCT_COUNT_LABELS.items())
    distinct = [DistinctCount(name, *count) for name, count in counts if count is not None and count[0]]
    usual = []
    for quantity, (name, unit) in QUANTITY_LABELS.items():
        if numbers[layout.N_COUNT + quantity]:
            mean = float(numbers[layout.N_MEAN + quantity])
            spread = math.sqrt(max(float(numbers[layout.N_VAR + quantity]), 0.0))
            at, low, high = (max(0.0, math.expm1(value)) for value in (mean, mean - spread, mean + spread))
            usual.append(UsualRange(name, unit, at, low, high))
    return BaselineProfile(int(numbers[layout.N_EVENTS]), distinct, usual, _notes(state[0]))


def _notes(state: layout.Array) -> list[str]:
    notes = []
    row = state[None]
    if unordered := int(unordered_sessions(row["disorder"], row["session_last"], row["session_doubt"])[0]):
        notes.append(
            "more than a tenth of its recent work came out of order: order is not judged in "
            f"{unordered} of its {used_sessions(state)} latest sessions (docs/detection.md#late-events)"
        )
    if was_never_vouched(state):
        notes.append(f"no token attests any of its events: nothing is learned, and what it does stays new; {_ADVICE}")
    elif is_latest_unvouched(state):
        notes.append(f"no token attests its latest events: nothing is learned from them, and they stay new; {_ADVICE}")
    return notes


ANSWERS_PER_TURN = 100
"""Queries that are answered before other requests get their turn."""

SEARCH_PAGE_SIZE = 500
"""Agents that are read at once for a text search: most of them do not match."""


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
    """A released agent, and who released it."""

    name: AgentName
    by: Annotated[str, member("who released it", "analyst")]


@dataclass(eq=False, repr=False)
class AgentService:
    """Risk, lists and history of agents, and their release. For one event loop."""

    _runtime: Runtime
    _answers: RiskAnswerCache
    _agents: AgentResolver
    _executor: StoreExecutor
    _intake: EventIntake
    _open_erasures: Callable[[], Awaitable[Sequence[Erasure]]] | None
    _refused_callers: RefusedCallers
    _bulk: BulkWork

    def __post_init__(self) -> None:
        self._orders = OrderLines(self._runtime.monotonic)

    def answer(self, caller: AuthenticatedCaller, agent: AgentSelector) -> bytes:
        """Return the risk of an agent as JSON, from memory. Raises TenantNotAllowed, ProblemError."""
        return self._answers.answer(caller, *agent)

    async def answer_many(
        self, caller: AuthenticatedCaller, questions: Sequence[AgentSelector]
    ) -> list[bytes | ProblemDetails]:
        """Return answers in the order of the queries; a query without an answer gets a problem instead.

        Many are bulk work. Raises Overloaded.
        """
        if len(questions) <= ANSWERS_PER_TURN:
            return await self._answer_all(caller, questions)
        async with self._bulk.ticket(caller):
            return await self._answer_all(caller, questions)

    async def _answer_all(
        self, caller: AuthenticatedCaller, questions: Sequence[AgentSelector]
    ) -> list[bytes | ProblemDetails]:
        answers: list[bytes | ProblemDetails] = []
        for number, question in enumerate(questions, 1):
            try:
                answers.append(self.answer(caller, question))
            except TrustwatchError as error:
                problem = problem_of(error)
                if problem.status >= 500:
                    raise
                if problem.code in BEYOND_CALLER:
                    about = {"why": problem.detail, "tenant": question.tenant, "agent_id": question.agent_id}
                    self._refused_callers.tell(caller, problem.code, **about)
                answers.append(problem)
            if not number % ANSWERS_PER_TURN:
                await asyncio.sleep(0)
        return answers

    async def list(
        self, caller: AuthenticatedCaller, filters: AgentFilters, limit: int | None = None, cursor: str | None = None
    ) -> FilteredPage[AgentSummary]:
        """List agents as of the last commit. Raises TenantNotAllowed, ProblemError, Unavailable."""
        size = limit or (SEARCH_PAGE_SIZE if filters.text else DEFAULT_PAGE_SIZE)
        levels = None if filters.levels is None else [RiskLevel[word.upper()] for word in filters.levels]
        tenants = visible_tenants(caller, filters.tenant)
        query = AgentQuery(tenants, levels, filters.agent_type, filters.prefix, size, cursor, filters.order)
        least, text = 1 if limit else DEFAULT_PAGE_SIZE, filters.text.strip().casefold()
        if text:
            return await self._bulk.search(caller, search_agents, query, text, least)
        return await self._executor(search_agents, self._runtime.store, query, text, least)

    async def get(self, caller: AuthenticatedCaller, agent: AgentSelector) -> AgentSummary:
        """Return the named agent, from memory or the store. Raises ProblemError (404, 409), Unavailable."""
        return await self._agents.summary(caller, agent)

    async def release(
        self, caller: AuthenticatedCaller, agent: AgentSelector, note: str, *, note_required: bool = False
    ) -> ReleasedAgent:
        """Drop the evidence against an agent as soon as the pipeline reads the release; durable when this returns.

        Raises TenantNotAllowed, ProblemError.
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
        """Return the usual behavior of an agent; None if none is stored, or it has another layout."""
        tenants = visible_tenants(caller, None)
        return read_baseline_profile(await self._executor(self._runtime.store.agents.get, *name.identity, tenants))

    async def recent_events(
        self, caller: AuthenticatedCaller, name: AgentName, moment: DecisionMoment
    ) -> AgentEventHistory:
        """Return events of an agent, without those of subjects that are being erased.

        Raises TenantNotAllowed, Unavailable.
        """
        caller.require_tenant(name.tenant)
        # Known before anything is read.
        erasures = () if self._open_erasures is None else await self._open_erasures()
        locations = event_locations(self._runtime.settings)
        try:
            return await self._executor(load_event_history, locations, name, moment, erasures)
        except OSError as error:
            raise Unavailable(f"the event log cannot be read: {error}") from None
