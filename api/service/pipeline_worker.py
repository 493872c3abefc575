"""The pipeline process: `python -m trustwatch.api.service.pipeline_worker`, started by the service.

A separate process keeps answers fast while events are scored. With brokers it is a member of the workers' consumer
group: it takes partitions over, publishes to the topics, and writes time into its partitions, so that risk decays
there without events. Without brokers it owns the one partition of the log in the data directory and sends risk to the
service over a socket.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence

import structlog

from trustwatch.ingest.archive.vector_spool import VectorSpoolWriter
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.compilation import KernelPart
from trustwatch.ingest.errors import Unavailable, retry_until_available
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.ingest.topics.record_codec import headers_for
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine
from trustwatch.scoring.pipeline.ipc import PipelineUpdate
from trustwatch.scoring.pipeline.kernel_warm_up import compile_part
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.pipeline.pipeline import Pipeline
from trustwatch.scoring.pipeline.pipeline_context import CommittedChanges, PipelineContext, RiskListener
from trustwatch.scoring.pipeline.processor import Processor, StageMetrics, VectorCollector
from trustwatch.scoring.pipeline.settings import DEFAULT_TUNING
from trustwatch.scoring.pipeline.topic_publisher import TopicPublisher
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.commits import ONLY_PARTITION, Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.erasures import PartitionErasure

from .. import clock
from ..brokers import open_writer
from ..child_process import ChildRuntime, run_child
from ..composition import (
    console_url,
    engine_settings,
    live_policy,
    load_forgotten_agents,
    make_duplicate_window,
    open_event_source,
    open_model_registry,
    open_service_store,
    open_spool,
    policy_book,
)
from ..settings.effective import SettingsChange
from ..settings.root import Settings
from .partition_migration import check_partitions

HEARTBEAT_EVERY_S = 0.5
BACKLOG_LOGGED_EVERY_S = 10.0
MIN_RESIDENT_AGENTS = 1_000
MAX_REST_S = 5.0
"""Seconds for which an embedded worker that ends applies what waits; the next start applies the rest."""
LAST_WAIT_S = 5.0
"""Longest wait of an ending worker for brokers, s; its successor sends again what they did not acknowledge."""

_log = structlog.get_logger(__name__)


def log_decisions(decisions: Sequence[Decision]) -> None:
    """Log decisions. Principals and resources stay out: reasons are in the decision itself."""
    log = _log.bind()  # the settings of the log are looked up once for all of them
    for decision in decisions:
        log.info(
            "decision",
            decision_id=decision.decision_id,
            tenant=decision.agent.tenant,
            issuer=decision.agent.issuer,
            agent_id=decision.agent.agent_id,
            risk_level=RiskLevel(decision.level).label,
            before=RiskLevel(decision.previous_level).label,
            cause=decision.cause,
            mode=decision.mode,
        )


class PipelineWorker:
    """The source, store and pipeline of one worker."""

    def __init__(self, settings: Settings, sleep: Callable[[float], None]) -> None:
        self.settings = settings
        self._sleep = sleep
        self.releases = contextlib.ExitStack()
        self.store = open_service_store(settings)
        self.releases.callback(self.store.close)
        self.source = open_event_source(settings, identities=self.store.identities)
        self._models = ActiveModels(open_model_registry(settings), clock.now_ms)
        chosen = self._models.choose(next(iter(self.store.models.list_switches(1)), None))
        self._model = self._models.load(chosen.version, chosen.digest)
        self._encoder = ColumnEncoder(self._model.salt, settings.domains(), self.store.identities)
        self._policy = live_policy(settings)
        compile_part(KernelPart.SCORING, lambda: self._model)
        self._spool = open_spool(settings)
        self.stages = StageMetrics(clock.monotonic)
        self.partitions = 1

    def _open_pipeline(self, publisher: TopicPublisher | None, on_risk: RiskListener, *, shared: bool) -> Pipeline:
        settings = self.settings
        context = PipelineContext(
            self.source,
            self.store,
            self._policy,
            settings.pipeline,
            clock.monotonic,
            self._sleep,
            self.after_commit,
            self.stages,
            publisher,
            on_risk,
            settings.listen.url(),
            acts_at_every_level=any(actuator.every_level for actuator in settings.actuators),
        )
        pipeline = Pipeline(self.source, context, self._make_processor, shared=shared)
        if self._spool is not None:
            self.releases.callback(self._spool.close)
        self.releases.callback(pipeline.close)
        self.releases.callback(self.source.close)  # called first: partitions that are handed back are committed
        return pipeline

    def use_policy(self, change: SettingsChange) -> None:
        """Use the token policy of other settings if it differs."""
        if change.changes_policy:
            self._policy.use(policy_book(change.settings))

    def _make_processor(self, partition: int) -> Processor:
        resident = max(MIN_RESIDENT_AGENTS, self.settings.pipeline.resident_agents // self.partitions)
        engine = Engine(
            self._model,
            engine_settings(self.settings, capacity=resident),
            self.store.agents,
            partition=partition,
            identities=self.store.identities,
        )

        def load_erasures() -> None:  # so that no erased agent returns from the model's history or from loaded rows
            engine.agent_states.erased_agents = load_forgotten_agents(self.settings, self.store)
            open_erasures = self.store.erasures.list_open()
            engine.agent_states.keep_out_erased(erasure.erasure_subject for erasure in open_erasures if erasure.subject)

        retry_until_available(load_erasures, lambda _: self._sleep(DEFAULT_TUNING.retry_s))
        processor = Processor(
            engine,
            self._encoder,
            make_duplicate_window(self.settings),
            self._policy,
            edges=EdgeCollector(),
            models=self._models,
            vectors=start_vector_collector(self._spool, partition),
            compiled_elsewhere=True,
        )
        processor.control_records.partition_count = self.partitions
        return processor

    def after_commit(self, done: CommittedChanges) -> None:
        """Log decisions and keep vectors of a commit."""
        log_decisions(done.decisions)
        if self._spool is not None:
            with self.stages.timed("vectors"):
                self._spool.append(*done.vectors)
                self._spool.roll_if_due()
            self.stages.counts["vectors_dropped"] = self._spool.dropped_events

    def close(self) -> None:
        """Hand partitions back, then release all files and connections, even if one fails."""
        self.releases.close()

    def refresh(self) -> None:
        """Read the policy again if its file changed, and complete a file of vectors that is due."""
        self._policy.refresh()
        if self._spool is not None:
            self._spool.roll_if_due()


class EmbeddedPipelineWorker(PipelineWorker):
    """The worker of the log in the data directory. It sends agents that moved and committed changes to the service."""

    def __init__(self, child: ChildRuntime) -> None:
        super().__init__(child.settings, child.sleep)
        self._child = child
        self._reported_at = 0.0
        child.on_reload = self.use_policy
        self.pipeline = self._open_pipeline(None, self._send_risk, shared=False)

    def run(self) -> None:
        """Work until asked to stop or the service ends."""
        stored = retry_until_available(
            lambda: self.store.partitions.position(ONLY_PARTITION), lambda _: self._sleep(DEFAULT_TUNING.retry_s)
        ).offset
        waiting = self.source.end_offset(ONLY_PARTITION) - stored
        self._send_alive(stored, 0, waiting)  # first: what is sent while the partition is taken over builds on it
        _log.info("taking the log over", from_offset=stored, waiting=waiting)
        self.pipeline.start()
        gc.freeze()
        while not self._child.should_stop:
            self.pipeline.step()
            if clock.monotonic() - self._reported_at >= HEARTBEAT_EVERY_S:
                self.refresh()
                done = self.pipeline.progress()[ONLY_PARTITION]
                self._send_alive(done.position.offset, done.risk_offset, done.behind)
        # The database is to have the events that the service accepted before it ended. But if the service was killed
        # and has started again, its worker waits for this one to end.
        deadline = clock.monotonic() + MAX_REST_S
        while self._child.stop_requested and clock.monotonic() < deadline and self.pipeline.step():
            pass
        self.pipeline.finish()

    def _send_alive(self, offset: int, risk_offset: int, behind: int) -> None:
        self._reported_at = clock.monotonic()
        self._child.sender.send_alive(offset, risk_offset, behind, dict(self.stages.counts), dict(self.stages.seconds))

    def _send_risk(
        self, position: Position, agents: Sequence[AgentSummary], erasures: Sequence[PartitionErasure]
    ) -> None:
        self._child.sender.send_risk(position.offset, agents, erasures)

    def after_commit(self, done: CommittedChanges) -> None:
        """Also send what became durable."""
        super().after_commit(done)
        running = self.pipeline.progress().get(ONLY_PARTITION)  # none yet while the partition is taken over
        behind = running.behind if running else self.source.end_offset(ONLY_PARTITION) - done.position.offset
        self._child.sender.send_commit(done, behind, dict(self.stages.counts), dict(self.stages.seconds))
        self._reported_at = clock.monotonic()


class GroupPipelineWorker(PipelineWorker):
    """One member of the workers' consumer group, which publishes to the topics."""

    def __init__(self, settings: Settings, sleep: Callable[[float], None], *, check: bool = True) -> None:
        super().__init__(settings, sleep)
        self._events = settings.brokers.topic_names.events
        self.writer = open_writer(settings.brokers)
        self.releases.callback(self.writer.close)
        self.partitions = self.writer.partitions(self._events)
        if check:
            check_partitions(self.store, self.partitions)
        names, url = settings.brokers.topic_names, settings.listen.url()
        self.publisher = TopicPublisher(self.writer, self.store, names, self._policy, url, console_url(settings))
        self._dropped_dead_letters = 0
        self._backlog_logged_at = -BACKLOG_LOGGED_EVERY_S
        self.pipeline = self._open_pipeline(self.publisher, self.publisher.publish_risk, shared=True)

    def run(self, child: ChildRuntime) -> None:
        """Work until asked to stop."""
        child.on_reload, child.on_stop = self.use_policy, self.end_soon
        beat_at = tick_at = clock.monotonic()
        _log.info(
            "joining the group of workers; the log says which partitions are taken over",
            group=self.settings.brokers.group_id,
            partitions=self.partitions,
        )
        self.pipeline.start()
        gc.freeze()
        while not child.should_stop:
            self.pipeline.step()
            now = clock.monotonic()
            if now - tick_at >= self.settings.pipeline.tick_interval_s:
                tick_at = now
                self.write_ticks()
            if now - beat_at >= HEARTBEAT_EVERY_S:
                beat_at = now
                child.sender.send(self.send_heartbeats())
        self.end_soon()  # if the service has ended, no signal came
        self.pipeline.finish()

    def write_ticks(self) -> None:
        """Record in every partition that time has passed. If one does not arrive, the next makes up for it."""
        now_ms = clock.now_ms()
        tick = Record(RecordKind.TICK, 0, now_ms, now_ms.to_bytes(8, "little"))
        headers = headers_for(tick)
        for at in self.source.owned():
            try:
                self.writer.send(self._events, None, tick.payload, partition=at, headers=headers, timestamp_ms=now_ms)
            except Unavailable:
                self.stages.counts["ticks_not_sent"] += 1

    def send_heartbeats(self) -> PipelineUpdate:
        """Publish the progress of the partitions on the risk topic; returns the same for the service."""
        self.refresh()
        now_ms = clock.now_ms()
        progress = self.pipeline.progress()
        # All that arrived in a partition before this time, UTC ms, is part of the published risk.
        fresh = {at: now_ms if state.idle else min(state.received_ms, now_ms) for at, state in progress.items()}
        for partition, state in progress.items():
            try:
                self.publisher.publish_heartbeat(state.position, state.behind, fresh[partition])
            except Unavailable:
                self.stages.counts["heartbeats_not_sent"] += 1
        self.source.note_position({partition: state.position.offset for partition, state in progress.items()})
        stages = self.stages
        counts = {
            **stages.counts,
            "published": self.publisher.sent,
            "unchanged": self.publisher.unchanged,
            "producers_replaced": self.writer.replaced,
        }
        offset = sum(state.position.offset for state in progress.values())
        behind = sum(state.behind for state in progress.values())
        now = clock.monotonic()
        if behind > DEFAULT_TUNING.batch_size and now - self._backlog_logged_at >= BACKLOG_LOGGED_EVERY_S:
            self._backlog_logged_at = now
            _log.info("records wait to be applied", records=behind)
        dropped, self._dropped_dead_letters = self._dropped_dead_letters, 0
        return PipelineUpdate([], [], offset, behind, counts, dict(stages.seconds), dropped, fresh=fresh)

    def after_commit(self, done: CommittedChanges) -> None:
        """Also count what a commit dropped."""
        super().after_commit(done)
        self._dropped_dead_letters += done.dropped_dead_letters

    def end_soon(self) -> None:
        """Wait for brokers only briefly from now on. A signal handler may call this."""
        self.writer.bound_waits(LAST_WAIT_S)


def run_pipeline_worker(child: ChildRuntime) -> None:
    _log.info("a worker starts; it loads model and kernels first")
    if child.settings.distributed:
        with contextlib.closing(GroupPipelineWorker(child.settings, child.sleep)) as member:
            member.run(child)
    else:
        with contextlib.closing(EmbeddedPipelineWorker(child)) as worker:
            worker.run()


def start_vector_collector(spool: VectorSpoolWriter | None, partition: int) -> VectorCollector | None:
    """Return the collector of a partition that begins here; None if no vectors are kept.

    The open file is completed first. Otherwise a partition that another worker owned meanwhile would have a file that
    spans the files of that worker, which would count as merged into it.
    """
    if spool is None:
        return None
    spool.roll()
    return VectorCollector(partition)


if __name__ == "__main__":
    raise SystemExit(run_child(run_pipeline_worker))
