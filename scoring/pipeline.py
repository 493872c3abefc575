"""The pipeline on a log of one partition: poll, apply, commit. Several partitions of a group: `group.py`."""

from __future__ import annotations

from collections.abc import Callable

from ..ingest.source import DurableSource
from .committing import CommittedChanges
from .partition import PartitionPipeline, PipelineContext, PipelineParameters, policy_members
from .policy import LivePolicy
from .processor import AppliedBatch, Processor
from .records import Position
from .stages import StageMetrics
from .store import Store

ONLY_PARTITION = 0


class SinglePartitionPipeline:
    """One worker of one partition.

    Args:
        source: hands out records.
        processor: applies them.
        store: keeps state, decisions, outbox, dead letters and position in one transaction.
        policy: token policies, for alerts.
        settings: see PipelineSettings.
        monotonic: seconds on a clock that never goes back.
        sleep: waits between tries while the store does not answer.
        on_commit: called after each commit with what became durable.
    """

    def __init__(
        self,
        source: DurableSource,
        processor: Processor,
        store: Store,
        policy: LivePolicy,
        settings: PipelineParameters,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        on_commit: Callable[[CommittedChanges], None],
    ) -> None:
        self._source = source
        self._settings = settings
        self.stages = StageMetrics(monotonic)
        around = PipelineContext(source, store, policy, settings, monotonic, sleep, on_commit, self.stages)
        self._partition = PartitionPipeline(ONLY_PARTITION, processor, around)

    @property
    def position(self) -> Position:
        """How far it has committed."""
        return self._partition.position

    def start(self) -> None:
        """Take the partition over, go to where its state was stored, and rebuild the duplicate window from the log.

        Raises:
            CorruptLog: the stored position lies behind the end of the log: the log has lost acknowledged records.
        """
        self._source.seek(ONLY_PARTITION, self._partition.take_over())

    def step(self) -> int:
        """Read and apply one batch, commit when it is time; returns the number of records."""
        with self.stages.timed("poll"):
            batch = self._source.poll(self._settings.batch, self._settings.poll_s)
        if batch is not None:
            self._partition.apply(batch)
        if self._partition.commit_due:
            self._partition.commit()
        return 0 if batch is None else len(batch.records)

    def finish(self) -> None:
        """Commit what was applied."""
        self._partition.finish()


__all__ = [
    "ONLY_PARTITION",
    "AppliedBatch",
    "CommittedChanges",
    "PipelineParameters",
    "SinglePartitionPipeline",
    "policy_members",
]
