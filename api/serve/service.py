"""`trustwatch serve`: the answering process and everything that runs beside the answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import structlog
import uvicorn

from ...ingest.dedup import DuplicateWindow
from ...ingest.errors import ConfigError, CorruptLog, TrustwatchError
from ...ingest.log import EventLog, GroupCommit
from ...ingest.source import Kind, Record
from ...models.persist import load
from ...scoring.channel import Update
from ...scoring.notify import ALERT_KIND, WebhookNotifier, webhook_client
from ...scoring.outbox import Channel, Dispatcher, DispatchPolicy
from ...scoring.pipeline import PARTITION
from ...scoring.store import SqlStore, open_store, sqlite_url
from ...scoring.view import RiskView
from .. import clock
from ..callers import Caller, CallerDirectory
from ..http import create_app
from ..http.services import PipelineStatus, Services
from ..settings import Settings
from ..tokens import Jwks, TokenVerifier
from .updates import PipelineProcess
from .wiring import policy_table, service_url, webhook_targets

_log = structlog.get_logger(__name__)

FIRST_UPKEEP_S = 60.0
UPKEEP_EVERY_S = 3600.0
LOG_AGE_MS = 7 * 86_400_000
"""The event log keeps applied events this long, so that they can be replayed or learned from."""


def run(settings: Settings, settings_file: Path | None) -> None:
    """`serve` on uvicorn's choice of event loop: uvloop where it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(serve(settings, settings_file))


async def serve(settings: Settings, settings_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises TrustwatchError where the service can not start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    model = await asyncio.to_thread(load, settings.model_dir)
    async with _opened(settings) as (log, store):
        await asyncio.to_thread(_check_same_past, log.log, store)
        view, status = RiskView(), PipelineStatus()
        await asyncio.to_thread(lambda: view.apply(store.all_summaries()))
        service = Service(settings, settings_file, log, store, view, status, model.version)
        await service.run(stop)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[GroupCommit, SqlStore]]:
    """Event log and store, closed again in the right order."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log = await asyncio.to_thread(EventLog, settings.data_dir / "log")
    commit = GroupCommit(log)
    store = await asyncio.to_thread(
        open_store, sqlite_url(settings.data_dir / "trustwatch.db"), settings.dead_letters.max_rows
    )
    try:
        yield commit, store
    finally:
        await commit.close()
        log.close()
        store.close()


def _check_same_past(log: EventLog, store: SqlStore) -> None:
    """Raise CorruptLog where the state is ahead of the log: new events would get offsets that count as applied."""
    applied = store.position(PARTITION).offset
    if applied > log.next_offset:
        raise CorruptLog(
            f"{log.directory}: state was stored up to offset {applied}, but the event log ends at {log.next_offset}: "
            "it has lost records or belongs to another data directory; restore both from the same back-up"
        )


class Service:
    """One running service.

    Args:
        settings, settings_file: as configured.
        log: durable event log.
        store: for reads, deliveries and upkeep; the pipeline process has its own connection.
        view: what is answered from.
        status: how the pipeline fares.
        model_version: for answers about agents that were never seen.
    """

    def __init__(
        self, settings: Settings, settings_file: Path | None, log: GroupCommit, store: SqlStore, view: RiskView,
        status: PipelineStatus, model_version: str,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._log = log
        self._store = store
        self._status = status
        self._jwks = Jwks(settings.issuers, settings.verification, clock.now_s)
        directory = CallerDirectory(settings.callers, [issuer.issuer for issuer in settings.issuers])
        verifier: TokenVerifier[Caller] = TokenVerifier(
            settings.issuers, self._jwks, directory.caller, settings.verification, clock.now_s
        )
        self._services = Services(
            settings=settings, verifier=verifier, log=log, store=store, view=view, policy=policy_table(settings),
            model_version=model_version, status=status, deliveries=Counter(), issuers=self._jwks.status,
            ready={"issuers": self._has_keys},
        )  # fmt: skip
        self._pipeline = PipelineProcess(settings_file, view, status, clock.now_ms, self._updated)
        self._dispatcher: Dispatcher | None = None
        self._window = DuplicateWindow()

    def _has_keys(self) -> bool:
        """Whether tokens of any issuer can be verified; one that is down must not take the others' callers down."""
        issuers = self._jwks.status()
        return not issuers or any(issuer.keys > 0 for issuer in issuers)

    def _updated(self, update: Update) -> None:
        if update.changes and self._dispatcher is not None:
            self._dispatcher.wake()

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until *stop* is set, then end in order: no more requests, the pipeline, ticks and deliveries."""
        await self._jwks.start()
        server = _Server(
            uvicorn.Config(
                create_app(self._services), log_config=None, access_log=False, lifespan="on",
                proxy_headers=False, server_header=False, timeout_graceful_shutdown=10,
            )
        )  # fmt: skip
        listener = listening_socket(self._settings)
        gc.collect()
        gc.freeze()  # a full collection over all modules would hold up answers for 100 ms
        quiet = asyncio.Event()
        async with webhook_client() as client:
            self._dispatcher = self._make_dispatcher(client)
            async with asyncio.TaskGroup() as group:
                pipeline = group.create_task(self._pipeline.run())
                helpers = [group.create_task(self._tick(quiet)), group.create_task(self._upkeep(quiet)),
                           group.create_task(self._dispatcher.run(quiet))]  # fmt: skip
                serving = group.create_task(server.serve(sockets=[listener]))
                _log.info("listening", url=service_url(self._settings), data_dir=str(self._settings.data_dir))
                await asyncio.wait([group.create_task(stop.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                self._status.close()
                server.should_exit = True
                await serving
                await self._pipeline.stop()
                quiet.set()
                await asyncio.gather(pipeline, *helpers)
        await self._jwks.close()

    def _make_dispatcher(self, client: httpx.AsyncClient) -> Dispatcher:
        notifier = WebhookNotifier(client, clock.now_ms)
        channels = [Channel(ALERT_KIND, target, notifier) for target in webhook_targets(self._settings)]
        policy = DispatchPolicy(cooldown_s=self._settings.risk.cool_down_s)
        jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing
        return Dispatcher(self._store, channels, policy, clock.now_ms, jitter, self._delivered)

    def _delivered(self, target: str, outcome: str) -> None:
        self._services.deliveries[target, outcome] += 1

    async def _tick(self, stop: asyncio.Event) -> None:
        """Record that time passes, so that risk decays and expires without events."""
        while not await _wait(stop, self._settings.pipeline.tick_interval_s):
            now = clock.now_ms()
            try:
                await self._log.commit([Record(Kind.TICK, 0, now, now.to_bytes(8, "little"))])
            except TrustwatchError as error:
                _log.warning("time could not be recorded", error=str(error))

    async def _upkeep(self, stop: asyncio.Event) -> None:
        """Remove what is older than it has to be kept, soon after the start and then every hour."""
        pause_s = FIRST_UPKEEP_S
        while not await _wait(stop, pause_s):
            pause_s = UPKEEP_EVERY_S
            now = clock.now_ms()
            oldest = now - self._settings.retention_days * 86_400_000
            needed = self._window.first_offset_to_rebuild(self._status.offset)
            try:
                await asyncio.to_thread(self._store.purge, oldest)
                await self._log.run(partial(EventLog.drop_before, offset=needed, min_age_ms=LOG_AGE_MS, now_ms=now))
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


async def _wait(stop: asyncio.Event, seconds: float) -> bool:
    """Wait that long, or until *stop*; whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    return stop.is_set()
