"""`trustwatch serve`: the answering process and everything that runs beside the answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
from collections import Counter
from collections.abc import Collection, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn

from ...ingest.errors import ConfigError, TrustwatchError
from ...models.model_persistence import load_trained_model
from ...scoring.delivery.delivery_target import DeliveryChannel, DispatchPolicy
from ...scoring.delivery.dispatcher import Dispatcher
from ...scoring.delivery.notifiers.alert_events import ALERT_ROW_KIND
from ...scoring.delivery.notifiers.webhook_notifier import WebhookNotifier, make_webhook_client
from ...scoring.pipeline.pipeline_status import PipelineStatus
from ...scoring.policy.book import LivePolicy
from ...scoring.policy.risk_view import RiskView
from ...scoring.records.agents import AgentName
from .. import clock
from ..access.actuation import ActuationService
from ..archive.archive_status import ArchiveStatus
from ..composition import live_policy, principal_alias, retention_cutoffs, service_url, webhook_targets
from ..data_at_rest import close_existing_data
from ..events.caller_silence_watch import SILENCE_CHECK_INTERVAL_S
from ..events.ingest_status import IngestStatus
from ..events.source_silence import SilenceAlerter, silence_watched_sources
from ..http.agent_lookup import AgentResolver
from ..http.app import create_app
from ..http.auth.bearer_tokens import TokenVerifier
from ..http.auth.callers import AuthenticatedCaller, CallerDirectory
from ..http.auth.jwks import JwksCache
from ..http.connection_guard import ConnectionGuard, affordable_connections
from ..http.runtime import Runtime
from ..http.store_executor import StoreExecutor
from ..settings.root import Settings
from .assembly import (
    drop_cached_answers,
    make_decision_point,
    make_erasure_service,
    make_feedback_service,
    make_model_service,
    promote_ready_challenger,
    run_decision_point,
    track_active_version,
    track_descendants,
)
from .backends import BackendObservers, EventBackend, ServiceRoles, check_service_roles, open_backend
from .guarded_protocol import guarded_protocol
from .slices import SLICES

_log = structlog.get_logger(__name__)

FIRST_RETENTION_S = 60.0
RETENTION_EVERY_S = 3600.0
GC_THRESHOLD = (2_000, 10, 500)
"""Full collections go over every agent and hold up answers for 20 to 40 ms at 10,000 agents: hardly anything here makes
cycles, so they come about every five minutes under full load, not every two seconds."""


def run_service(settings: Settings, settings_file: Path | None, roles: ServiceRoles = ServiceRoles()) -> None:  # noqa: B008
    """`serve` on uvicorn's choice of event loop: uvloop where it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings, settings_file, roles))


async def serve(settings: Settings, settings_file: Path | None, roles: ServiceRoles = ServiceRoles()) -> None:  # noqa: B008
    """Serve until SIGINT or SIGTERM. Raises TrustwatchError where the service can not start."""
    check_service_roles(roles, settings)
    for advice in settings.upgrade_warnings():
        _log.warning("settings_of_version_1", advice=advice)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await asyncio.to_thread(close_existing_data, settings)
    model = await asyncio.to_thread(load_trained_model, settings.model_dir)
    async with open_backend(settings, settings_file, roles) as backend:
        view, status = RiskView(), PipelineStatus()
        await asyncio.to_thread(backend.load_view, view)
        await RunningService(settings, backend, view, status, model.version, roles).run(stop)


class RunningService:
    """One running service.

    Args:
        settings: as configured.
        backend: log, store, and the processes beside this one.
        view: what is answered from.
        status: how the pipeline fares.
        model_version: for answers about agents that were never seen.
        roles: the parts that run here.
    """

    def __init__(
        self,
        settings: Settings,
        backend: EventBackend,
        view: RiskView,
        status: PipelineStatus,
        model_version: str,
        roles: ServiceRoles,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._roles = roles
        self._status = status
        self._jwks = JwksCache(settings.issuers, settings.verification, clock.now_s, clock.monotonic)
        directory = CallerDirectory(settings.callers, [issuer.issuer for issuer in settings.issuers])
        verifier: TokenVerifier[AuthenticatedCaller] = TokenVerifier(
            settings.issuers, self._jwks, directory.resolve, settings.verification, clock.now_s
        )
        most = affordable_connections(settings.listen.max_connections)
        self._connections = ConnectionGuard(settings.listen, clock.monotonic, most)
        self._ingest = IngestStatus()
        self._archive = ArchiveStatus(alone=not (roles.api or roles.workers))
        self._silence = SilenceAlerter(
            backend.store.outbox,
            silence_watched_sources(settings),
            service_url(settings),
            clock.now_ms,
            self._wake_dispatcher,
        )
        policy = live_policy(settings)
        self._principal_alias = principal_alias(settings)
        executor = StoreExecutor()
        agents = AgentResolver(view, backend.store, executor)
        self._decision_point = make_decision_point(
            settings,
            backend.log,
            backend.store,
            view,
            policy,
            status,
            self._interventions_changed,
            alias=self._principal_alias,
            executor=executor,
        )
        self._actuation = ActuationService(
            settings, backend.store, self._decision_point.policy_evaluator, self._wake_dispatcher
        )
        self._promotions: set[asyncio.Task[None]] = set()
        self._models = make_model_service(settings, backend.log, backend.store, executor)
        self._feedback = make_feedback_service(
            settings,
            backend.settings_file,
            backend.log,
            backend.store,
            self._decision_point.audit_sink,
            agents,
            executor,
        )
        self._erasures = make_erasure_service(
            settings, backend.log, backend.store, view, self._decision_point, status, agents, executor, roles
        )
        self._services = self._make_runtime(verifier, policy, view, model_version, (executor, agents))
        self._dispatcher: Dispatcher | None = None
        observers = BackendObservers(
            view, status, self._wake_dispatcher, self._ingest, self._archive, self._promote_challenger
        )
        self._processes = backend.processes(observers)

    def _make_runtime(
        self,
        verifier: TokenVerifier[AuthenticatedCaller],
        policy: LivePolicy,
        view: RiskView,
        model_version: str,
        shared: tuple[object, ...],
    ) -> Runtime:
        """Everything that the application uses; *shared* are objects that all services were made with."""
        archive_only = self._archive.archive_only
        readiness_checks = {"archive": self._archive.is_ready} if archive_only else {}
        readiness_checks["issuers"] = self._has_issuer_keys
        return Runtime(
            settings=self._settings,
            verifier=verifier,
            policy_evaluator=self._decision_point.policy_evaluator,
            event_log=self._backend.log,
            store=self._backend.store,
            risk_view=view,
            live_policy=policy,
            model_version=model_version,
            pipeline_status=self._status,
            delivery_counts=Counter(),
            issuer_key_status=self._jwks.status,
            readiness_checks=readiness_checks,
            runs_pipeline=not archive_only,
            log_lag=self._backend.pending_records(self._status),
            desired_state=self._actuation.desired_state_resolver,
            actuation_statistics=self._actuation.counts,
            active_version=lambda: self._models.version,
            services=(
                self._connections,
                *shared,
                self._decision_point,
                self._ingest,
                self._archive,
                self._silence,
                self._models,
                self._feedback,
                self._erasures,
            ),
            principal_alias=self._principal_alias,
        )

    def _wake_dispatcher(self) -> None:
        """Wake the dispatcher: new rows may be waiting."""
        if self._dispatcher is not None:
            self._dispatcher.wake()

    def _promote_challenger(self, version: str) -> None:
        """Promote a challenger that the model worker found better."""
        task = asyncio.get_running_loop().create_task(promote_ready_challenger(self._models, version))
        self._promotions.add(task)
        task.add_done_callback(self._promotions.discard)

    def _interventions_changed(self, agents: Collection[AgentName]) -> None:
        """Drop answers that a pin or an approval, made here or elsewhere, has changed."""
        drop_cached_answers(self._services.risk_view, agents)
        if self._roles.workers:
            self._actuation.reconcile(agents)
        self._wake_dispatcher()

    def _policy_changed(self) -> None:
        """Drop answers made under an earlier policy book."""
        self._actuation.request_full_reconciliation()
        self._wake_dispatcher()

    def _has_issuer_keys(self) -> bool:
        """True if tokens of any issuer can be verified; one that is down must not take the others' callers down."""
        issuers = self._jwks.status()
        return not issuers or any(issuer.keys > 0 for issuer in issuers)

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until *stop* is set, then end in order: no more requests, the pipeline, ticks and deliveries."""
        await self._jwks.start()
        await (
            self._decision_point.approval_workflow.load_open()
        )  # before the first answer: a pin that is forgotten lets somebody pass
        server = self._make_server()
        listener = listening_socket(self._settings)
        gc.collect()
        gc.freeze()  # a full collection over all modules would hold up answers for 100 ms
        gc.set_threshold(*GC_THRESHOLD)
        quiet, answered = asyncio.Event(), asyncio.Event()
        async with make_webhook_client() as client:
            self._dispatcher = self._make_dispatcher(client)
            async with asyncio.TaskGroup() as group:
                processes = [group.create_task(process.run()) for process in self._processes]
                helpers = [group.create_task(helper) for helper in self._background_tasks(quiet)]
                guarding = group.create_task(
                    run_decision_point(self._decision_point, self._services.live_policy, self._policy_changed, answered)
                )
                serving = group.create_task(server.serve(sockets=[listener]))
                _log.info("listening", url=service_url(self._settings), data_dir=str(self._settings.data_dir))
                await asyncio.wait([group.create_task(stop.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                self._status.close()
                server.should_exit = True
                await serving
                answered.set()
                await guarding  # what it was asked last is written before the log closes
                await asyncio.gather(*(process.stop() for process in self._processes))
                quiet.set()
                await asyncio.gather(*processes, *helpers)
        await self._actuation.close()
        await self._jwks.close()

    def _make_server(self) -> _UvicornServer:
        app = create_app(self._services, SLICES, only_service=not self._roles.api)
        return _UvicornServer(
            uvicorn.Config(
                app,
                http=guarded_protocol(self._connections),
                log_config=None,
                access_log=False,
                lifespan="on",
                proxy_headers=False,
                server_header=False,
                ws="none",  # what gateways ask about an upgrade is a question like any other
                timeout_graceful_shutdown=10,
            )
        )

    def _background_tasks(self, quiet: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """Work that goes on beside the answers until *quiet*; replicas of the API neither deliver alerts nor remove."""
        policy, store = self._services.live_policy, self._backend.store
        helpers: list[Coroutine[Any, Any, None]] = [
            self._write_ticks(quiet),
            self._watch_topic_silence(quiet),
            track_descendants(self._decision_point, policy, store, self._interventions_changed, quiet),
            track_active_version(self._models, quiet),
            self._feedback.run(quiet),
            self._erasures.run(quiet),
        ]
        if self._roles.workers:
            assert self._dispatcher is not None
            helpers += [self._apply_retention(quiet), self._dispatcher.run(quiet), self._actuation.run(quiet)]
        return helpers

    def _make_dispatcher(self, client: httpx.AsyncClient) -> Dispatcher:
        notifier = WebhookNotifier(client, clock.now_ms)
        alerts = [DeliveryChannel(ALERT_ROW_KIND, target, notifier) for target in webhook_targets(self._settings)]
        channels: list[DeliveryChannel[Any]] = [*self._actuation.channels, *alerts]
        policy = DispatchPolicy(cooldown_s=self._settings.risk.cool_down_s)
        jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
        return Dispatcher(self._backend.store.outbox, channels, policy, clock.now_ms, jitter, self._count_delivery)

    def _count_delivery(self, target: str, outcome: str) -> None:
        self._services.delivery_counts[target, outcome] += 1

    async def _write_ticks(self, stop: asyncio.Event) -> None:
        """Record that time passes, so that risk decays and expires without events."""
        while not await _is_set_within(stop, self._settings.pipeline.tick_interval_s):
            await self._backend.write_tick()

    async def _watch_topic_silence(self, stop: asyncio.Event) -> None:
        """Have people alerted of foreign topics that fell silent, where this process reads any."""
        while not await _is_set_within(stop, SILENCE_CHECK_INTERVAL_S):
            if self._ingest.alive:
                await self._silence.report_silence("topic", self._ingest.report.silence)

    async def _apply_retention(self, stop: asyncio.Event) -> None:
        """Remove what is older than it has to be kept, soon after the start and then every hour."""
        pause_s = FIRST_RETENTION_S
        while not await _is_set_within(stop, pause_s):
            pause_s = RETENTION_EVERY_S
            now = clock.now_ms()
            store = self._backend.store.retention
            try:
                await asyncio.to_thread(store.prepare_weeks, now)
                await asyncio.to_thread(store.purge, retention_cutoffs(self._settings, now))
                await self._backend.drop_applied_records(self._status)
            except (TrustwatchError, OSError) as error:
                _log.warning("upkeep has to wait", error=str(error))


class _UvicornServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the service stops its parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listening_socket(settings: Settings) -> socket.socket:
    """The listening socket. Raises ConfigError with what to do where the address is taken."""
    listen = settings.listen
    try:
        listener = socket.create_server(
            (listen.host, listen.port), family=socket.AF_INET6 if ":" in listen.host else socket.AF_INET, backlog=2048
        )
        # Connections inherit it. Head and body of an answer are two writes: without it, the second one waits for the
        # client's delayed acknowledgement of the first, 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigError(
            f"can not listen on {listen.host} port {listen.port}: {error.strerror}; "
            "set listen.port or TRUSTWATCH_LISTEN_PORT"
        ) from None


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait that long, or until *stop*; true if *stop* is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
