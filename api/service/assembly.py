"""Assembly of the slices' services: made once, with what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import structlog

from ...ingest.archive.archive_files import ArchiveFileKind as ArchiveKind
from ...ingest.errors import TrustwatchError, Unavailable
from ...ingest.kafka import open_admin, open_reader
from ...ingest.kafka.kafka_commit_log import KafkaCommitLog
from ...ingest.log.group_commit import GroupCommit
from ...ingest.record_erasure import ErasureSubject, NameEraser
from ...ingest.timestamps import DAY_MS
from ...scoring.pipeline.ipc import agent_summaries
from ...scoring.pipeline.pipeline_status import PipelineStatus
from ...scoring.policy.access_evaluation import PolicyEvaluator
from ...scoring.policy.book import LivePolicy
from ...scoring.policy.interventions import ActiveInterventions
from ...scoring.policy.risk_view import RiskView
from ...scoring.records.agents import AgentName, RiskLevel
from ...scoring.store.blast_radius import CriticalDescendants
from ...scoring.store.sql_store import SqlStore
from .. import clock
from ..access.approval_workflow import ApprovalWorkflow
from ..access.decision_point import PolicyDecisionPoint
from ..agents.baseline_profile import read_baseline_profile
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
from ..events.disk_reserve import disk_reserve
from ..feedback.preview_runner import PreviewProcess, PreviewRunner
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.auth.signing import LocalSigningKey
from ..http.store_executor import StoreExecutor
from ..models.control_record_writer import ControlRecordWriter
from ..models.service import ModelService
from ..privacy.agent_export import ExportSources
from ..privacy.embedded_targets import EmbeddedErasureTargets, ErasureTargets
from ..privacy.erasure_steps import ProofSigner
from ..privacy.kafka_targets import BrokerClients, KafkaErasureTargets
from ..privacy.local_archives import LocalArchives
from ..privacy.service import ErasureService
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
    """The decision point, with what it asks.

    Args:
        changed: called with agents whose pins or approvals changed.
        now_ms: UTC milliseconds.
        alias: what is logged in place of principals' identifiers.
        executor: the way into the store; None = one of its own.
    """
    interventions = ActiveInterventions()
    admission = Admission(AgentRegistry(settings.registry), alias, store.identities)
    audit = AuditSink(log, admission, now_ms, new_id, disk_reserve(settings, clock.monotonic).is_reached)
    approvals = ApprovalWorkflow(
        store.interventions, interventions, audit, service_url(settings), now_ms, changed, executor or StoreExecutor()
    )
    staleness_ms = int(settings.risk.staleness_s * 1000)

    def stale(partition: int | None) -> bool:
        fresh_ms = status.fresh_ms if partition is None else status.fresh_ms_of(partition)
        return not fresh_ms or now_ms() >= fresh_ms + staleness_ms

    return PolicyDecisionPoint(
        PolicyEvaluator(view, policy, interventions, stale, now_ms), approvals, audit, store.identities
    )


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
        await models.promote_proved(version)
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
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
        return log.log.partitions if isinstance(log.log, KafkaCommitLog) else 1

    previews = PreviewRunner(settings.feedback, store, PreviewProcess(settings_file), clock.now_ms, new_id)
    return FeedbackService(settings, store, log, audit, previews, agents, executor, clock.now_ms, partitions)


ENTRIES_PER_SLICE = 5_000
"""Agents of the view that are looked at in one go; then requests get their turn."""


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
    """The service of erasures."""

    async def forget(subject: ErasureSubject) -> None:
        await forget_in_memory(subject, store, view, decision_point)

    def signer() -> ProofSigner:
        key = LocalSigningKey.open(settings.data_dir)
        return ProofSigner(key.sign_document, key.read_document)

    on_topic = bool(settings.kafka.bootstrap_servers)
    archive = settings.archive
    targets: ErasureTargets
    if on_topic:
        targets = _kafka_targets(settings, log, store, status, roles)
    else:
        targets = EmbeddedErasureTargets(
            store, log, status, archive.directory, archive.vectors, spool_directory(settings)
        )
    export_sources = ExportSources(
        store, None if on_topic else settings.data_dir / "log", archive.directory, read_baseline_profile
    )
    return ErasureService(
        targets,
        export_sources,
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


def _kafka_targets(
    settings: Settings, log: GroupCommit, store: SqlStore, status: PipelineStatus, roles: ServiceRoles
) -> KafkaErasureTargets:
    kafka, archive = settings.kafka, settings.archive
    kinds: dict[ArchiveKind, Path | None] = {"events": archive.directory, "vectors": archive.vectors}
    folders = {kind: folder for kind, folder in kinds.items() if folder is not None}
    ours = {"events": roles.archiver, "vectors": roles.workers}
    archives = LocalArchives(
        store,
        {kind: folder for kind, folder in folders.items() if ours[kind]},
        kafka.names.events,
        spool_directory(settings),
        socket.gethostname(),
        lambda: status.work_counts,
        archive.retention_days * DAY_MS,
    )
    brokers = BrokerClients(kafka.names, lambda topic: open_reader(kafka, (topic,)), lambda: open_admin(kafka))
    return KafkaErasureTargets(store, log, brokers, archives, frozenset(folders))


async def forget_in_memory(
    subject: ErasureSubject, store: SqlStore, view: RiskView, decision_point: PolicyDecisionPoint
) -> None:
    """Forget a subject in this process: the view, pins and approvals. The pipeline has forgotten it already."""
    full = (subject.tenant, subject.issuer, subject.name)
    if subject.kind == "agent":
        row = await asyncio.to_thread(store.agents.get, *full)
        if row is None:
            view.remove(*full)
        else:  # it acts again, as somebody new
            view.apply(agent_summaries([row]))
        decision_point.approval_workflow.active_interventions.remove_agent(full)
    await decision_point.approval_workflow.load_open()  # what others' pins and approvals say was changed in the store
    names = NameEraser(subject.name, subject.pseudonym)
    entries = view.entries()
    for start in range(0, len(entries), ENTRIES_PER_SLICE):
        for entry in entries[start : start + ENTRIES_PER_SLICE]:
            summary = entry.summary
            if summary.name.tenant != subject.tenant:
                continue
            reasons, counterfactual = names.erase_in_json(summary.reasons), names.erase_in_text(summary.counterfactual)
            if (reasons, counterfactual) != (summary.reasons, summary.counterfactual):
                entry.summary = msgspec.structs.replace(summary, reasons=reasons, counterfactual=counterfactual)
                entry.cached_answer = None
        await asyncio.sleep(0)
