"""The guard of a running service: made once, fed by the view, and kept true by a chore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from ...ingest.errors import Unavailable
from ...ingest.hashing import agent_key
from ...ingest.log import GroupCommit
from ...scoring.descendants import CriticalDescendants
from ...scoring.interventions import ActiveInterventions
from ...scoring.policy import LivePolicy
from ...scoring.records import AgentName, RiskLevel
from ...scoring.store import Store
from ...scoring.verdicts import PolicyEvaluator
from ...scoring.view import RiskView
from .. import clock
from ..edge import Admission, AgentRegistry
from ..guard import ApprovalWorkflow, AuditSink, PolicyDecisionPoint
from ..http.services import PipelineStatus, new_id
from ..settings import Settings
from .wiring import service_url

REFRESH_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


def make_decision_point(
    settings: Settings,
    log: GroupCommit,
    store: Store,
    view: RiskView,
    policy: LivePolicy,
    status: PipelineStatus,
    changed: Callable[[Collection[AgentName]], None],
    now_ms: Callable[[], int] = clock.now_ms,
    alias: Callable[[str, str], str] | None = None,
) -> PolicyDecisionPoint:
    """Everything the guard stands on.

    Args:
        changed: called with agents whose pins or approvals changed.
        now_ms: UTC milliseconds.
        alias: what is logged in place of principals' identifiers.
    """
    known = ActiveInterventions()
    admission = Admission(AgentRegistry(settings.registry), alias)
    audit = AuditSink(log, admission, now_ms, new_id)
    approvals = ApprovalWorkflow(store, known, audit, service_url(settings), now_ms, changed)
    staleness_ms = int(settings.risk.staleness_s * 1000)

    def stale(partition: int | None) -> bool:
        fresh_ms = status.fresh_ms if partition is None else status.fresh_ms_of(partition)
        return not fresh_ms or now_ms() >= fresh_ms + staleness_ms

    return PolicyDecisionPoint(PolicyEvaluator(view, policy, known, stale, now_ms), approvals, audit)


def drop_cached_answers(view: RiskView, agents: Collection[AgentName]) -> None:
    """A person pinned or approved something: what was encoded before says so no more."""
    for agent in agents:
        entry = view.get(agent.tenant, agent.issuer, agent.agent_id)
        if entry is not None:
            entry.cached_answer = None


async def run_decision_point(
    guard: PolicyDecisionPoint, policy: LivePolicy, on_policy: Callable[[], None], stop: asyncio.Event
) -> None:
    """Write audit events, follow interventions and the policy file, until *stop*; then write what is left."""
    writing = asyncio.create_task(guard.audit_sink.run())
    failing = False
    try:
        while not stop.is_set():
            try:
                await guard.approval_workflow.synchronise()
                failing = False
            except Unavailable as error:
                if not failing:
                    _log.warning("pins and approvals can not be followed; what is known holds", error=str(error))
                failing = True
            if await asyncio.to_thread(policy.refresh):
                on_policy()
            await _wait_for_stop(stop)
    finally:
        await guard.approval_workflow.close()
        await guard.audit_sink.flush(5.0)
        writing.cancel()


async def track_descendants(
    guard: PolicyDecisionPoint,
    policy: LivePolicy,
    store: Store,
    changed: Callable[[Collection[AgentName]], None],
    stop: asyncio.Event,
    now_ms: Callable[[], int] = clock.now_ms,
) -> None:
    """Know the descendants of critical agents, while the policy wants to. While the store is away, those known stay."""
    verdicts, failing = guard.policy_evaluator, False
    finder = CriticalDescendants(store, now_ms)
    while not stop.is_set():
        try:
            if policy.book.descendants > RiskLevel.LOW:
                pinned = verdicts.interventions.pinned_levels(now_ms())  # here: the loop changes it
                found, differing = await asyncio.to_thread(finder.find, pinned)
            else:
                found, differing = {}, set(finder.critical_ancestors)
            finder.critical_ancestors = verdicts.critical_ancestors = found
            if differing:
                changed([AgentName(agent_key(*full), *full) for full in sorted(differing)])
            failing = False
        except Unavailable as error:
            if not failing:
                _log.warning("descendants of critical agents can not be looked for", error=str(error))
            failing = True
        except Exception as error:  # those known stay; the service goes on
            _log.error("descendants_failed", error=repr(error)[:200])
        await _wait_for_stop(stop)


async def _wait_for_stop(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), REFRESH_EVERY_S)
    except TimeoutError:
        return
