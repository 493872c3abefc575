"""The story of a case: reads all that happened in it, for its timeline and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import structlog

from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.events import NativeEvent
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.store.database import MAX_PAGE

from ..agents.recent_events import DecisionMoment
from ..agents.service import AgentService
from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ..http.problems import RETRY_AFTER_S, ProblemDetails, ProblemError
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from .case_reports import CaseReport
from .service import CaseService
from .timeline import CaseRecords, TimelineItem, UntoldEvents, build_timeline

MAX_AGENTS_IN_STORY: Final = 50  # Agents whose approvals, pins, actuations and feedback a timeline has
MAX_AGENTS_WITH_EVENTS: Final = 5  # Agents whose events a timeline has: each takes a look through the log
MAX_DECISIONS_IN_STORY: Final = 500
LEAD_MS: Final = 3_600_000  # Time before the first event of a case: what ended within it belongs to the story
T = TypeVar("T")

MAX_STORIES_AT_ONCE, MAX_STORIES_WAITING, MAX_STORIES_OF_CALLER = 2, 8, 4
"""Stories that are put together at a time (two of the threads for the store stay for others), that wait for that, and
those of one caller among both. A further one is refused, and may be asked for again."""

PLACES_FOR_OTHERS: Final = 2
"""The last places are for callers of tenants of which no story is asked for: no tenant takes them all."""

STORY_WITHIN_S: Final = 30.0  # Longest time for reading what a story is made of: it holds a place

_log = structlog.get_logger(__name__)


@dataclass(eq=False, repr=False)
class CaseStory:
    """Timelines of cases that a caller may see. For one event loop.

    A long one takes a while: it is put together in threads of its own, which nothing else waits for.
    """

    runtime: Runtime
    executor: StoreExecutor
    cases: CaseService
    agents: AgentService

    def __post_init__(self) -> None:
        self._asked: Counter[tuple[str, str]] = Counter()
        self._asked_by_tenants: Counter[frozenset[str]] = Counter()
        self._places = anyio.Semaphore(MAX_STORIES_AT_ONCE)
        self._threads = anyio.CapacityLimiter(MAX_STORIES_AT_ONCE)

    @property
    def asked_for(self) -> int:
        """Number of stories that are put together, or wait for that."""
        return self._asked.total()

    async def tell(
        self, caller: AuthenticatedCaller, case_id: str, write: Callable[[CaseReport, list[TimelineItem]], T]
    ) -> T:
        """All that happened in a case, as *write* tells it in a thread: events around what raised its agents too.

        Of `MAX_AGENTS_IN_STORY` agents, those that joined first; messages to people only with the scope `trust.admin`.
        Events that can not be read are left out. Raises ProblemError (404, 503), Unavailable.
        """
        async with self._place(caller):
            try:
                with anyio.fail_after(STORY_WITHIN_S):
                    report = await self.cases.get(caller, case_id)
                    records = await self._gather(caller, report)
            except TimeoutError:
                raise Unavailable("the store does not answer in time") from None

            def told() -> T:
                return write(report, build_timeline(records))

            return await anyio.to_thread.run_sync(told, limiter=self._threads)

    @asynccontextmanager
    async def _place(self, caller: AuthenticatedCaller) -> AsyncIterator[None]:
        """One of the places for stories, as soon as there is one. Raises ProblemError (503) where too many wait."""
        who, tenants = (caller.issuer, caller.subject), caller.tenants
        left = MAX_STORIES_AT_ONCE + MAX_STORIES_WAITING - self.asked_for
        if left <= 0 or (left <= PLACES_FOR_OTHERS and self._asked_by_tenants[tenants]):
            raise _busy_error("too many stories of cases are being put together; ask again in a moment")
        if self._asked[who] >= MAX_STORIES_OF_CALLER:
            raise _busy_error("too many stories of cases are being put together for you; ask again in a moment")
        self._asked[who] += 1
        self._asked_by_tenants[tenants] += 1
        try:
            async with self._places:
                yield
        finally:
            self._asked[who] -= 1
            self._asked_by_tenants[tenants] -= 1
            self._asked, self._asked_by_tenants = +self._asked, +self._asked_by_tenants

    async def _gather(self, caller: AuthenticatedCaller, report: CaseReport) -> CaseRecords:
        records = await self.executor(
            self._records, report, visible_tenants(caller, None), with_alerts=SCOPE_ADMIN in caller.scopes
        )
        events: list[NativeEvent] = []
        left_out: list[UntoldEvents] = []
        peaks = {decision.decision_id: decision for decision in records.decisions}
        for case_agent in report.agents[:MAX_AGENTS_WITH_EVENTS]:
            if (peak := peaks.get(case_agent.decision_id)) is not None:
                found, untold = await self._events_around(caller, peak)
                events += found
                left_out += [untold] if untold.actions else []
        return records._replace(events=events, left_out=left_out)

    async def _events_around(
        self, caller: AuthenticatedCaller, decision: Decision
    ) -> tuple[Sequence[NativeEvent], UntoldEvents]:
        moment = DecisionMoment(decision.event_time_ms, decision.partition, decision.offset)
        nothing = UntoldEvents(decision.agent.agent_id, decision.event_time_ms, ())
        try:
            history = await self.agents.recent_events(caller, decision.agent, moment)
        except TrustwatchError as error:
            _log.info("case_without_events", agent=decision.agent.agent_id, error=str(error))
            return (), nothing
        return history.around, nothing._replace(actions=history.left_out)

    def _records(self, report: CaseReport, tenants: Collection[str] | None, *, with_alerts: bool) -> CaseRecords:
        store, case_id = self.runtime.store, report.case.case_id
        ids = store.cases.decision_ids(case_id, tenants, MAX_DECISIONS_IN_STORY)
        decisions = list(store.decisions.get_many(ids, tenants).values())
        names = [case_agent.agent for case_agent in report.agents[:MAX_AGENTS_IN_STORY]]
        since_ms = min((decision.event_time_ms for decision in decisions), default=report.case.opened_ms) - LEAD_MS
        interventions = [
            intervention
            for name in names
            for intervention in store.interventions.page(tenants, agent=name).items
            if max(intervention.updated_ms, intervention.expires_ms) >= since_ms
        ]
        actuations = [actuation for name in names for actuation in store.actuations.page(tenants, name).items]
        feedback = [feedback_item for name in names for feedback_item in store.feedback.page(tenants, agent=name).items]
        deliveries = store.outbox.page(tenants, limit=MAX_PAGE, case_id=case_id).items if with_alerts else []
        return CaseRecords(
            decisions,
            report.entries,
            interventions,
            [actuation for actuation in actuations if actuation.updated_ms >= since_ms],
            deliveries,
            [feedback_item for feedback_item in feedback if feedback_item.created_ms >= since_ms],
        )


def _busy_error(detail: str) -> ProblemError:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ProblemError(ProblemDetails(503, Unavailable.code, "Unavailable", detail, headers))
