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
    """Everything the application uses. Nothing but `settings` is replaced, by those of a reload.

    Attributes:
        settings: of the service.
        verifier: judges bearer tokens.
        event_log: where events become durable.
        policy_evaluator: evaluates the policy for an agent, with the active pins and approvals.
        store: lists and look-ups; called in threads.
        risk_view: risk of every agent, in memory.
        live_policy: the active policy book.
        model_version: of the model that scored when the service started.
        active_version: version of the model that scores now; None = still `model_version`.
        learning: whether there is no active trained model yet.
        pipeline_status: the known state of the pipeline.
        clock: seconds since 1970.
        monotonic: seconds on a clock that never goes back, for durations.
        new_id: text that never repeats, for ids of errors and dead letters.
        readiness_checks: further components of readiness, by name; each returns whether it is ready.
        runs_pipeline: whether log and pipeline are components of readiness; false if only an archive is kept.
        delivery_counts: attempts to deliver alerts so far, by target and outcome.
        issuer_key_status: state of the keys of each issuer.
        log_lag: logged records that wait to be applied, for the bound at intake; None = the log has its own bound.
        desired_state: resolves the desired states of actuators; None in tests without actuators.
        actuation_statistics: results of actuators in this process.
        services: services of slices that the composition root makes, since more than the application uses them.
        principal_alias: what is logged in place of a principal, given tenant and identifier; None = its identifier.
        settings_reloads: results of reloads of the settings.
        compiled_elsewhere: whether what can do without compiled kernels waits until another process has compiled them.
        on_startup: awaited in order before the first request.
        on_shutdown: awaited in order after the last one.
    """

    settings: Settings
    verifier: TokenVerifier[AuthenticatedCaller]
    event_log: GroupCommit
    store: SqlStore
    policy_evaluator: PolicyEvaluator
    risk_view: RiskView
    live_policy: LivePolicy
    model_version: str
    pipeline_status: PipelineStatus
    clock: Callable[[], float] = machine.now_s
    monotonic: Callable[[], float] = machine.monotonic
    new_id: Callable[[], str] = new_id
    readiness_checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    runs_pipeline: bool = True
    delivery_counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    issuer_key_status: Callable[[], Sequence[JwksStatus]] = tuple
    log_lag: Callable[[], int] | None = None
    desired_state: DesiredStateResolver | None = None
    actuation_statistics: ActuationMetrics = field(default_factory=ActuationMetrics)
    active_version: Callable[[], str] | None = None
    learning: Callable[[], bool] = lambda: False
    services: tuple[object, ...] = ()
    principal_alias: Callable[[str, str], str] | None = None
    compiled_elsewhere: bool = False
    settings_reloads: ReloadStatus = field(default_factory=ReloadStatus)
    on_startup: tuple[LifespanHook, ...] = ()
    on_shutdown: tuple[LifespanHook, ...] = ()

    def now_ms(self) -> int:
        """UTC milliseconds since 1970."""
        return int(self.clock() * 1000)

    @property
    def scoring_version(self) -> str:
        """Version of the model that scores now."""
        return self.model_version if self.active_version is None else self.active_version()


MAX_PIPELINE_SILENCE_S = 15.0
"""A pipeline that has not reported for so long is not ready; it reports every half second."""


def component_states(services: Runtime) -> dict[str, bool]:
    """The parts of the service, and whether each can do its work now."""
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
