"""The pipeline of a worker: it owns the partitions that its group assigns, or the one of the embedded log.

It reads, applies and publishes risk on one thread, with a turn for each partition, and writes commits on another, one
round at a time, because changes that come meanwhile are cheaper in the next round.

The group protocol alone does not fence: a worker that was asleep still believes that it owns its partitions. The store
decides by compare-and-set on the position, and the pipeline drops a partition if the store refuses its commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import structlog

from trustwatch.ingest.errors import Fenced
from trustwatch.ingest.source import GroupSource

from ..records.commits import Position
from .commit_round import CommitRound, CommitThread
from .partition import PartitionPipeline
from .partition_commits import MANY_RECORDS, MAX_UNCOMMITTED_RECORDS
from .pipeline_context import PipelineContext
from .preloading import AgentPreloader
from .processor import Processor

_log = structlog.get_logger(__name__)

RECLAIM_AFTER_S = 60.0
"""A partition that the store refused and that the group still assigns to this worker is claimed again after this time,
which is longer than a group takes to notice that a member sleeps."""

BESIDE_POLL_S = 0.005
"""Longest wait for records while a commit is written or agents are preloaded, so that their end is noticed soon."""

MAX_PAUSE_S = 2.0
"""Longest pause between two steps after which a partition counts as ours without a check: far less than the time after
which a group gives the partitions of a member that does not answer to others."""


class PartitionProgress(NamedTuple):
    """Progress of one partition."""

    position: Position
    behind: int  # records that wait to be applied
    received_ms: int  # arrival of the last record whose risk was published; 0 = none was
    idle: bool  # nothing waits to be applied or published
    risk_offset: int  # all records before it are part of the published risk


class Pipeline:
    """Implements `PartitionOwner`: one `PartitionPipeline` for each owned partition."""

    def __init__(
        self,
        source: GroupSource,
        context: PipelineContext,
        make_processor: Callable[[int], Processor],
        *,
        shared: bool = True,
    ) -> None:
        self._source = source
        self._context = context
        self._make_processor = make_processor
        self._shared = shared  # other workers may take partitions over; if not, a refused commit raises Fenced
        self._partitions: dict[int, PartitionPipeline] = {}
        self._fenced: dict[int, float] = {}
        self._commits = CommitThread(context)
        self._preloader = AgentPreloader(context.store, context.monotonic)
        self._states_are_next = False
        self._stepped_at = context.monotonic()
        self.stages = context.stages

    def start(self) -> None:
        self._source.join(self)

    def assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Take partitions over; each is read from its stored position."""
        _log.info("taking partitions over", partitions=sorted(partitions))
        self._drop_refused(self._commits.collect(None))
        with self.stages.timed("take_over"):
            return {partition: self._take_over(partition) for partition in sorted(partitions)}

    def _take_over(self, partition: int) -> int:
        """Take a partition over; return the offset to read from. Raises as `PartitionPipeline.take_over`."""
        self._fenced.pop(partition, None)
        pipeline = PartitionPipeline(partition, self._make_processor(partition), self._context)
        offset = pipeline.take_over()
        self._partitions[partition] = pipeline
        self._preloader.begin(pipeline)
        return offset

    def revoked(self, partitions: Collection[int]) -> None:
        """Commit what was applied, then forget the partitions."""
        for partition in sorted(partitions):
            pipeline = self._partitions.pop(partition, None)
            self._fenced.pop(partition, None)
            if pipeline is None:
                continue
            self._preloader.stop(pipeline)
            try:
                self._drop_refused(self._commits.collect(None))
                pipeline.risk.confirm_first()
                pipeline.finish()
            except Fenced as error:
                _log.warning("another worker has the partition already", partition=partition, error=str(error))
            else:
                _log.info("partition handed back", partition=partition, offset=pipeline.next_offset)

    def lost(self, partitions: Collection[int]) -> None:
        """Drop the partitions with what was applied since the last commit; the next owner reads it again."""
        for partition in sorted(partitions):
            self._fenced.pop(partition, None)
            pipeline = self._partitions.pop(partition, None)
            if pipeline is not None:
                self._preloader.stop(pipeline)
                self._forget(partition, pipeline)
                _log.warning("partition lost; its next owner does the uncommitted work again", partition=partition)

    def step(self) -> int:
        """Read and apply a batch of each partition that has one, commit what is due; returns the number of records."""
        if self._buffer_full:
            self._drop_refused(self._commits.collect(None))
        count = self._apply(self._poll_timeout_s())
        for _ in range(len(self._partitions) - 1 if count else 0):  # records at hand share the commit
            more = self._apply(0.0)
            count += more
            if not more or self._buffer_full:
                break
        self._notice_pause()
        for pipeline in list(self._partitions.values()):
            self._publish_risk_of(pipeline)
        self._drop_refused(self._commits.collect())
        many = self._uncommitted_records >= MANY_RECORDS
        for pipeline in self._partitions.values():
            pipeline.commits.worker_has_many = many
        if not self._commits.busy:
            self._commit_due()
        if self._can_preload or self._preloader.has_few_left:
            self._preloader.step()
        self._reclaim()
        return count

    @property
    def _can_preload(self) -> bool:
        return not any(pipeline.commits.backlogged for pipeline in self._partitions.values())

    def _poll_timeout_s(self) -> float:
        """Longest wait for records: until something has to be published, committed or preloaded."""
        if self._preloader.has_agents and self._can_preload:
            return 0.0
        partitions = self._partitions.values()
        if self._commits.busy or self._preloader.busy:
            waits = [BESIDE_POLL_S]
        else:
            waits = [self._context.tuning.poll_s, *(partition.commits.due_in_s() for partition in partitions)]
        return max(0.0, min([*waits, *(partition.risk.due_in_s() for partition in partitions)]))

    @property
    def _uncommitted_records(self) -> int:
        return sum(pipeline.commits.uncommitted_records for pipeline in self._partitions.values())

    @property
    def _buffer_full(self) -> bool:
        if self._uncommitted_records >= MAX_UNCOMMITTED_RECORDS:
            return True
        return any(pipeline.commits.buffer_full for pipeline in self._partitions.values())

    def _publish_risk_of(self, pipeline: PartitionPipeline, *, at_once: bool = False) -> bool:
        """Publish the risk of one partition; return False if another worker owns it, and it was dropped."""
        self._notice_pause()
        try:
            pipeline.risk.publish_due(at_once=at_once)
        except Fenced as error:
            self._drop_refused({pipeline.partition: error})
            return False
        return True

    def _notice_pause(self) -> None:
        """After a long pause, check the owner of each partition in the store before more risk is published."""
        now, slept = self._context.monotonic(), self._stepped_at + MAX_PAUSE_S
        self._stepped_at = now
        if self._shared and now > slept:
            for pipeline in self._partitions.values():
                pipeline.risk.confirm_first()

    def _apply(self, timeout_s: float) -> int:
        with self.stages.timed("poll"):
            batch = self._source.poll(self._context.tuning.batch_size, timeout_s)
        if batch is None:
            return 0
        pipeline = self._partitions.get(batch.partition)
        if pipeline is not None:
            try:
                pipeline.apply(batch)
            except Fenced as error:
                self._drop_refused({batch.partition: error})
                return len(batch.records)
            if not pipeline.commits.backlogged:  # answers wait for no batch of another partition
                self._publish_risk_of(pipeline)
        return len(batch.records)

    def _commit_due(self) -> None:
        """Begin the commits that are due: in turns all decision commits and the most overdue state commit.

        Rows of states are built on this thread while events wait, so one partition is written at a time. A
        transaction of decisions costs much the same for one partition as for all. If memory is full, everything is
        written; if one partition alone waits, its state commit includes its decisions.
        """
        waiting = [pipeline for _, pipeline in sorted(self._partitions.items()) if pipeline.commits.has_uncommitted]
        due = [pipeline for pipeline in waiting if pipeline.commits.states_due]
        is_decided = any(pipeline.commits.decisions_due for pipeline in waiting)
        if self._buffer_full:
            self._begin_commit(waiting, with_states=True)
        elif due and (self._states_are_next or not is_decided or len(waiting) == 1):
            self._begin_commit([max(due, key=lambda pipeline: pipeline.commits.states_late_s)], with_states=True)
        elif is_decided:  # decisions that are not urgent come along
            ready = [one for one in waiting if one.commits.decisions_due or one.commits.has_calm_decisions]
            self._begin_commit(ready, with_states=False)

    def _begin_commit(self, pipelines: Collection[PartitionPipeline], *, with_states: bool) -> None:
        """Publish the risk of the partitions, then begin a commit of those that are still owned."""
        self._states_are_next = not with_states
        ready = [pipeline for pipeline in pipelines if self._publish_risk_of(pipeline, at_once=True)]
        if ready:
            self._commits.start([pipeline.commits for pipeline in ready], with_states=with_states)

    def _drop_refused(self, refused: Mapping[int, Fenced]) -> None:
        """Drop the partitions whose commits or claims the store refused."""
        for partition, error in refused.items():
            if not self._shared:
                raise error
            _log.warning("another worker owns the partition; dropping it", partition=partition, error=str(error))
            self.stages.counts["fenced"] += 1
            if (pipeline := self._partitions.pop(partition, None)) is None:
                continue  # the group has revoked it already
            self._preloader.stop(pipeline)
            self._forget(partition, pipeline)
            self._source.pause(partition)
            self._fenced[partition] = self._context.monotonic()

    def _forget(self, partition: int, pipeline: PartitionPipeline) -> None:
        """Forget what was sent of a partition; a commit that is being written must not note it as published."""
        pipeline.commits.is_dropped = True
        if self._context.publisher is not None:
            self._context.publisher.forget_partition(partition)

    def _reclaim(self) -> None:
        for partition, since in list(self._fenced.items()):
            if self._context.monotonic() - since >= RECLAIM_AFTER_S:
                del self._fenced[partition]
                if partition in self._source.owned():
                    self._drop_refused(self._commits.collect(None))
                    self._source.seek(partition, self._take_over(partition))

    def finish(self) -> None:
        """Commit everything that was applied on every partition."""
        self._drop_refused(self._commits.collect(None))
        while waiting := [one for _, one in sorted(self._partitions.items()) if one.commits.has_uncommitted]:
            ready = [pipeline.commits for pipeline in waiting if self._publish_risk_of(pipeline, at_once=True)]
            if ready:
                self._drop_refused(CommitRound(ready, self._context).run())
        commits = [pipeline.commits for pipeline in self._partitions.values()]
        if published := [partition for partition in commits if partition.has_unnoted_publication]:
            self._drop_refused(CommitRound(published, self._context, with_states=False).run())

    def close(self) -> None:
        """End the threads after the commit that is being written."""
        self._commits.close()
        self._preloader.close()

    def progress(self) -> dict[int, PartitionProgress]:
        progress = {}
        for partition, pipeline in sorted(self._partitions.items()):
            behind, risk = pipeline.count_behind(), pipeline.risk  # sets `idle`
            what = (pipeline.position, behind, risk.received_ms, pipeline.idle, risk.offset)
            progress[partition] = PartitionProgress(*what)
        return progress
