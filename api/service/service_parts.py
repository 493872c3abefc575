"""Objects of one running service, made once from its settings and its backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName

from .. import clock
from ..access.actuation import ActuationService
from ..access.call_evaluation import LiveCallScorer
from ..access.decision_point import PolicyDecisionPoint
from ..archive.slice import ArchiveStatus
from ..composition import live_policy, open_model_registry, principal_alias, service_url
from ..events.ingest_status import IngestStatus, SilenceAlerter, silence_watched_sources
from ..feedback.service import FeedbackService
from ..http.agent_lookup import AgentResolver
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import AuthenticatedCaller, CallerDirectory
from ..http.auth.jwks import JwksCache
from ..http.connection_guard import ConnectionGuard, affordable_connections
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from ..models.service import ModelService
from ..privacy.service import ErasureService
from ..settings.root import Settings
from ..shared_signals.transmitter_context import TransmitterContext
from .assembly import make_decision_point, make_erasure_service, make_feedback_service, make_model_service
from .backends import EventBackend, ServiceRoles


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """Parts that answer requests, and parts that run next to the answers."""

    settings: Settings
    roles: ServiceRoles
    backend: EventBackend
    view: RiskView
    status: PipelineStatus
    policy: LivePolicy
    jwks: JwksCache
    verifier: TokenVerifier[AuthenticatedCaller]
    connections: ConnectionGuard
    ingest: IngestStatus
    archive: ArchiveStatus
    silence: SilenceAlerter
    executor: StoreExecutor
    agents: AgentResolver
    principal_alias: Callable[[str, str], str] | None  # replaces principals' identifiers in the log
    decision_point: PolicyDecisionPoint
    actuation: ActuationService
    models: ModelService
    feedback: FeedbackService
    erasures: ErasureService
    calls: LiveCallScorer | None  # None if calls are judged by the level alone
    transmitter: TransmitterContext | None  # None if there are no streams of security event tokens


def make_service_parts(
    settings: Settings,
    backend: EventBackend,
    view: RiskView,
    status: PipelineStatus,
    roles: ServiceRoles,
    wake_dispatcher: Callable[[], None],
    interventions_changed: Callable[[Collection[AgentName]], None],
) -> ServiceParts:
    log, store = backend.log, backend.store
    jwks = JwksCache(settings.issuers, clock.now_s, clock.monotonic, settings.outgoing.ca_file)
    policy, alias, executor = live_policy(settings), principal_alias(settings), StoreExecutor()
    agents = AgentResolver(view, store, executor)
    decision_point = make_decision_point(
        settings, log, store, view, policy, status, interventions_changed, alias=alias, executor=executor
    )
    return ServiceParts(
        settings=settings,
        roles=roles,
        backend=backend,
        view=view,
        status=status,
        policy=policy,
        jwks=jwks,
        verifier=_make_verifier(settings, jwks),
        connections=ConnectionGuard(clock.monotonic, affordable_connections()),
        ingest=IngestStatus(),
        archive=ArchiveStatus(alone=not (roles.api or roles.workers)),
        silence=_make_silence_alerter(settings, backend, wake_dispatcher),
        executor=executor,
        agents=agents,
        principal_alias=alias,
        decision_point=decision_point,
        actuation=ActuationService(settings, store, decision_point.policy_evaluator, wake_dispatcher),
        models=make_model_service(settings, log, store, executor),
        feedback=make_feedback_service(
            settings, backend.settings_file, log, store, decision_point.audit_sink, agents, executor
        ),
        erasures=make_erasure_service(settings, log, store, view, decision_point, status, agents, executor, roles),
        calls=_make_call_scorer(settings, roles),
        transmitter=_make_transmitter_context(settings),
    )


def _make_transmitter_context(settings: Settings) -> TransmitterContext | None:
    if not settings.shared_signals.enabled:
        return None
    return TransmitterContext(settings, clock.now_s, clock.monotonic)


def _make_call_scorer(settings: Settings, roles: ServiceRoles) -> LiveCallScorer | None:
    if not roles.api:
        return None
    return LiveCallScorer(
        open_model_registry(settings), settings.risk.challenge_budget, settings.domains(), compiled_elsewhere=True
    )


def caller_directory(settings: Settings) -> CallerDirectory:
    """The callers of the settings, by their tokens."""
    return CallerDirectory(settings.callers, [issuer.issuer for issuer in settings.issuers])


def _make_verifier(settings: Settings, jwks: JwksCache) -> TokenVerifier[AuthenticatedCaller]:
    directory = caller_directory(settings)
    return TokenVerifier(settings.issuers, jwks, directory.resolve, settings.verification, clock.now_s)


def _make_silence_alerter(
    settings: Settings, backend: EventBackend, wake_dispatcher: Callable[[], None]
) -> SilenceAlerter:
    sources = silence_watched_sources(settings)
    return SilenceAlerter(backend.store.outbox, sources, service_url(settings), clock.now_ms, wake_dispatcher)


def make_runtime(parts: ServiceParts, model_version: str) -> Runtime:
    """Everything that the application uses."""
    archive_only = parts.archive.archive_only
    readiness_checks = {"archive": parts.archive.is_ready} if archive_only else {}
    readiness_checks["issuers"] = lambda: _has_issuer_keys(parts.jwks)
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
        services=_services_of(parts),
        principal_alias=parts.principal_alias,
        compiled_elsewhere=True,
    )


def _services_of(parts: ServiceParts) -> tuple[object, ...]:
    """Services that routes find by their type."""
    return (
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
        *(() if parts.calls is None else (parts.calls,)),
        *(() if parts.transmitter is None else (parts.transmitter,)),
    )


def _has_issuer_keys(jwks: JwksCache) -> bool:
    """True if tokens of any issuer can be verified; one that is down must not take the others' callers down."""
    issuers = jwks.status()
    return not issuers or any(issuer.keys > 0 for issuer in issuers)
