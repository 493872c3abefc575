"""`trustwatch serve`: the answering process and everything that runs beside the answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn

from ...ingest.errors import ConfigError, TrustwatchError
from ...models.persist import load
from ...scoring.notify import ALERT_KIND, WebhookNotifier, webhook_client
from ...scoring.outbox import Channel, Dispatcher, DispatchPolicy
from ...scoring.records import AgentName
from ...scoring.view import RiskView
from .. import clock
from ..callers import Caller, CallerDirectory
from ..console import ConsoleApp
from ..edge.archived import ArchiveStatus
from ..edge.reports import IngestStatus, SilenceReport
from ..edge.silence_alerts import SilenceAlerts, watched
from ..http import create_app
from ..http.services import PipelineStatus, Services
from ..settings import Settings
from ..tokens import Jwks, TokenVerifier
from .acting import Acting
from .backend import Backend, Known, opened
from .erasing import make_erasures
from .feedback import label_days, make_feedback
from .guarding import forget_answers, keep_descendants, keep_guard, make_guard
from .models import keep_desk, make_desk, promote_proved
from .roles import Roles, check_roles
from .wiring import live_policy, principal_alias, service_url, webhook_targets

_log = structlog.get_logger(__name__)

FIRST_UPKEEP_S = 60.0
UPKEEP_EVERY_S = 3600.0
DAY_MS = 86_400_000
GC_THRESHOLD = (2_000, 10, 500)
"""Full collections go over every agent and hold up answers for 20 to 40 ms at 10,000 agents: hardly anything here makes
cycles, so they come about every five minutes under full load, not every two seconds."""


def run(settings: Settings, settings_file: Path | None, roles: Roles = Roles()) -> None:  # noqa: B008
    """`serve` on uvicorn's choice of event loop: uvloop where it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings, settings_file, roles))


async def serve(settings: Settings, settings_file: Path | None, roles: Roles = Roles()) -> None:  # noqa: B008
    """Serve until SIGINT or SIGTERM. Raises TrustwatchError where the service can not start."""
    check_roles(roles, settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    model = await asyncio.to_thread(load, settings.model_dir)
    async with opened(settings, settings_file, roles) as backend:
        view, status = RiskView(), PipelineStatus()
        await asyncio.to_thread(backend.load, view)
        await Service(settings, backend, view, status, model.version, roles).run(stop)


class Service:
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
        backend: Backend,
        view: RiskView,
        status: PipelineStatus,
        model_version: str,
        roles: Roles,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._roles = roles
        self._status = status
        self._jwks = Jwks(settings.issuers, settings.verification, clock.now_s)
        directory = CallerDirectory(settings.callers, [issuer.issuer for issuer in settings.issuers])
        verifier: TokenVerifier[Caller] = TokenVerifier(
            settings.issuers, self._jwks, directory.caller, settings.verification, clock.now_s
        )
        self._ingest = IngestStatus()
        self._archive = ArchiveStatus(alone=not (roles.api or roles.workers))
        self._silence = SilenceAlerts(
            backend.store, watched(settings), service_url(settings), clock.now_ms, self._changed
        )
        policy = live_policy(settings)
        alias = principal_alias(settings)
        self._guard = make_guard(
            settings,
            backend.log,
            backend.store,
            view,
            policy,
            status,
            self._standing_changed,
            alias=alias,
        )
        self._acting = Acting(settings, backend.store, self._guard.verdicts, self._changed)
        self._promotions: set[asyncio.Task[None]] = set()
        self._models = make_desk(settings, backend.log, backend.store)
        self._feedback = make_feedback(settings, backend.settings_file, backend.log, backend.store, self._guard)
        self._erasures = make_erasures(settings, backend.log, backend.store, view, self._guard, status, roles)
        self._services = Services(
            settings=settings,
            verifier=verifier,
            guard=self._guard,
            log=backend.log,
            store=backend.store,
            view=view,
            policy=policy,
            model_version=model_version,
            status=status,
            deliveries=Counter(),
            issuers=self._jwks.status,
            ready={"issuers": self._has_keys},
            behind=backend.behind(status),
            wishes=self._acting.wishes,
            actuations=self._acting.figures,
            ingest=self._ingest,
            archive=self._archive,
            on_silence=self._hear,
            models=self._models,
            feedback=self._feedback,
            erasures=self._erasures,
            alias=alias,
        )
        self._dispatcher: Dispatcher | None = None
        known = Known(view, status, self._changed, self._ingest, self._archive, self._proved)
        self._processes = backend.processes(known)

    def _changed(self) -> None:
        """Something may have to leave."""
        if self._dispatcher is not None:
            self._dispatcher.wake()

    def _proved(self, version: str) -> None:
        """The keeper says that a challenger is better."""
        task = asyncio.get_running_loop().create_task(promote_proved(self._models, version))
        self._promotions.add(task)
        task.add_done_callback(self._promotions.discard)

    def _standing_changed(self, agents: Collection[AgentName]) -> None:
        """A person pinned or approved something, here or elsewhere."""
        forget_answers(self._services.view, agents)
        if self._roles.workers:
            self._acting.look_at(agents)
        self._changed()

    def _policy_changed(self) -> None:
        """Another book is in force."""
        self._acting.look_at_all()
        self._changed()

    async def _hear(self, callers: Sequence[SilenceReport]) -> None:
        """What of the sources is heard here, callers and foreign topics."""
        if self._roles.api:
            await self._silence.look("caller", callers)
        if self._ingest.alive:
            await self._silence.look("topic", self._ingest.report.silence)

    def _has_keys(self) -> bool:
        """Whether tokens of any issuer can be verified; one that is down must not take the others' callers down."""
        issuers = self._jwks.status()
        return not issuers or any(issuer.keys > 0 for issuer in issuers)

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until *stop* is set, then end in order: no more requests, the pipeline, ticks and deliveries."""
        await self._jwks.start()
        await self._guard.approvals.load()  # before the first answer: a pin that is forgotten lets somebody pass
        server = self._make_server()
        listener = listening_socket(self._settings)
        gc.collect()
        gc.freeze()  # a full collection over all modules would hold up answers for 100 ms
        gc.set_threshold(*GC_THRESHOLD)
        quiet, answered = asyncio.Event(), asyncio.Event()
        async with webhook_client() as client:
            self._dispatcher = self._make_dispatcher(client)
            async with asyncio.TaskGroup() as group:
                processes = [group.create_task(process.run()) for process in self._processes]
                helpers = [group.create_task(helper) for helper in self._helpers(quiet)]
                guarding = group.create_task(
                    keep_guard(self._guard, self._services.policy, self._policy_changed, answered)
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
        await self._acting.close()
        await self._jwks.close()

    def _make_server(self) -> _Server:
        console = ConsoleApp if self._settings.console.enabled else None
        app = create_app(self._services, only_service=not self._roles.api, console=console)
        return _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="on",
                proxy_headers=False,
                server_header=False,
                ws="none",  # what gateways ask about an upgrade is a question like any other
                timeout_graceful_shutdown=10,
            )
        )

    def _helpers(self, quiet: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the answers until *quiet*; replicas of the API neither deliver alerts nor remove."""
        policy, store = self._services.policy, self._backend.store
        helpers: list[Coroutine[Any, Any, None]] = [
            self._tick(quiet),
            keep_descendants(self._guard, policy, store, self._standing_changed, quiet),
            keep_desk(self._models, quiet),
            self._feedback.keep(quiet),
            self._erasures.keep(quiet),
        ]
        if self._roles.workers:
            assert self._dispatcher is not None
            helpers += [self._upkeep(quiet), self._dispatcher.run(quiet), self._acting.keep(quiet)]
        return helpers

    def _make_dispatcher(self, client: httpx.AsyncClient) -> Dispatcher:
        notifier = WebhookNotifier(client, clock.now_ms)
        alerts = [Channel(ALERT_KIND, target, notifier) for target in webhook_targets(self._settings)]
        channels: list[Channel[Any]] = [*self._acting.channels, *alerts]
        policy = DispatchPolicy(cooldown_s=self._settings.risk.cool_down_s)
        jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
        return Dispatcher(self._backend.store, channels, policy, clock.now_ms, jitter, self._delivered)

    def _delivered(self, target: str, outcome: str) -> None:
        self._services.deliveries[target, outcome] += 1

    async def _tick(self, stop: asyncio.Event) -> None:
        """Record that time passes, so that risk decays and expires without events."""
        while not await _wait(stop, self._settings.pipeline.tick_interval_s):
            await self._backend.tick()

    async def _upkeep(self, stop: asyncio.Event) -> None:
        """Remove what is older than it has to be kept, soon after the start and then every hour."""
        pause_s = FIRST_UPKEEP_S
        while not await _wait(stop, pause_s):
            pause_s = UPKEEP_EVERY_S
            now = clock.now_ms()
            before, retention = retain(self._settings, now), self._settings.retention
            forgotten = now - self._settings.store.agents_days * DAY_MS
            waiting = retention.waiting_dead_letters
            try:
                await asyncio.to_thread(self._backend.store.upkeep, now)
                await asyncio.to_thread(
                    self._backend.store.purge,
                    before(retention.decisions),
                    agents_before_ms=forgotten,
                    outbox_before_ms=before(retention.deliveries),
                    letters_before_ms=before(retention.dead_letters),
                    waiting_letters_before_ms=0 if waiting is None else before(waiting),
                )
                await asyncio.to_thread(
                    self._backend.store.purge_containment,
                    before(retention.interventions),
                    actuations_before_ms=before(retention.actuations),
                    edges_before_ms=before(retention.edges),
                )
                await asyncio.to_thread(self._backend.store.purge_feedback, before(retention.feedback))
                await asyncio.to_thread(self._backend.store.purge_labels, before(label_days(self._settings)))
                await self._backend.drop_applied(self._status)
            except (TrustwatchError, OSError) as error:
                _log.warning("upkeep has to wait", error=str(error))


class _Server(uvicorn.Server):
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


def retain(settings: Settings, now_ms: int) -> Callable[[int | None], int]:
    """From days of `retention` to the time before which rows go, UTC milliseconds; None is `retention_days`."""
    return lambda days: now_ms - (settings.retention_days if days is None else days) * DAY_MS


async def _wait(stop: asyncio.Event, seconds: float) -> bool:
    """Wait that long, or until *stop*; whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
