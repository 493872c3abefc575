"""`trustwatch serve`: the answering process and its background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import structlog
import uvicorn

from trustwatch.ingest.compilation import KernelPart, is_kept
from trustwatch.ingest.errors import ConfigError, TrustwatchError, Unavailable
from trustwatch.models.model_persistence import load_trained_model
from trustwatch.scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from trustwatch.scoring.delivery.dispatcher import Dispatcher
from trustwatch.scoring.delivery.notifiers.alert_events import ALERT_ROW_KIND
from trustwatch.scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from trustwatch.scoring.pipeline.ipc import PipelineStatus
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.agents import AgentName, RiskLevel
from trustwatch.scoring.store.blast_radius import CriticalDescendants
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..access.decision_point import PolicyDecisionPoint
from ..child_process import SupervisedProcess
from ..composition import console_url, policy_book, require_whole_data, retention_cutoffs
from ..data_at_rest import close_existing_data
from ..events.ingest_status import SILENCE_CHECK_INTERVAL_S, IngestStatus, SilenceAlerter
from ..http.app import create_app
from ..http.auth.signing import LOCAL_ISSUER, LOCAL_JWKS_FILE, LocalSigningKey
from ..models.first_training import begin_learning
from ..models.service import ModelService
from ..settings.effective import ReloadStatus, SettingsChange, change_of_settings
from ..settings.loading import load_process_settings
from ..settings.root import Settings
from ..shared_signals.transmitter import SharedSignalsTransmitter
from ..structured_logs import LogLevel, configure_structured_logs
from .assembly import ServiceParts, caller_directory, drop_cached_answers, make_runtime
from .backends import BackendObservers, EventBackend, ServiceRoles, check_extras, check_service_roles, open_backend
from .http_server import listening_socket, make_server
from .kernel_compiler import COMPILING, compile_beside_service
from .slices import SLICES

# An invalid file changes nothing. Child processes get the signal once the file was checked, and apply the settings of
# logs and the token policy.

_log = structlog.get_logger(__name__)

_LEVELS: Final = get_args(LogLevel)
"""Levels of logs, the most verbose first."""


@dataclass(eq=False)
class SettingsReload:
    """Reads the settings again on request. For one event loop."""

    _settings: Settings
    _file: Path | None
    _apply: Callable[[SettingsChange], None]
    _processes: Sequence[SupervisedProcess]
    _status: ReloadStatus

    def __post_init__(self) -> None:
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Read the file soon; signals that come together count once."""
        self._requested.set()

    async def run(self) -> None:
        """Reload on each request, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            await self.reload()

    async def reload(self) -> None:
        """Read the file; apply the settings that may change, and log the others."""
        try:
            read = await asyncio.to_thread(load_process_settings, self._file)
            change = change_of_settings(self._settings, read)
            await asyncio.to_thread(policy_book, change.settings)  # raises if a value can be read but not used
        except Exception as error:  # the active settings stay
            self._status.errors += 1
            text = str(error) if isinstance(error, ConfigError) else repr(error)
            _log.error("settings were not reloaded; the active ones stay", error=text)
            return
        self._status.reloads += 1
        logs, before = change.settings.logs, self._settings.logs
        self._settings, self._status.restart_needed = change.settings, change.restart
        is_quieter = _LEVELS.index(logs.level) > _LEVELS.index(before.level)
        if is_quieter:  # log it at the previous level, which includes it
            _tell(change)
        configure_structured_logs(logs.level, logs.format)
        self._apply(change)
        for process in self._processes:
            process.send_signal(signal.SIGHUP)
        if not is_quieter:
            _tell(change)


def _tell(change: SettingsChange) -> None:
    _log.info("settings reloaded", applied=list(change.applied))
    if change.restart:
        _log.warning("settings changed that need a restart", members=list(change.restart))


GC_THRESHOLD = (2_000, 10, 500)
"""Full collections go over every agent and hold up answers for 20 to 40 ms at 10,000 agents: hardly anything here makes
cycles, so they come about every five minutes under full load, not every two seconds."""


def run_service(settings: Settings, settings_file: Path | None, roles: ServiceRoles, removed: Iterable[str]) -> None:
    """Run `serve` on the event loop that uvicorn chooses: uvloop if it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings, settings_file, roles, removed))


async def serve(
    settings: Settings,
    settings_file: Path | None,
    roles: ServiceRoles = ServiceRoles(),  # noqa: B008
    removed: Iterable[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM. Raises TrustwatchError."""
    check_service_roles(roles, settings)
    check_extras(settings)
    configure_structured_logs(settings.logs.level, settings.logs.format)  # this process is a service from here on
    for advice in settings.upgrade_warnings():
        _log.warning("settings_of_version_1", advice=advice)
    for advice in removed:
        _log.warning("setting_removed", advice=advice)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until something can apply other settings
    await asyncio.to_thread(close_existing_data, settings)
    await asyncio.to_thread(make_local_key, settings)
    await asyncio.to_thread(begin_learning, settings, stop.is_set)
    model = await asyncio.to_thread(load_trained_model, settings.model_dir)
    async with open_backend(settings, settings_file, roles) as backend:
        view, status = RiskView(), PipelineStatus()
        if roles.workers and not is_kept(KernelPart.SCORING):
            status.starting = COMPILING
        await asyncio.to_thread(backend.load_view, view)
        await RunningService(settings, backend, view, status, model.version, roles).run(stop)


def make_local_key(settings: Settings) -> None:
    """Make the local key that the settings trust if it does not exist, so that `trustwatch token` need not run first.

    Raises ConfigError as `LocalSigningKey.open`, and if a restore did not finish.
    """
    require_whole_data(settings.data_dir)
    published = (settings.data_dir / LOCAL_JWKS_FILE).resolve()
    trusted = [issuer.jwks_file for issuer in settings.issuers if issuer.issuer == LOCAL_ISSUER]
    if published in [file.resolve() for file in trusted if file is not None] and not published.exists():
        LocalSigningKey.open(settings.data_dir)


class RunningService:
    """One running service: its parts, and the order in which they start and end."""

    def __init__(
        self,
        settings: Settings,
        backend: EventBackend,
        view: RiskView,
        status: PipelineStatus,
        model_version: str,
        roles: ServiceRoles,
    ) -> None:
        self._dispatcher: Dispatcher | None = None
        self._transmitter: SharedSignalsTransmitter | None = None
        self._promotions: set[asyncio.Task[None]] = set()
        self._parts = parts = ServiceParts(
            backend, view, status, roles, self._wake_dispatcher, self._interventions_changed
        )
        if parts.transmitter is not None and roles.workers:
            jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
            self._transmitter = SharedSignalsTransmitter(
                parts.transmitter, backend.store, parts.policy, clock.now_ms, clock.monotonic, jitter
            )
        self._runtime = make_runtime(parts, model_version)
        observers = BackendObservers(
            view, status, self._wake_dispatcher, parts.ingest, parts.archive, self._promote_challenger
        )
        self._processes = backend.processes(observers)
        self._reload = SettingsReload(
            settings, backend.settings_file, self._use_settings, self._processes, self._runtime.settings_reloads
        )

    def _wake_dispatcher(self) -> None:
        """Wake the dispatcher and the transmitter: new rows may be waiting."""
        if self._dispatcher is not None:
            self._dispatcher.wake()
        if self._transmitter is not None:
            self._transmitter.wake()

    def _promote_challenger(self, version: str) -> None:
        task = asyncio.get_running_loop().create_task(promote_ready_challenger(self._parts.models, version))
        self._promotions.add(task)
        task.add_done_callback(self._promotions.discard)

    def _interventions_changed(self, agents: Collection[AgentName]) -> None:
        """Drop answers that a pin or an approval, made here or elsewhere, has changed."""
        drop_cached_answers(self._parts.view, agents)
        if self._parts.roles.workers:
            self._parts.actuation.reconcile(agents)
        self._wake_dispatcher()

    def _policy_changed(self) -> None:
        """Compare the state of all agents at authorization servers with the new policy book."""
        self._parts.actuation.request_full_reconciliation()
        self._wake_dispatcher()

    def _use_settings(self, change: SettingsChange) -> None:
        """Apply the settings that may change while the service runs."""
        parts, settings = self._parts, change.settings
        self._runtime.settings = settings
        if "callers" in change.applied:
            parts.verifier.use(caller_directory(settings).resolve)
        if change.changes_policy and parts.policy.use(policy_book(settings)):
            self._policy_changed()
        if self._dispatcher is not None:
            self._dispatcher.use(self._channels(settings))

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until *stop* is set, then end in order: no more requests, the pipeline, ticks and deliveries."""
        parts = self._parts
        await parts.jwks.start()
        # before the first answer: a forgotten pin would admit an agent
        await parts.decision_point.approval_workflow.load_open()
        if parts.calls is not None:
            await asyncio.to_thread(parts.calls.use_version, parts.models.version)
        app = create_app(self._runtime, SLICES, only_service=not parts.roles.api)
        server = make_server(app, parts.connections)
        listener = listening_socket(parts.settings)
        gc.collect()
        gc.freeze()  # a full collection over all modules would hold up answers for 100 ms
        gc.set_threshold(*GC_THRESHOLD)
        quiet, answered = asyncio.Event(), asyncio.Event()
        async with make_webhook_client(parts.settings.outgoing.ca_file) as client:
            signer = None if parts.transmitter is None else partial(parts.transmitter.answers.sign, "alert")
            self._webhooks = WebhookNotifier(client, clock.now_ms, signer, console_url(parts.settings))
            self._dispatcher = Dispatcher(
                parts.backend.store.outbox,
                self._channels(parts.settings),
                DispatchPolicy(),
                clock.now_ms,
                random.Random(),  # noqa: S311 - spreads retries, guards nothing
                self._count_delivery,
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload.request)
            async with asyncio.TaskGroup() as group:
                processes = [group.create_task(process.run()) for process in self._processes]
                helpers = [group.create_task(helper) for helper in self._background_tasks(self._dispatcher, quiet)]
                reloading = group.create_task(self._reload.run())
                guarding = group.create_task(
                    run_decision_point(parts.decision_point, parts.policy, self._policy_changed, answered)
                )
                serving = group.create_task(server.serve(sockets=[listener]))
                _log.info("listening", url=parts.settings.listen.url(), data_dir=str(parts.settings.data_dir))
                await asyncio.wait([group.create_task(stop.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                parts.status.close()
                if parts.transmitter is not None:
                    parts.transmitter.close()
                server.should_exit = True
                await serving
                answered.set()
                await guarding  # its last audit events are written before the log closes
                await asyncio.gather(*(process.stop() for process in self._processes))
                quiet.set()
                reloading.cancel()
                await asyncio.gather(*processes, *helpers)
        await parts.actuation.close()
        await parts.jwks.close()

    def _background_tasks(self, dispatcher: Dispatcher, quiet: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """Return the background tasks, which run until *quiet*; API replicas neither deliver alerts nor prune."""
        parts, backend, interval_s = self._parts, self._parts.backend, self._parts.settings.pipeline.tick_interval_s
        helpers: list[Coroutine[Any, Any, None]] = [
            write_ticks(backend, interval_s, quiet),
            watch_topic_silence(parts.ingest, parts.silence, quiet),
            track_descendants(parts.decision_point, parts.policy, backend.store, self._interventions_changed, quiet),
            repeat(
                partial(asyncio.to_thread, parts.models.refresh),
                VERSION_REFRESH_EVERY_S,
                quiet,
                (TrustwatchError, OSError),
                "the active model cannot be looked up",
            ),
            parts.feedback.run(quiet),
            parts.erasures.run(quiet),
        ]
        if parts.calls is not None:
            helpers.append(parts.calls.follow(lambda: parts.models.version, quiet))
        if parts.roles.api or parts.roles.workers:
            helpers.append(compile_beside_service(parts.settings.model_dir, quiet))
        if parts.roles.workers:
            retention = apply_retention(parts.settings, backend, parts.status, quiet)
            helpers += [retention, dispatcher.run(quiet), parts.actuation.run(quiet)]
            if self._transmitter is not None:
                helpers.append(self._transmitter.run(quiet))
        return helpers

    def _channels(self, settings: Settings) -> list[DeliveryChannel[Any]]:
        alerts = [DeliveryChannel(ALERT_ROW_KIND, target, self._webhooks) for target in settings.webhooks]
        return [*self._parts.actuation.channels, *alerts]

    def _count_delivery(self, target: str, outcome: str) -> None:
        self._runtime.delivery_counts[target, outcome] += 1


REFRESH_EVERY_S = 1.0
VERSION_REFRESH_EVERY_S = 2.0
"""Interval at which the active version is looked up; answers name it."""
FIRST_RETENTION_S, RETENTION_EVERY_S = 60.0, 3600.0

Caught = type[Exception] | tuple[type[Exception], ...]


async def repeat(
    work: Callable[[], Awaitable[object]], every_s: float, stop: asyncio.Event, caught: Caught, problem: str
) -> None:
    """Do *work* until *stop*. The first of several failures is logged as *problem*; what was known stays."""
    failing, known = False, (TrustwatchError, OSError)
    while not stop.is_set():
        try:
            await work()
            failing = False
        except caught as error:
            if not failing:
                _log.warning(problem, error=str(error) if isinstance(error, known) else repr(error))
            failing = True
        await _is_set_within(stop, every_s)


async def run_decision_point(
    decision_point: PolicyDecisionPoint, policy: LivePolicy, on_policy: Callable[[], None], stop: asyncio.Event
) -> None:
    """Write audit events, follow interventions and the policy file, until *stop*; then write what is left."""
    writing = asyncio.create_task(decision_point.audit_sink.run())

    async def follow() -> None:
        if await asyncio.to_thread(policy.refresh):
            on_policy()
        await decision_point.approval_workflow.synchronise()

    problem = "pins and approvals cannot be followed; the known ones stay active"
    try:
        await repeat(follow, REFRESH_EVERY_S, stop, Unavailable, problem)
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
    verdicts, finder = decision_point.policy_evaluator, CriticalDescendants(store, now_ms)

    async def find() -> None:
        if policy.book.descendants > RiskLevel.LOW:
            pinned = verdicts.interventions.pinned_levels(now_ms())  # here: the loop changes it
            descendants, differing = await asyncio.to_thread(finder.find, pinned)
        else:
            descendants, differing = {}, set(finder.critical_ancestors)
        finder.critical_ancestors = verdicts.critical_ancestors = descendants
        if differing:
            changed([store.edges.agent_name(*full) for full in sorted(differing)])

    # Whatever fails, the known ones stay and the service continues.
    await repeat(find, REFRESH_EVERY_S, stop, Exception, "descendants of critical agents cannot be looked up")


async def promote_ready_challenger(models: ModelService, version: str) -> None:
    """Promote a challenger that the model worker found better; its stored figures are checked again."""
    try:
        ordered = await models.promote_proved(version)
    except TrustwatchError as error:
        _log.warning("a challenger was not promoted", version=version, error=str(error))
    else:
        if ordered:
            _log.info("a challenger is promoted", version=version)


async def write_ticks(backend: EventBackend, interval_s: float, stop: asyncio.Event) -> None:
    """Record that time passes, so that risk decays and expires without events."""
    while not await _is_set_within(stop, interval_s):
        await backend.write_tick()


async def watch_topic_silence(ingest: IngestStatus, silence: SilenceAlerter, stop: asyncio.Event) -> None:
    """Alert people of foreign topics that fell silent, if this process reads any."""
    while not await _is_set_within(stop, SILENCE_CHECK_INTERVAL_S):
        if ingest.alive:
            await silence.report_silence("topic", ingest.report.silence)


async def apply_retention(
    settings: Settings, backend: EventBackend, status: PipelineStatus, stop: asyncio.Event
) -> None:
    """Remove what is older than it has to be kept, soon after the start and then every hour."""
    pause_s = FIRST_RETENTION_S
    while not await _is_set_within(stop, pause_s):
        pause_s = RETENTION_EVERY_S
        now = clock.now_ms()
        store = backend.store.retention
        try:
            await asyncio.to_thread(store.prepare_weeks, now)
            await asyncio.to_thread(store.purge, retention_cutoffs(settings, now))
            await backend.drop_applied_records(status)
        except (TrustwatchError, OSError) as error:
            _log.warning("upkeep has to wait", error=str(error))


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait that long, or until *stop*; return whether *stop* is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
