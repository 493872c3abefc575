"""Applies one partition: from records of a source to published risk and committed state.

The state of an agent is a function of the records of its partition, so its risk is published as soon as a batch is
applied, as of (epoch, offset). Alerts and actions wait for their commit (both in `partition_commits.py`), which another
thread writes (`commit_round.py`).

If the store does not answer, answers continue until memory has no room for more uncommitted changes; then the work
waits, nothing is lost, and answers become stale. If another worker owns the partition, `Fenced` ends this one's work
on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import structlog

from trustwatch.ingest.errors import Answer, CorruptLog, Unavailable, retry_until_available
from trustwatch.ingest.record_erasure import ErasedFilter
from trustwatch.ingest.source import RecordBatch

from ..engine.agent_paces import EventTimes
from ..engine.agent_state_cache import AgentStateCache
from ..records.commits import Position
from ..records.models import ModelSwitch
from .commit_round import CommitRound
from .partition_commits import MAX_UNCOMMITTED_RECORDS, PartitionCommits, RiskPublication
from .pipeline_context import PipelineContext
from .processor import Processor

_log = structlog.get_logger(__name__)

LOG_OUTAGE_EVERY_S = 30.0


class PartitionPipeline:
    """Applies the records of one partition, publishes the risk that follows, and commits what they did."""

    def __init__(self, partition: int, processor: Processor, context: PipelineContext) -> None:
        self._processor = processor
        self._context = context
        self.idle = False
        """True if no record waited when the source was last queried."""
        self._end = 0
        self._outage_logged_at = -LOG_OUTAGE_EVERY_S
        self._erased_filter = ErasedFilter()
        processor.engine.agent_states.on_unavailable = self.wait_before_retry
        self.risk = RiskPublication(processor, context, self.wait_before_retry)
        self.commits = PartitionCommits(partition, processor, context, self.risk, self.wait_before_retry)
        self._event_times = EventTimes(partition, context.stages.counts)

    @property
    def agent_states(self) -> AgentStateCache:
        return self._processor.engine.agent_states

    @property
    def partition(self) -> int:
        return self.position.partition

    @property
    def position(self) -> Position:
        """Committed position."""
        return self.commits.position

    @property
    def next_offset(self) -> int:
        """Offset of the next record to apply."""
        return self.commits.next_offset

    def take_over(self) -> int:
        """Claim the partition, so that no other worker writes its states; return the offset to read from.

        What may not have been published is published again, and the duplicate window is rebuilt.

        Raises CorruptLog, Fenced.
        """
        partition, store, begun = self.partition, self._context.store, self._context.monotonic()
        position = self.retry_until_available(lambda: store.partitions.claim(partition))
        self.commits.take_over(position)
        self._processor.engine.agent_states.owner = position
        self._end = self.retry_until_available(lambda: self._context.source.end_offset(partition))
        if position.offset > self._end:
            raise CorruptLog(
                f"state of partition {partition} was stored up to offset {position.offset}, but the event log ends at "
                f"{self._end}: it has lost records or belongs to another store; restore both from the same backup"
            )
        published = self.retry_until_available(lambda: store.partitions.published_offset(partition))
        if (publisher := self._context.publisher) is not None:  # what may not have been published
            self.retry_until_available(lambda: publisher.republish(position, published))
        furthest = position.offset + MAX_UNCOMMITTED_RECORDS + 2 * self._context.tuning.batch_size
        self.risk.take_over(position, min(self._end, furthest), published)
        self._erased_filter = ErasedFilter(self.retry_until_available(store.erasures.erased_in_topic))
        rules = self.retry_until_available(lambda: store.feedback.rules_of_partition(partition))
        self._processor.engine.feedback_rules.restore(rules)
        self._processor.model_switcher.resume(self.retry_until_available(self._newest_switch), position)
        self.commits.resume(published=published, event_ids_from=self._restore_duplicate_window())
        if self._processor.model_switcher.pending_switches:
            # Commit the choice of the model now: a new partition follows the others, and they may use another model
            # by the time it is taken over again. If the partition is lost already, a later commit is refused.
            CommitRound([self.commits], self._context).run()
        _log.info(
            "partition taken over",
            partition=partition,
            offset=position.offset,
            epoch=position.epoch,
            seconds=round(self._context.monotonic() - begun, 3),
        )
        return position.offset

    def _restore_duplicate_window(self) -> int:
        """Restore the window from the ids that commits stored and, for older ones, from the log.

        Returns the offset from which no commit has stored ids.
        """
        partition, window, source = self.partition, self._processor.duplicate_window, self._context.source
        next_offset = self.next_offset
        first = window.first_offset_to_rebuild(next_offset)
        kept = self.retry_until_available(lambda: self._context.store.event_ids.load(partition, first, next_offset))

        def read(start: int, end: int) -> npt.NDArray[np.uint64]:
            if start >= end:
                return np.empty(0, np.uint64)
            return self.retry_until_available(lambda: source.read_id_hashes(partition, start, end))

        before, after = read(first, kept.first_offset), read(kept.end_offset, next_offset)
        window.restore(first, np.concatenate([before, np.frombuffer(kept.hashes, "<u8").astype(np.uint64), after]))
        # If no ids were stored, store all that were read: the next owner need not read them again.
        unstored = after if kept.hashes else before
        window.record(unstored)
        return next_offset - len(unstored)

    def _newest_switch(self) -> ModelSwitch | None:
        """Return the newest switch of this partition; if it has none, the newest switch of any."""
        store = self._context.store
        return store.models.current_switch(self.partition) or next(iter(store.models.list_switches(1)), None)

    def apply(self, batch: RecordBatch) -> None:
        """Apply a batch of this partition, without records of erased subjects.

        Raises Fenced if another worker owns the partition; the caller drops it.
        """
        batch = self._erased_filter.filter_batch(batch)
        feedback = self._processor.engine.feedback_rules
        matched = feedback.matched
        with self._context.stages.timed("apply"):
            applied = self._processor.apply(batch)
        self._context.stages.counts["feedback_matched"] += feedback.matched - matched
        full = len(batch.records) >= self._context.tuning.batch_size
        self.commits.note_applied(applied, batch.next_offset, batch_full=full)
        self.risk.note_applied(
            batch.next_offset, batch.records[-1].received_ms, batch_full=full, level_changed=bool(applied.decisions)
        )
        self._context.stages.count_batch(applied)
        for scored, _ in applied.scored:
            self._event_times.note(scored, self._processor.engine.model)

    def finish(self) -> None:
        """Commit everything that was applied. Raises Fenced."""
        while self.commits.has_uncommitted:
            self.commit()
        if self.commits.has_unnoted_publication:
            for error in CommitRound([self.commits], self._context, with_states=False).run().values():
                raise error

    def commit(self) -> None:
        """Commit everything since the last commit, then publish it. Raises Fenced."""
        self.risk.publish_due(at_once=True)
        for error in CommitRound([self.commits], self._context).run().values():
            raise error

    def count_behind(self) -> int:
        """Count the records that wait to be applied, as of the last answer of the source.

        Records that are applied but not published (another worker may have been further) still count.
        """
        try:
            self._end = self._context.source.end_offset(self.partition)
            self.idle = self._end <= self.risk.offset
        except Unavailable:
            self.idle = False
        return max(0, self._end - max(self.position.offset, self.risk.offset))

    def retry_until_available(self, call: Callable[[], Answer]) -> Answer:
        """Call *call* until it answers; the partition waits while a service is unavailable."""
        return retry_until_available(call, self.wait_before_retry)

    def wait_before_retry(self, error: Unavailable) -> None:
        """Wait before another try; log a warning now and then."""
        now = self._context.monotonic()
        if now - self._outage_logged_at >= LOG_OUTAGE_EVERY_S:
            self._outage_logged_at = now
            _log.warning(
                "a service does not answer; the pipeline waits",
                error=str(error),
                partition=self.partition,
                offset=self.next_offset,
            )
        self._context.sleep(self._context.tuning.retry_s)
