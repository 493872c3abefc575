"""Assembly of the decision point and of the services of models and feedback, with what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.spans import Spans
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.pipeline.pipeline_status import PipelineStatus
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.declared_boundary import DeclaredBoundary
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.store.blast_radius import CriticalDescendants
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..access.approval_workflow import ApprovalWorkflow
from ..access.decision_point import PolicyDecisionPoint
from ..composition import (
    new_id,
    open_model_registry,
    service_url,
)
from ..events.admission import Admission, AgentRegistry
from ..events.audit_sink import AuditSink
from ..events.disk_reserve import disk_reserve
from ..feedback.preview_runner import PreviewProcess, PreviewRunner
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.store_executor import StoreExecutor
from ..models.control_record_writer import ControlRecordWriter
from ..models.service import ModelService
from ..settings.root import Settings

REFRESH_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


def make_decision_point(
    settings: Settings,
    log: GroupCommit,
    store: SqlStore,
    view: RiskView,
    policy: LivePolicy,
    status: PipelineStatus,
    changed: Callable[[Collection[AgentName]], None],
    now_ms: Callable[[], int] = clock.now_ms,
    alias: Callable[[str, str], str] | None = None,
    executor: StoreExecutor | None = None,
    spans: Spans | None = None,
) -> PolicyDecisionPoint:
    """The decision point, with what it asks.

    Args:
        changed: called with agents whose pins or approvals changed.
        now_ms: UTC milliseconds.
        alias: what is logged in place of principals' identifiers.
        executor: the way into the store; None = one of its own.
        spans: of the requests that ask; None = nothing is traced.
    """
    interventions = ActiveInterventions()
    registry = AgentRegistry(settings.registry)
    admission = Admission(registry, alias, store.identities)
    audit = AuditSink(log, admission, now_ms, new_id, disk_reserve(settings, clock.monotonic).is_reached)
    approvals = ApprovalWorkflow(
        store.interventions, interventions, audit, service_url(settings), now_ms, changed, executor or StoreExecutor()
    )
    staleness_ms = int(settings.risk.staleness_s * 1000)

    def stale(partition: int | None) -> bool:
        fresh_ms = status.fresh_ms if partition is None else status.fresh_ms_of(partition)
        return not fresh_ms or now_ms() >= fresh_ms + staleness_ms

    boundary = DeclaredBoundary(registry.capabilities_of, settings.outside_boundary or "record", settings.scope_actions)
    verdicts = PolicyEvaluator(view, policy, interventions, stale, now_ms, boundary)
    return PolicyDecisionPoint(verdicts, approvals, audit, store.identities, spans)


def drop_cached_answers(view: RiskView, agents: Collection[AgentName]) -> None:
    """Drop encoded answers of agents that a person pinned or approved something for."""
    for agent in agents:
        entry = view.get(agent.tenant, agent.issuer, agent.agent_id)
        if entry is not None:
            entry.cached_answer = None


async def run_decision_point(
    decision_point: PolicyDecisionPoint, policy: LivePolicy, on_policy: Callable[[], None], stop: asyncio.Event
) -> None:
    """Write audit events, follow interventions and the policy file, until *stop*; then write what is left."""
    writing = asyncio.create_task(decision_point.audit_sink.run())
    failing = False
    try:
        while not stop.is_set():
            try:
                await decision_point.approval_workflow.synchronise()
                failing = False
            except Unavailable as error:
                if not failing:
                    _log.warning("pins and approvals can not be followed; what is known holds", error=str(error))
                failing = True
            if await asyncio.to_thread(policy.refresh):
                on_policy()
            await _wait_for_stop(stop)
    finally:
        await decision_point.approval_workflow.close()
        await decision_point.audit_sink.flush(5.0)
        writing.cancel()


async def track_descendants(
    decision_point: PolicyDecisionPoint,
    policy: LivePolicy,
    store: SqlStore,
    changed: Callable[[Collection[AgentName]], None],
    stop: asyncio.Event,
    now_ms: Callable[[], int] = clock.now_ms,
) -> None:
    """Know the descendants of critical agents, while the policy wants to. While the store is away, those known stay."""
    verdicts, failing = decision_point.policy_evaluator, False
    finder = CriticalDescendants(store, now_ms)
    while not stop.is_set():
        try:
            if policy.book.descendants > RiskLevel.LOW:
                pinned = verdicts.interventions.pinned_levels(now_ms())  # here: the loop changes it
                descendants, differing = await asyncio.to_thread(finder.find, pinned)
            else:
                descendants, differing = {}, set(finder.critical_ancestors)
            finder.critical_ancestors = verdicts.critical_ancestors = descendants
            if differing:
                changed([store.edges.agent_name(*full) for full in sorted(differing)])
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


VERSION_REFRESH_EVERY_S = 2.0
"""The version in force is looked up so often: answers name it."""


def make_model_service(settings: Settings, log: GroupCommit, store: SqlStore, executor: StoreExecutor) -> ModelService:
    """The service of models. Raises ModelError."""
    writer = ControlRecordWriter(log, clock.now_ms)
    return ModelService(settings, store, open_model_registry(settings), writer, executor, clock.now_ms, new_id)


async def promote_ready_challenger(models: ModelService, version: str) -> None:
    """Promote a challenger that the model worker found better; its stored figures are looked at once more."""
    try:
        ordered = await models.promote_proved(version)
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
        if ordered:
            _log.info("a challenger is promoted", version=version)


async def track_active_version(models: ModelService, stop: asyncio.Event) -> None:
    """Look which version is in force, until *stop*."""
    failing = False
    while not stop.is_set():
        try:
            await asyncio.to_thread(models.refresh)
            failing = False
        except (TrustwatchError, OSError) as error:
            if not failing:
                _log.warning("which model is in force can not be looked up", error=str(error))
            failing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), VERSION_REFRESH_EVERY_S)


def make_feedback_service(
    settings: Settings,
    settings_file: Path | None,
    log: GroupCommit,
    store: SqlStore,
    audit: AuditSink,
    agents: AgentResolver,
    executor: StoreExecutor,
) -> FeedbackService:
    """The service of feedback; rules reach the pipeline by the same log as events."""

    def partitions() -> int:
        return log.log.partitions if isinstance(log.log, TopicCommitLog) else 1

    previews = PreviewRunner(store, PreviewProcess(settings_file), clock.now_ms, new_id)
    return FeedbackService(settings, store, log, audit, previews, agents, executor, clock.now_ms, partitions)
