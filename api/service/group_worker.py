"""The pipeline process of the distributed form:

`python -m trustwatch.api.service.group_worker`, started by the service.

A member of the consumer group: takes partitions over, works on them, publishes to the topics, hands them back. It
also writes time into its partitions, so that risk decays there without events.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import structlog

from trustwatch.ingest.archive.vector_spool import VectorSpoolWriter
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KernelPart
from trustwatch.ingest.duplicate_window import PARTITION_WINDOW, DuplicateWindow
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.retry import retry_until_available
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.record_codec import headers_for
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.pipeline.group_pipeline import ConsumerGroupPipeline, PartitionProgress
from trustwatch.scoring.pipeline.ipc import PipelineUpdate
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.pipeline.pipeline_context import CommittedChanges, PipelineContext
from trustwatch.scoring.pipeline.processor import Processor, StageMetrics, VectorCollector
from trustwatch.scoring.pipeline.settings import DEFAULT_TUNING
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher

from .. import clock
from ..brokers import open_group_source, open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import (
    console_url,
    engine_settings,
    live_policy,
    load_forgotten_agents,
    open_model_registry,
    open_service_store,
    open_spool,
    policy_book,
    service_url,
)
from ..settings.reloading import SettingsChange
from ..settings.root import Settings
from .decision_log import log_decisions
from .partition_migration import check_partitions

HEARTBEAT_EVERY_S = 0.5
BACKLOG_LOGGED_EVERY_S = 10.0
MIN_RESIDENT_AGENTS = 1_000
LAST_WAIT_S = 5.0
"""Longest wait of a worker that ends for brokers, s; its successor sends again what they did not acknowledge."""

_log = structlog.get_logger(__name__)


class GroupPipelineWorker:
    """One member of the workers' consumer group, with its source, store and publisher."""

    def __init__(self, settings: Settings, sleep: Callable[[float], None], *, check: bool = True) -> None:
        self._settings = settings
        self._sleep = sleep
        brokers = settings.brokers
        self._events = brokers.topic_names.events
        self.store = open_service_store(settings)
        self.source = open_group_source(brokers, identities=self.store.identities)
        self.writer = open_writer(brokers)
        self._models = ActiveModels(open_model_registry(settings), clock.now_ms)
        chosen = self._models.choose(next(iter(self.store.models.list_switches(1)), None))
        self._model = self._models.load(chosen.version, chosen.digest)
        self._encoder = ColumnEncoder(self._model.salt, settings.domains(), self.store.identities)
        self._policy = live_policy(settings)
        compile_part(KernelPart.SCORING, lambda: self._model)
        self.partitions = self.writer.partitions(self._events)
        if check:
            check_partitions(self.store, self.partitions)
        self._resident_agents = max(MIN_RESIDENT_AGENTS, settings.pipeline.resident_agents // self.partitions)
        self.publisher = TopicPublisher(
            self.writer,
            self.store,
            settings.brokers.topic_names,
            self._policy,
            service_url(settings),
            console_url(settings),
        )
        self._dropped_dead_letters = 0
        self._backlog_logged_at = -BACKLOG_LOGGED_EVERY_S
        self._spool = open_spool(settings)
        self.pipeline = ConsumerGroupPipeline(self.source, self._make_context(sleep), self._make_processor)

    def _make_context(self, sleep: Callable[[float], None]) -> PipelineContext:
        settings = self._settings
        return PipelineContext(
            self.source,
            self.store,
            self._policy,
            settings.pipeline,
            clock.monotonic,
            sleep,
            self._after_commit,
            StageMetrics(clock.monotonic),
            self.publisher,
            self.publisher.publish_risk,
            service_url(settings),
            acts_at_every_level=any(actuator.every_level for actuator in settings.actuators),
        )

    def use_policy(self, change: SettingsChange) -> None:
        """Go on with the token policy of other settings, where it differs."""
        if change.changes_policy:
            self._policy.use(policy_book(change.settings))

    def _make_processor(self, partition: int) -> Processor:
        settings = self._settings
        engine = Engine(
            self._model,
            engine_settings(settings, capacity=self._resident_agents),
            self.store.agents,
            partition=partition,
            identities=self.store.identities,
        )
        self._load_erasures(engine)
        vectors = start_vector_collector(self._spool, partition)
        processor = Processor(
            engine,
            self._encoder,
            DuplicateWindow(PARTITION_WINDOW),
            self._policy,
            edges=EdgeCollector(),
            models=self._models,
            vectors=vectors,
            compiled_elsewhere=True,
        )
        processor.control_records.partition_count = self.partitions
        return processor

    def _load_erasures(self, engine: Engine) -> None:
        """Load erased agents, so that none comes back from the model's history or with what is loaded."""

        def load() -> None:
            engine.agent_states.erased_agents = load_forgotten_agents(self._settings, self.store)
            open_erasures = self.store.erasures.list_open()
            engine.agent_states.keep_out_erased(erasure.erasure_subject for erasure in open_erasures if erasure.subject)

        retry_until_available(load, lambda _: self._sleep(DEFAULT_TUNING.retry_s))

    def write_ticks(self) -> None:
        """Record in every partition that time has passed. One that does not arrive is made up for by the next."""
        now_ms = clock.now_ms()
        record = Record(RecordKind.TICK, 0, now_ms, now_ms.to_bytes(8, "little"))
        for partition in self.source.owned():
            try:
                self.writer.send(
                    self._events,
                    None,
                    record.payload,
                    partition=partition,
                    headers=headers_for(record),
                    timestamp_ms=now_ms,
                )
            except Unavailable:
                self.pipeline.stages.counts["ticks_not_sent"] += 1

    def send_heartbeats(self) -> PipelineUpdate:
        """Publish the progress of the partitions on the risk topic; returns the same for the service."""
        self._policy.refresh()
        if self._spool is not None:
            self._spool.roll_if_due()
        now_ms = clock.now_ms()
        progress = self.pipeline.progress()
        fresh = {partition: freshness_ms(state, now_ms) for partition, state in progress.items()}
        for partition, state in progress.items():
            try:
                self.publisher.publish_heartbeat(state.position, state.behind, fresh[partition])
            except Unavailable:
                self.pipeline.stages.counts["heartbeats_not_sent"] += 1
        self.source.note_position({partition: state.position.offset for partition, state in progress.items()})
        stages = self.pipeline.stages
        counts = {
            **stages.counts,
            "published": self.publisher.sent,
            "unchanged": self.publisher.unchanged,
            "producers_replaced": self.writer.replaced,
        }
        offset = sum(state.position.offset for state in progress.values())
        behind = sum(state.behind for state in progress.values())
        self._tell_backlog(behind)
        dropped, self._dropped_dead_letters = self._dropped_dead_letters, 0
        return PipelineUpdate([], [], offset, behind, counts, dict(stages.seconds), dropped, fresh=fresh)

    def _tell_backlog(self, behind: int) -> None:
        """Say now and then how much waits, while it is more than the next batch takes."""
        now = clock.monotonic()
        if behind > DEFAULT_TUNING.batch_size and now - self._backlog_logged_at >= BACKLOG_LOGGED_EVERY_S:
            self._backlog_logged_at = now
            _log.info("records wait to be applied", records=behind)

    def _after_commit(self, done: CommittedChanges) -> None:
        log_decisions(done.decisions)
        self._dropped_dead_letters += done.dropped_dead_letters
        if self._spool is not None:
            stages = self.pipeline.stages
            with stages.timed("vectors"):
                self._spool.append(*done.vectors)
                self._spool.roll_if_due()
            stages.counts["vectors_dropped"] = self._spool.dropped_events

    def end_soon(self) -> None:
        """Wait little for brokers from now on; for a signal handler, too."""
        self.writer.bound_waits(LAST_WAIT_S)

    def close(self) -> None:
        """Leave the group, and release connections, all of them though one can not."""
        with contextlib.ExitStack() as releases:
            releases.callback(self.store.close)
            releases.callback(self.writer.close)
            if self._spool is not None:  # partitions that are handed back are committed first
                releases.callback(self._spool.close)
            releases.callback(self.pipeline.close)
            self.source.close()


def freshness_ms(progress: PartitionProgress, now_ms: int) -> int:
    """Time before which all that arrived in a partition is part of the published risk, UTC ms."""
    return now_ms if progress.idle else min(progress.received_ms, now_ms)


def run_group_worker(child: ChildRuntime) -> None:
    """Run a worker until it is told to stop."""
    _log.info("a worker starts; it loads model and kernels first")
    worker = GroupPipelineWorker(child.settings, child.sleep)
    child.on_reload, child.on_stop = worker.use_policy, worker.end_soon
    beat_at = tick_at = clock.monotonic()
    try:
        _log.info(
            "joining the group of workers; the log says which partitions are taken over",
            group=child.settings.brokers.group_id,
            partitions=worker.partitions,
        )
        worker.pipeline.start()
        gc.freeze()
        while not child.should_stop:
            worker.pipeline.step()
            now = clock.monotonic()
            if now - tick_at >= child.settings.pipeline.tick_interval_s:
                tick_at = now
                worker.write_ticks()
            if now - beat_at >= HEARTBEAT_EVERY_S:
                beat_at = now
                child.sender.send(worker.send_heartbeats())
        worker.end_soon()  # where the service has gone no signal came
        worker.pipeline.finish()
    finally:
        worker.close()


def start_vector_collector(spool: VectorSpoolWriter | None, partition: int) -> VectorCollector | None:
    """The collector of a partition that begins here; None where no vectors are kept.

    The file that is open is handed on first. A partition that was ours before, and another worker's meanwhile, would
    else have a file that reaches from the one time to the other, over the other's files; and whatever lies within the
    range of another file counts as merged into it.
    """
    if spool is None:
        return None
    spool.roll()
    return VectorCollector(partition)


if __name__ == "__main__":
    raise SystemExit(run_child(run_group_worker))
