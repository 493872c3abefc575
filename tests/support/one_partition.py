"""The pipeline of the embedded log, in the process of a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trustwatch.ingest.log.log_reader import LogGroupSource
from trustwatch.scoring.pipeline.pipeline import Pipeline
from trustwatch.scoring.pipeline.pipeline_context import CommittedChanges, PipelineContext, RiskListener
from trustwatch.scoring.pipeline.processor import Processor, StageMetrics
from trustwatch.scoring.pipeline.settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.store.sql_store import SqlStore


class EmbeddedPipeline(Pipeline):
    """One pipeline on the log of a folder, with one processor for its one partition."""

    def __init__(
        self,
        log: Path,
        processor: Processor,
        store: SqlStore,
        policy: LivePolicy,
        settings: PipelineSettings,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        on_commit: Callable[[CommittedChanges], None] = lambda _: None,
        *,
        on_risk: RiskListener | None = None,
        tuning: PipelineTuning = DEFAULT_TUNING,
    ) -> None:
        self.source = LogGroupSource(log)
        stages = StageMetrics(monotonic)
        context = PipelineContext(
            self.source, store, policy, settings, monotonic, sleep, on_commit, stages, on_risk=on_risk, tuning=tuning
        )
        super().__init__(self.source, context, lambda _: processor, shared=False)

    @property
    def position(self) -> Position:
        return self._partitions[0].position

    def drain(self) -> None:
        """Apply all that waits, and commit it."""
        while self.step():
            pass
        self.finish()

    def kill(self) -> None:
        """Release threads and files without a commit, as the end of the process would."""
        self.close()
        self.source._owner = None
        self.source.close()
