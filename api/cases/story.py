"""The story of a case: reads all that happened in it, for its timeline and its report."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from ...ingest.errors import TrustwatchError
from ...ingest.events import NativeEvent
from ...scoring.records.decisions import Decision
from ...scoring.store.database import MAX_PAGE
from ..agents.recent_events import DecisionMoment
from ..agents.service import AgentService
from ..http.agent_lookup import visible_tenants
from ..http.auth.callers import SCOPE_ADMIN, AuthenticatedCaller
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from .service import CaseReport
from .timeline import CaseRecords, TimelineItem, UntoldEvents, build_timeline

MAX_AGENTS_IN_STORY: Final = 50
"""Agents whose approvals, pins, actuations and feedback a timeline has."""
MAX_AGENTS_WITH_EVENTS: Final = 5
"""Agents whose events a timeline has: each takes a look through the log."""
MAX_DECISIONS_IN_STORY: Final = 500
LEAD_MS: Final = 3_600_000
"""Time before the first event of a case: what ended within it belongs to the story."""

_log = structlog.get_logger(__name__)


class CaseStory:
    """Timelines of cases that a caller may see. For one event loop.

    Args:
        runtime: store.
        executor: the way into the store.
        agents: finds events of agents.
    """

    def __init__(self, runtime: Runtime, executor: StoreExecutor, agents: AgentService) -> None:
        self._runtime = runtime
        self._executor = executor
        self._agents = agents

    async def timeline(self, caller: AuthenticatedCaller, report: CaseReport) -> list[TimelineItem]:
        """All that happened in a case, oldest first: events around what raised its agents included.

        Of `MAX_AGENTS_IN_STORY` agents, those that joined first; messages to people only with the scope `trust.admin`.
        Events that can not be read are left out. Raises Unavailable: the store does not answer.
        """
        records = await self._executor(
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
        told = records._replace(events=events, left_out=left_out)
        return await asyncio.to_thread(build_timeline, told)  # of a long case that takes a while

    async def _events_around(
        self, caller: AuthenticatedCaller, decision: Decision
    ) -> tuple[Sequence[NativeEvent], UntoldEvents]:
        moment = DecisionMoment(decision.event_time_ms, decision.partition, decision.offset)
        nothing = UntoldEvents(decision.agent.agent_id, decision.event_time_ms, ())
        try:
            history = await self._agents.recent_events(caller, decision.agent, moment)
        except TrustwatchError as error:
            _log.info("case_without_events", agent=decision.agent.agent_id, error=str(error))
            return (), nothing
        return history.around, nothing._replace(actions=history.left_out)

    def _records(self, report: CaseReport, tenants: Collection[str] | None, *, with_alerts: bool) -> CaseRecords:
        store, case_id = self._runtime.store, report.case.case_id
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
