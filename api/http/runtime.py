"""Objects that the application uses, all made by the composition root. There are no globals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.scoring.delivery.actuators.actuator_notifier import ActuationMetrics
from trustwatch.scoring.pipeline.desired_state_resolver import DesiredStateResolver
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.access_evaluation import PolicyEvaluator
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock as machine
from ..composition import new_id
from ..settings.effective import ReloadStatus
from ..settings.root import Settings
from .auth.bearer_tokens import TokenVerifier
from .auth.callers import AuthenticatedCaller
from .auth.jwks import JwksStatus

LifespanHook = Callable[[], Awaitable[object]]


@dataclass(eq=False)
class Runtime:
    """Everything that the application uses. Only `settings` is ever replaced, when they are reloaded."""

    settings: Settings
    verifier: TokenVerifier[AuthenticatedCaller]
    event_log: GroupCommit  # where events become durable
    store: SqlStore  # lists and look-ups; called in threads
    policy_evaluator: PolicyEvaluator  # for an agent, with the active pins and approvals
    risk_view: RiskView  # risk of every agent, in memory
    live_policy: LivePolicy
    model_version: str  # of the model that scored when the service started
    pipeline_status: PipelineStatus
    clock: Callable[[], float] = machine.now_s
    monotonic: Callable[[], float] = machine.monotonic
    new_id: Callable[[], str] = new_id
    readiness_checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)  # of further components, by name
    runs_pipeline: bool = True  # log and pipeline are components of readiness; false if only an archive is kept
    delivery_counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # alerts, by target and outcome
    issuer_key_status: Callable[[], Sequence[JwksStatus]] = tuple
    log_lag: Callable[[], int] | None = None  # logged records that wait to be applied; None = the log has its own bound
    desired_state: DesiredStateResolver | None = None  # None in tests without actuators
    actuation_statistics: ActuationMetrics = field(default_factory=ActuationMetrics)
    active_version: Callable[[], str] | None = None  # of the model that scores now; None = still `model_version`
    learning: Callable[[], bool] = lambda: False  # whether there is no active trained model yet
    services: tuple[object, ...] = ()  # of slices, made by the composition root since other parts use them, too
    principal_alias: Callable[[str, str], str] | None = None  # logged in place of a principal; None = its identifier
    compiled_elsewhere: bool = False  # what can do without kernels waits until another process has compiled them
    settings_reloads: ReloadStatus = field(default_factory=ReloadStatus)
    on_startup: tuple[LifespanHook, ...] = ()  # awaited in order before the first request
    on_shutdown: tuple[LifespanHook, ...] = ()  # and after the last one

    def now_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return int(self.clock() * 1000)

    @property
    def scoring_version(self) -> str:
        """Version of the active model."""
        return self.model_version if self.active_version is None else self.active_version()


MAX_PIPELINE_SILENCE_S = 15.0
"""A pipeline that has not reported for so long is not ready; it reports every half second."""


def component_states(services: Runtime) -> dict[str, bool]:
    """Return the parts of the service, and whether each can do its work now."""
    checks = {name: check() for name, check in services.readiness_checks.items()}
    if not services.runs_pipeline:
        return checks
    status = services.pipeline_status
    silence_ms = services.now_ms() - status.last_report_ms
    return {
        "log": not services.event_log.log.failed,
        "pipeline": status.alive
        and silence_ms < min(MAX_PIPELINE_SILENCE_S, services.settings.risk.staleness_s) * 1000,
        **checks,
    }
