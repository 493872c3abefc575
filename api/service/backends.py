"""Backends of `serve`: the embedded and the distributed form, and the roles of a process."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import ConfigError, CorruptLog, TrustwatchError
from trustwatch.ingest.extras import ExtraName, extra_missing, install_line, missing_packages
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.log.group_commit import GroupCommit
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.ingest.topics.topic_commit_log import DOOR_TIMEOUT_S, TopicCommitLog
from trustwatch.scoring.pipeline.ipc import PipelineStatus, PipelineUpdate, make_lag_counter
from trustwatch.scoring.policy.risk_view import RiskView
from trustwatch.scoring.records.commits import ONLY_PARTITION
from trustwatch.scoring.store.retention_settings import LOG_DAYS
from trustwatch.scoring.store.sql_store import SqlStore

from .. import clock
from ..archive.slice import ArchiveStatus, ArchiveWorkerProcess, archived_offset
from ..brokers import open_writer
from ..child_process import SupervisedProcess
from ..composition import open_model_registry, open_service_store, store_address
from ..events.ingest_status import IngestStatus, IngestWorkerProcess
from ..models.first_training import is_learning
from ..settings.loading import HOW_TO_NAME_BROKERS
from ..settings.root import Settings

PIPELINE_WORKER = "trustwatch.api.service.pipeline_worker"
RISK_FOLLOWER = "trustwatch.api.service.risk_follower"

NO_PARTITION = (
    "a partition: its group has assigned none yet; if there are more workers than partitions, it stands by for one "
    "that ends"
)
"""Reason why a worker without a partition waits."""


class ServiceRoles(NamedTuple):
    """The parts that run here."""

    api: bool = True
    """Answers requests and accepts events."""
    workers: bool = True
    """Scores events, delivers alerts, keeps the store in order."""
    archiver: bool = True
    """Keeps the archive of events, if one is set. At most one process of a deployment does."""


def check_service_roles(roles: ServiceRoles, settings: Settings) -> None:
    """Raise ConfigError if the settings do not allow a part to run alone."""
    if roles.api and roles.workers:
        return
    option = "--api-only" if roles.api else "--workers-only" if roles.workers else "--archiver-only"
    if not settings.distributed:
        raise ConfigError(
            f"{option} is for the distributed form: {HOW_TO_NAME_BROKERS}, or leave it out to run everything on this "
            "machine"
        )
    if settings.store.url is None:
        raise ConfigError(
            f"{option} needs a database that all processes share: set store.url or TRUSTWATCH_STORE_URL to a "
            "postgresql:// URL"
        )
    if not (roles.api or roles.workers) and settings.archive.directory is None:
        raise ConfigError(f"{option} needs a place for the archive: set archive.directory")


def check_extras(settings: Settings) -> None:
    """Raise ConfigError with every extra that the settings need and that is not installed.

    Without `otlp` the service starts: OTLP/JSON needs no library. A caller that may send protobuf is warned of.
    """
    needed: list[tuple[ExtraName, str]] = [*settings.brokers.needed_extras()]
    if settings.archive.directory is not None or settings.archive.vectors is not None:
        needed.insert(0, ("archive", "`archive` names a folder"))
    if store_address(settings).url.startswith("postgresql"):
        needed.append(("postgres", "`store.url` names PostgreSQL"))
    missing = [(extra, needed_by, missing_packages(extra)) for extra, needed_by in needed]
    if problems := [extra_missing(*one) for one in missing if one[2]]:
        raise ConfigError("; ".join(problems))
    senders = [caller.name for caller in settings.callers if caller.format == "otlp"]
    if senders and missing_packages("otlp"):
        _log.warning("otlp_as_json_alone", callers=senders, protobuf_needs=install_line("otlp"))


_log = structlog.get_logger(__name__)


class ModelWorkerProcess(SupervisedProcess):
    """Keeps the model worker running. It sends the versions of challengers that may be promoted."""

    def __init__(self, settings_file: Path | None, on_challenger_ready: Callable[[str], None]) -> None:
        super().__init__("trustwatch.api.models.worker", settings_file, lambda _update: None)
        self._on_challenger_ready = on_challenger_ready

    def _handle_frame(self, frame: bytes) -> None:
        self._on_challenger_ready(frame.decode())


class BackendObservers(NamedTuple):
    """Parts of the answering process that backends update."""

    view: RiskView
    status: PipelineStatus
    on_change: Callable[[], None]
    ingest: IngestStatus
    archive: ArchiveStatus
    on_challenger_ready: Callable[[str], None] = lambda _version: None  # a challenger is better and may be promoted


@dataclass(eq=False)
class EventBackend(ABC):
    """Durable log of events, and source of risk for this process."""

    settings: Settings
    settings_file: Path | None
    log: GroupCommit
    store: SqlStore

    @abstractmethod
    def load_view(self, view: RiskView) -> None:
        """Fill the view from the store."""

    @abstractmethod
    def processes(self, observers: BackendObservers) -> list[SupervisedProcess]:
        """Return the child processes."""

    @abstractmethod
    def pending_records(self, status: PipelineStatus) -> Callable[[], int] | None:
        """Return a count of logged records that wait, for the bound at intake; None if the log itself bounds them."""

    @abstractmethod
    async def write_tick(self) -> None:
        """Record that time has passed, if that is the task of this process."""

    async def _commit_tick(self, problem: str, key: bytes = b"") -> None:
        now = clock.now_ms()
        try:
            await self.log.commit([Record(RecordKind.TICK, 0, now, now.to_bytes(8, "little"), key)])
        except TrustwatchError as error:
            _log.warning(problem, error=str(error))

    def _upkeep_processes(self, observers: BackendObservers, roles: ServiceRoles) -> list[SupervisedProcess]:
        """Return the model worker (if enabled, or until there is a model) and the processes of the archive."""
        processes: list[SupervisedProcess] = []
        if roles.workers:
            installed = open_model_registry(self.settings).installed_model()
            if self.settings.lifecycle.enabled or is_learning(installed, self.store):
                processes.append(ModelWorkerProcess(self.settings_file, observers.on_challenger_ready))
        archive = self.settings.archive
        kept = {"events": roles.archiver and archive.directory, "vectors": roles.workers and archive.vectors}
        kinds = [kind for kind, directory in kept.items() if directory]
        return processes + [ArchiveWorkerProcess(kind, self.settings_file, observers.archive) for kind in kinds]

    @abstractmethod
    async def drop_applied_records(self, status: PipelineStatus) -> None:
        """Remove records that no restart needs, if that is the task of this process."""


def apply_worker_report(status: PipelineStatus, update: PipelineUpdate, *, answers: bool) -> None:
    """Apply the report of a worker; if this process *answers*, its follower reports freshness."""
    status.waiting_for = None if update.fresh else NO_PARTITION
    if answers:
        status.apply_worker_report(update)
    else:
        status.apply_report(update, clock.now_ms())


@dataclass(eq=False)
class EmbeddedBackend(EventBackend):
    """The log below the data directory; one pipeline process, which reports what it commits."""

    def __post_init__(self) -> None:
        self._event_log = self.log.log
        self._duplicate_window = DuplicateWindow()

    def load_view(self, view: RiskView) -> None:
        """Fill the view from the store.

        Raises CorruptLog if the state is ahead of the log: new events would get offsets that count as applied.
        """
        applied, log = self.store.partitions.position(ONLY_PARTITION).offset, self._event_log
        if applied > log.next_offset:
            raise CorruptLog(
                f"{log.directory}: state was stored up to offset {applied}, but the event log ends at "
                f"{log.next_offset}: it has lost records or belongs to another data directory; restore both from the "
                "same backup"
            )
        view.apply(self.store.agents.iterate())
        view.apply(versioned.agent for versioned in self.store.agents.list_ahead())

    def processes(self, observers: BackendObservers) -> list[SupervisedProcess]:
        """Return the pipeline, the model worker and the archive."""

        def apply(update: PipelineUpdate) -> None:
            for gone in update.forgotten:
                observers.view.remove(gone.tenant, gone.issuer, gone.agent_id)
            observers.view.apply(update.agents)
            observers.status.apply_report(update, clock.now_ms())
            if update.changes:
                observers.on_change()

        worker = SupervisedProcess(PIPELINE_WORKER, self.settings_file, apply, observers.status.mark_stopped)
        return [worker, *self._upkeep_processes(observers, ServiceRoles())]

    def pending_records(self, status: PipelineStatus) -> Callable[[], int]:
        """Return a live count."""
        return make_lag_counter(self._event_log, status)

    async def write_tick(self) -> None:
        """Write a tick to the log."""
        await self._commit_tick("time could not be recorded")

    async def drop_applied_records(self, status: PipelineStatus) -> None:
        """Remove old segments of the log."""
        used = status.offset
        if self.settings.archive.directory is not None:
            used = min(used, await asyncio.to_thread(archived_offset, self.settings.archive.directory))
        needed = self._duplicate_window.first_offset_to_rebuild(used)
        min_age_ms = (self.settings.retention.get("log") or LOG_DAYS) * DAY_MS
        await self.log.run_between_rounds(
            partial(EventLog.drop_before, offset=needed, min_age_ms=min_age_ms, now_ms=clock.now_ms())
        )


@dataclass(eq=False)
class DistributedBackend(EventBackend):
    """Brokers and a shared database: workers publish risk, replicas follow it."""

    _roles: ServiceRoles

    def load_view(self, view: RiskView) -> None:
        """Fill the view from the store, with versions, since a stalled worker may write to the topic last."""
        if not self._roles.api:
            return
        for position in self.store.partitions.list_positions():
            ahead = self.store.agents.list_ahead(position.partition)
            for agent in (*self.store.agents.iterate_unpublished(position.partition, -1), *ahead):
                view.apply([agent.agent], position.partition, [(agent.epoch, agent.offset)])

    def processes(self, observers: BackendObservers) -> list[SupervisedProcess]:
        """Return the risk follower, the worker, or both."""
        status, roles = observers.status, self._roles
        processes: list[SupervisedProcess] = []

        def followed(update: PipelineUpdate) -> None:
            for gone in update.forgotten:
                observers.view.remove_up_to((gone.tenant, gone.issuer, gone.agent_id), gone.partition, gone.offset)
            if update.agents:
                observers.view.apply(update.agents, update.partition, update.versions)
            if update.changes:
                status.publish_changes(update.changes)
                observers.on_change()
            if update.fresh is not None:
                status.apply_report(update, clock.now_ms())

        def worked(update: PipelineUpdate) -> None:
            apply_worker_report(status, update, answers=roles.api)
            observers.on_change()

        if roles.api:
            processes.append(SupervisedProcess(RISK_FOLLOWER, self.settings_file, followed, status.mark_stopped))
        if roles.workers:
            ended = (lambda: None) if roles.api else status.mark_stopped
            processes.append(SupervisedProcess(PIPELINE_WORKER, self.settings_file, worked, ended))
            if self.settings.brokers.topics:
                processes.append(IngestWorkerProcess(self.settings_file, observers.ingest))
        return [*processes, *self._upkeep_processes(observers, roles)]

    async def write_tick(self) -> None:
        """After a failure, write a record that shows whether it is over; workers write ticks.

        A replica that reports that it cannot accept events gets none, so no event would show it.
        """
        if self.log.log.failed:  # a tick is true, and harmless wherever it goes
            await self._commit_tick("events cannot be accepted yet", b"tick")

    async def drop_applied_records(self, status: PipelineStatus) -> None:
        """Do nothing: brokers remove records."""

    def pending_records(self, status: PipelineStatus) -> None:
        """Return None: the topic keeps waiting records, and its retention is the bound."""


@contextlib.asynccontextmanager
async def open_backend(
    settings: Settings, settings_file: Path | None, roles: ServiceRoles
) -> AsyncIterator[EventBackend]:
    """Open log and store, and close them again in the right order. Raises ConfigError, Unavailable or CorruptLog."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log: EventLog | TopicCommitLog
    if settings.distributed:
        writer = await asyncio.to_thread(open_writer, settings.brokers)
        log = topic = TopicCommitLog(writer, settings.brokers.topic_names.events, DOOR_TIMEOUT_S)
        with contextlib.suppress(TrustwatchError):  # looked up now, so that the first sender need not wait for it
            _log.debug("topic of events", partitions=await asyncio.to_thread(lambda: topic.partitions))
    else:
        log = await asyncio.to_thread(EventLog, settings.data_dir / "log")
    commit = GroupCommit(log)
    store = await asyncio.to_thread(open_service_store, settings)
    if roles.workers:
        await asyncio.to_thread(store.retention.prepare_weeks, clock.now_ms())
    try:
        if settings.distributed:
            yield DistributedBackend(settings, settings_file, commit, store, roles)
        else:
            yield EmbeddedBackend(settings, settings_file, commit, store)
    finally:
        await commit.close()
        await asyncio.to_thread(log.close)
        if isinstance(log, TopicCommitLog):
            await asyncio.to_thread(log.writer.close)
        store.close()
