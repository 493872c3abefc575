"""Assembly of the decision point and of the services of models, feedback and erasures, with their background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import structlog

from trustwatch.ingest.archive.archive_files import ArchiveFileKind as ArchiveKind
from trustwatch.ingest.errors import TrustwatchError, Unavailable
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary, PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, RiskLevel, agent_summary
from trustwatch.scoring.store.blast_radius import CriticalDescendants
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..access.approval_workflow import ApprovalWorkflow
from ..access.decision_point import PolicyDecisionPoint
from ..agents.service import read_baseline_profile
from ..brokers import open_admin, open_reader
from ..composition import (
    new_id,
    open_model_registry,
    open_service_privacy_key,
    principal_alias,
    service_url,
    spool_directory,
)
from ..events.admission import Admission, AgentRegistry
from ..events.audit_sink import AuditSink
from ..events.intake_limits import disk_reserve
from ..feedback.preview_runner import PreviewProcess, PreviewRunner
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.auth.signing import LocalSigningKey
from ..http.store_executor import StoreExecutor
from ..models.service import ControlRecordWriter, ModelService
from ..privacy.agent_export import ExportSources
from ..privacy.embedded_targets import EmbeddedErasureTargets, ErasureTargets, LocalArchives
from ..privacy.erasure_proof import ProofSigner
from ..privacy.service import ErasureService
from ..privacy.topic_targets import BrokerClients, TopicErasureTargets
from ..settings.root import Settings
from .backends import ServiceRoles

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
) -> PolicyDecisionPoint:
    """Make the decision point, with the services that it calls."""
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
    return PolicyDecisionPoint(verdicts, approvals, audit, store.identities, now_ms)


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
                    _log.warning("pins and approvals cannot be followed; the known ones stay active", error=str(error))
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
    """Track the descendants of critical agents if the policy asks for it; they stay if the store is unavailable."""
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
                _log.warning("descendants of critical agents cannot be looked up", error=str(error))
            failing = True
        except Exception as error:  # known ones stay; the service continues
            _log.error("descendants_failed", error=repr(error)[:200])
        await _wait_for_stop(stop)


async def _wait_for_stop(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), REFRESH_EVERY_S)
    except TimeoutError:
        return


VERSION_REFRESH_EVERY_S = 2.0
"""Interval at which the active version is looked up; answers name it."""


def make_model_service(settings: Settings, log: GroupCommit, store: SqlStore, executor: StoreExecutor) -> ModelService:
    """The service of models. Raises ModelError."""
    writer = ControlRecordWriter(log, clock.now_ms)
    return ModelService(settings, store, open_model_registry(settings), writer, executor, clock.now_ms, new_id)


async def promote_ready_challenger(models: ModelService, version: str) -> None:
    """Promote a challenger that the model worker found better; its stored figures are checked again."""
    try:
        ordered = await models.promote_proved(version)
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
        if ordered:
            _log.info("a challenger is promoted", version=version)


async def track_active_version(models: ModelService, stop: asyncio.Event) -> None:
    """Look up the active version until *stop*."""
    failing = False
    while not stop.is_set():
        try:
            await asyncio.to_thread(models.refresh)
            failing = False
        except (TrustwatchError, OSError) as error:
            if not failing:
                _log.warning("the active model cannot be looked up", error=str(error))
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


ENTRIES_PER_SLICE = 5_000
"""Agents of the view that are processed at a time; then requests get their turn."""


def make_erasure_service(
    settings: Settings,
    log: GroupCommit,
    store: SqlStore,
    view: RiskView,
    decision_point: PolicyDecisionPoint,
    status: PipelineStatus,
    agents: AgentResolver,
    executor: StoreExecutor,
    roles: ServiceRoles = ServiceRoles(),  # noqa: B008
) -> ErasureService:

    async def forget(subject: ErasureSubject, ordered_ms: int) -> None:
        await forget_in_memory(subject, ordered_ms, store, view, decision_point)

    def signer() -> ProofSigner:
        key = LocalSigningKey.open(settings.data_dir)
        return ProofSigner(key.sign_document, key.read_document)

    on_topic = settings.distributed
    log_folder = None if on_topic else settings.data_dir / "log"
    make_targets = _topic_targets if on_topic else _embedded_targets
    return ErasureService(
        make_targets(settings, log, store, status, roles),
        ExportSources(store, log_folder, settings.archive.directory, read_baseline_profile),
        agents,
        executor,
        principal_alias(settings),
        lambda: open_service_privacy_key(settings),
        signer,
        forget,
        clock.now_ms,
        on_server=settings.store.url is not None,
        leads=roles.workers,
    )


def _embedded_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, _roles: ServiceRoles
) -> ErasureTargets:
    folders = _archive_folders(settings)
    return EmbeddedErasureTargets(store, log, status, folders, spool_directory(settings))


def _archive_folders(settings: Settings) -> dict[ArchiveKind, Path]:
    folders: dict[ArchiveKind, Path | None] = {
        "events": settings.archive.directory,
        "vectors": settings.archive.vectors,
    }
    return {kind: folder for kind, folder in folders.items() if folder is not None}


def _topic_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, roles: ServiceRoles
) -> ErasureTargets:
    broker_settings, folders = settings.brokers, _archive_folders(settings)
    ours = {"events": roles.archiver, "vectors": roles.workers}
    archives = LocalArchives(
        store,
        {kind: folder for kind, folder in folders.items() if ours[kind]},
        broker_settings.topic_names.events,
        spool_directory(settings),
        socket.gethostname(),
        lambda: status.work_counts,
        settings.archive.retention_days * DAY_MS,
    )
    brokers = BrokerClients(
        broker_settings.topic_names,
        lambda topic: open_reader(broker_settings, (topic,)),
        lambda: open_admin(broker_settings),
    )
    return TopicErasureTargets(store, log, brokers, archives, frozenset(folders))


async def forget_in_memory(
    subject: ErasureSubject, ordered_ms: int, store: SqlStore, view: RiskView, decision_point: PolicyDecisionPoint
) -> None:
    """Erase a subject in this process: in the view, pins and approvals. The pipeline has erased it already.

    An agent whose first event is later than *ordered_ms*, the arrival of the order, acts as a new agent; its row
    may not be stored yet.
    """
    full = (subject.tenant, subject.issuer, subject.name)
    if subject.kind == "agent":
        row, in_view = await asyncio.to_thread(store.agents.get, *full), view.get(*full)
        if row is not None and (in_view is None or in_view.summary.evaluated_ms <= row.evaluated_ms):
            view.apply([agent_summary(row)])
        elif row is None and in_view is not None and in_view.summary.first_seen_ms < ordered_ms:
            view.remove(*full)
        decision_point.approval_workflow.active_interventions.remove_agent(full)
    await decision_point.approval_workflow.load_open()  # texts of others' pins and approvals were changed in the store
    names = NameEraser(subject.name, subject.pseudonym)
    entries = view.entries()
    for start in range(0, len(entries), ENTRIES_PER_SLICE):
        for entry in entries[start : start + ENTRIES_PER_SLICE]:
            summary = entry.summary
            if summary.name.tenant != subject.tenant:
                continue
            redacted = msgspec.structs.replace(
                summary,
                reasons=names.erase_in_json(summary.reasons, keep_members=True),
                counterfactual=names.erase_in_text(summary.counterfactual),
                indicators=names.erase_in_json(summary.indicators, keep_members=True),
            )
            if redacted != summary:
                entry.summary, entry.cached_answer = redacted, None
        await asyncio.sleep(0)
