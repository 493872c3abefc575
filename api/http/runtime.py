"""What the application is given: everything it uses, made by the composition root. There are no globals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ingest.log.group_commit import GroupCommit
from ...scoring.delivery.actuators.actuator_notifier import ActuationMetrics
from ...scoring.pipeline.desired_state_resolver import DesiredStateResolver
from ...scoring.pipeline.pipeline_status import PipelineStatus
from ...scoring.policy.book import LivePolicy
from ...scoring.policy.risk_view import RiskView
from ...scoring.store.sql_store import SqlStore
from .. import clock as machine
from ..access.decision_point import PolicyDecisionPoint
from ..archive.archive_status import ArchiveStatus
from ..composition import new_id
from ..events.ingest_status import IngestStatus, SilenceReport
from ..feedback.service import FeedbackService
from ..models.service import ModelService
from ..privacy.service import ErasureService
from ..settings.root import Settings
from .auth.bearer_tokens import TokenVerifier
from .auth.callers import AuthenticatedCaller
from .auth.jwks import JwksStatus

LifespanHook = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Runtime:
    """Everything the application uses.

    Attributes:
        settings: of the service.
        verifier: judges bearer tokens.
        event_log: where events become durable.
        decision_point: what hooks and gateways ask.
        store: lists and look-ups; called in threads.
        risk_view: risk of every agent, in memory.
        live_policy: the policy book in force.
        model_version: of the model that scored when the service started.
        model_service: the desk of models, which knows the one that scores now; None = in tests without any.
        pipeline_status: what is known of the pipeline.
        clock: seconds since 1970.
        monotonic: seconds on a clock that never goes back, for durations.
        new_id: text that never repeats, for ids of errors and dead letters.
        readiness_checks: further components of readiness, by name; each says whether it is ready.
        delivery_counts: attempts to deliver alerts so far, by target and outcome.
        issuer_key_status: how the keys of each issuer fare.
        log_lag: logged records that wait to be applied, for the bound at the door; None = the log has its own bound.
        desired_state: what actuators are to bring about, and who asks them to look; None = in tests without any.
        actuation_statistics: how actuators fared in this process.
        ingest_status: how foreign topics fare, where they are read here.
        archive_status: how the archive fares, where it is kept here.
        feedback_service: takes what people say of decisions; None = in tests without any.
        erasure_service: erases, with proof; None = in tests without any.
        principal_alias: what is logged in place of a principal, given tenant and identifier; None = its identifier.
        on_silence: given what is known of the callers that are watched, every second.
        on_startup: awaited in order before the first request.
        on_shutdown: awaited in order after the last one.
    """

    settings: Settings
    verifier: TokenVerifier[AuthenticatedCaller]
    event_log: GroupCommit
    store: SqlStore
    decision_point: PolicyDecisionPoint
    risk_view: RiskView
    live_policy: LivePolicy
    model_version: str
    pipeline_status: PipelineStatus
    clock: Callable[[], float] = machine.now_s
    monotonic: Callable[[], float] = machine.monotonic
    new_id: Callable[[], str] = new_id
    readiness_checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    delivery_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    issuer_key_status: Callable[[], Sequence[JwksStatus]] = tuple
    log_lag: Callable[[], int] | None = None
    desired_state: DesiredStateResolver | None = None
    actuation_statistics: ActuationMetrics = field(default_factory=ActuationMetrics)
    ingest_status: IngestStatus = field(default_factory=IngestStatus)
    archive_status: ArchiveStatus = field(default_factory=ArchiveStatus)
    model_service: ModelService | None = None
    feedback_service: FeedbackService | None = None
    erasure_service: ErasureService | None = None
    principal_alias: Callable[[str, str], str] | None = None
    on_silence: Callable[[Sequence[SilenceReport]], Awaitable[None]] | None = None
    on_startup: tuple[LifespanHook, ...] = ()
    on_shutdown: tuple[LifespanHook, ...] = ()

    def now_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return int(self.clock() * 1000)

    @property
    def scoring_version(self) -> str:
        """Version of the model that scores now."""
        return self.model_version if self.model_service is None else self.model_service.version


MAX_PIPELINE_SILENCE_S = 15.0
"""A pipeline that has not reported for so long is not ready; it reports every half second."""


def component_states(services: Runtime) -> dict[str, bool]:
    """Which parts of the service can do their work now; an archive counts only where nothing else runs."""
    if services.archive_status.archive_only:
        return {
            "archive": services.archive_status.is_ready(),
            **{name: check() for name, check in services.readiness_checks.items()},
        }
    status = services.pipeline_status
    silence_ms = services.now_ms() - status.last_report_ms
    return {
        "log": not services.event_log.log.failed,
        "pipeline": status.alive
        and silence_ms < min(MAX_PIPELINE_SILENCE_S, services.settings.risk.staleness_s) * 1000,
        **{name: check() for name, check in services.readiness_checks.items()},
    }
