"""Assembly: the objects of one running service, made once from its settings and its backend."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec

from trustwatch.ingest.archive.archive_files import ArchiveFileKind as ArchiveKind
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.record_erasure import ErasureSubject, NameEraser
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.ingest.topics.topic_commit_log import TopicCommitLog
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.access_evaluation import DeclaredBoundary, PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.interventions import ActiveInterventions
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, agent_summary
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..access.actuation import ActuationService
from ..access.approval_workflow import ApprovalWorkflow
from ..access.call_evaluation import LiveCallScorer
from ..access.decision_point import PolicyDecisionPoint
from ..agents.service import read_baseline_profile
from ..archive.slice import ArchiveStatus
from ..brokers import open_admin, open_reader
from ..composition import (
    live_policy,
    new_id,
    open_model_registry,
    open_service_privacy_key,
    principal_alias,
    spool_directory,
)
from ..events.admission import Admission, AgentRegistry
from ..events.audit_sink import AuditSink
from ..events.ingest_status import IngestStatus, SilenceAlerter, silence_watched_sources
from ..events.intake_limits import disk_reserve
from ..feedback.preview_runner import PreviewProcess, PreviewRunner
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import CallerDirectory
from ..http.auth.jwks import JwksCache
from ..http.auth.signing import LocalSigningKey
from ..http.connection_guard import ConnectionGuard, affordable_connections
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from ..models.service import ModelService, write_to_each_partition
from ..privacy.agent_export import ExportSources
from ..privacy.embedded_targets import EmbeddedErasureTargets, ErasureTargets, LocalArchives
from ..privacy.erasure_proof import ProofSigner
from ..privacy.service import ErasureService
from ..privacy.topic_targets import BrokerClients, TopicErasureTargets
from ..settings.root import Settings
from ..shared_signals.transmitter_context import TransmitterContext
from .backends import EventBackend, ServiceRoles


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
        store.interventions, interventions, audit, settings.listen.url(), now_ms, changed, executor or StoreExecutor()
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
    archive, brokers = settings.archive, settings.brokers
    configured: dict[ArchiveKind, Path | None] = {"events": archive.directory, "vectors": archive.vectors}
    folders = {kind: folder for kind, folder in configured.items() if folder is not None}
    targets: ErasureTargets
    if settings.distributed:
        ours = {"events": roles.archiver, "vectors": roles.workers}
        archives = LocalArchives(
            store,
            {kind: folder for kind, folder in folders.items() if ours[kind]},
            brokers.topic_names.events,
            spool_directory(settings),
            socket.gethostname(),
            lambda: status.work_counts,
            archive.retention_days * DAY_MS,
        )
        clients = BrokerClients(
            brokers.topic_names, lambda topic: open_reader(brokers, (topic,)), lambda: open_admin(brokers)
        )
        targets = TopicErasureTargets(store, log, clients, archives, frozenset(folders))
    else:
        targets = EmbeddedErasureTargets(store, log, status, folders, spool_directory(settings))

    def signer() -> ProofSigner:
        key = LocalSigningKey.open(settings.data_dir)
        return ProofSigner(key.sign_document, key.read_document)

    log_directory = None if settings.distributed else settings.data_dir / "log"
    return ErasureService(
        targets,
        ExportSources(store, log_directory, archive.directory, read_baseline_profile),
        agents,
        executor,
        principal_alias(settings),
        lambda: open_service_privacy_key(settings),
        signer,
        lambda subject, ordered_ms: forget_in_memory(subject, ordered_ms, store, view, decision_point),
        clock.now_ms,
        on_server=settings.store.url is not None,
        leads=roles.workers,
    )


ENTRIES_PER_SLICE = 5_000
"""Agents of the view that are processed at a time; then requests get their turn."""


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


class ServiceParts:
    """Parts that answer requests, and parts that run next to the answers."""

    def __init__(
        self,
        backend: EventBackend,
        view: RiskView,
        status: PipelineStatus,
        roles: ServiceRoles,
        wake_dispatcher: Callable[[], None],
        interventions_changed: Callable[[Collection[AgentName]], None],
    ) -> None:
        """Make the parts. Raises ConfigError, ModelError."""
        settings, log, store, now_ms = backend.settings, backend.log, backend.store, clock.now_ms
        self.settings, self.roles, self.backend, self.view, self.status = settings, roles, backend, view, status
        self.policy = live_policy(settings)
        self.jwks = JwksCache(settings.issuers, clock.now_s, clock.monotonic, settings.outgoing.ca_file)
        find_caller = caller_directory(settings).resolve
        self.verifier = TokenVerifier(settings.issuers, self.jwks, find_caller, settings.verification, clock.now_s)
        self.connections = ConnectionGuard(clock.monotonic, affordable_connections())
        self.ingest = IngestStatus()
        self.archive = ArchiveStatus(alone=not (roles.api or roles.workers))
        sources = silence_watched_sources(settings)
        self.silence = SilenceAlerter(store.outbox, sources, settings.listen.url(), now_ms, wake_dispatcher)
        self.executor = executor = StoreExecutor()
        self.agents = agents = AgentResolver(view, store, executor)
        self.principal_alias = alias = principal_alias(settings)  # replaces principals' identifiers in the log
        self.decision_point = decision_point = make_decision_point(
            settings, log, store, view, self.policy, status, interventions_changed, alias=alias, executor=executor
        )
        self.actuation = ActuationService(settings, store, decision_point.policy_evaluator, wake_dispatcher)
        registry = open_model_registry(settings)
        control = partial(write_to_each_partition, log, now_ms)
        self.models = ModelService(settings, store, registry, control, executor, now_ms, new_id)
        self.feedback = FeedbackService(
            settings,
            store,
            log,
            decision_point.audit_sink,
            PreviewRunner(store, PreviewProcess(backend.settings_file), now_ms, new_id),
            agents,
            executor,
            now_ms,
            lambda: log.log.partitions if isinstance(log.log, TopicCommitLog) else 1,
        )
        self.erasures = make_erasure_service(
            settings, log, store, view, decision_point, status, agents, executor, roles
        )
        self.calls: LiveCallScorer | None = None  # then calls are judged by the level alone
        if roles.api:
            budget = settings.risk.challenge_budget
            self.calls = LiveCallScorer(registry, budget, settings.domains(), compiled_elsewhere=True)
        self.transmitter: TransmitterContext | None = None  # then there are no streams of security event tokens
        if settings.shared_signals.enabled:
            self.transmitter = TransmitterContext(settings, clock.now_s, clock.monotonic)


def caller_directory(settings: Settings) -> CallerDirectory:
    """Return the callers of the settings, by their tokens."""
    return CallerDirectory(settings.callers, [issuer.issuer for issuer in settings.issuers])


def make_runtime(parts: ServiceParts, model_version: str) -> Runtime:
    """Return everything that the application uses."""
    archive_only = parts.archive.archive_only
    readiness_checks = {"archive": parts.archive.is_ready} if archive_only else {}
    # One issuer is enough: one that is down must not take the callers of the others down.
    readiness_checks["issuers"] = lambda: not parts.jwks.status() or any(one.keys for one in parts.jwks.status())
    services = (  # which routes find by their type
        parts.connections,
        parts.executor,
        parts.agents,
        parts.decision_point,
        parts.ingest,
        parts.archive,
        parts.silence,
        parts.models,
        parts.feedback,
        parts.erasures,
        parts.calls,
        parts.transmitter,
    )
    return Runtime(
        settings=parts.settings,
        verifier=parts.verifier,
        policy_evaluator=parts.decision_point.policy_evaluator,
        event_log=parts.backend.log,
        store=parts.backend.store,
        risk_view=parts.view,
        live_policy=parts.policy,
        model_version=model_version,
        pipeline_status=parts.status,
        delivery_counts=Counter(),
        issuer_key_status=parts.jwks.status,
        readiness_checks=readiness_checks,
        runs_pipeline=not archive_only,
        log_lag=parts.backend.pending_records(parts.status),
        desired_state=parts.actuation.desired_state_resolver,
        actuation_statistics=parts.actuation.counts,
        active_version=lambda: parts.models.version,
        learning=lambda: parts.models.learning is not None,
        services=tuple(service for service in services if service is not None),
        principal_alias=parts.principal_alias,
        compiled_elsewhere=True,
    )
