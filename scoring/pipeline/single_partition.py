"""The pipeline of a log with one partition.

It reads, applies and publishes risk on one thread, and writes commits on another: one round at a time, since what
changes meanwhile is cheaper in the next one.
"""

from __future__ import annotations

from collections.abc import Callable

from trustwatch.ingest.source import DurableSource

from ..policy.book import LivePolicy
from ..records.commits import ONLY_PARTITION, Position
from ..store.sql_store import SqlStore
from .commit_thread import CommitThread
from .partition import PartitionPipeline, poll_timeout_s
from .pipeline_context import CommittedChanges, PipelineContext, RiskListener
from .preloading import AgentPreloader
from .processor import Processor, StageMetrics
from .settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning


class SinglePartitionPipeline:
    """One worker of one partition."""

    def __init__(
        self,
        source: DurableSource,
        processor: Processor,
        store: SqlStore,
        policy: LivePolicy,
        settings: PipelineSettings,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        on_commit: Callable[[CommittedChanges], None],
        *,
        on_risk: RiskListener | None = None,
        service: str = "https://trustwatch.invalid",
        tuning: PipelineTuning = DEFAULT_TUNING,
        acts_at_every_level: bool = False,
    ) -> None:
        self._source = source
        self._batch_size, self._poll_s = tuning.batch_size, tuning.poll_s
        self.stages = StageMetrics(monotonic)
        context = PipelineContext(
            source,
            store,
            policy,
            settings,
            monotonic,
            sleep,
            on_commit,
            self.stages,
            on_risk=on_risk,
            service=service,
            tuning=tuning,
            acts_at_every_level=acts_at_every_level,
        )
        self._partition = PartitionPipeline(ONLY_PARTITION, processor, context)
        self._commits = CommitThread(context)
        self._preloader = AgentPreloader(store, monotonic)

    @property
    def position(self) -> Position:
        """Committed position of the partition."""
        return self._partition.position

    @property
    def risk_offset(self) -> int:
        """Offset before which all records are part of the published risk."""
        return self._partition.risk.offset

    def start(self) -> None:
        """Take the partition over, and read on from where its state was stored.

        Raises CorruptLog if the log has lost acknowledged records: the stored position lies behind its end.
        """
        self._source.seek(ONLY_PARTITION, self._partition.take_over())
        self._preloader.begin(self._partition)

    def step(self) -> int:
        """Read and apply one batch, publish and commit when it is time; returns the number of records.

        Raises Fenced.
        """
        partition, commits = self._partition, self._partition.commits
        if commits.buffer_full:
            self._collect(None)
        with self.stages.timed("poll"):
            batch = self._source.poll(self._batch_size, self._poll_timeout_s())
        if batch is not None:
            partition.apply(batch)
        partition.risk.publish_due()
        if self._can_preload or self._preloader.has_few_left:
            self._preloader.step()
        self._collect(0.0)
        if not self._commits.busy and (commits.states_due or commits.decisions_due):
            partition.risk.publish_due(at_once=True)
            self._commits.start([commits], with_states=commits.states_due)
        return 0 if batch is None else len(batch.records)

    @property
    def _can_preload(self) -> bool:
        return not self._partition.commits.backlogged

    def _poll_timeout_s(self) -> float:
        if self._preloader.has_agents and self._can_preload:
            return 0.0
        beside = self._commits.busy or self._preloader.busy
        return poll_timeout_s([self._partition], self._poll_s, work_beside=beside)

    def _collect(self, timeout_s: float | None) -> None:
        for error in self._commits.collect(timeout_s).values():
            raise error

    def finish(self) -> None:
        """Commit what was applied. Raises Fenced."""
        self._collect(None)
        self._partition.finish()

    def close(self) -> None:
        """End the threads, after the commit that is being written."""
        self._commits.close()
        self._preloader.close()
