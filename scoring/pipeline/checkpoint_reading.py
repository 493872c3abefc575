"""Checkpoints of partitions that were claimed are read beside the pipeline's thread, and again until they can be.

A partition waits for its own states alone: while their place does not answer, the worker goes on with all others. Files
that nobody needs any more are removed on the same thread, since a place that hangs would hold the worker up there, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import structlog

from trustwatch.ingest.errors import Unavailable

from ..records.agents import AgentRow
from ..records.commits import Position
from .commit_round import remove_ended_checkpoints
from .partition import LOG_OUTAGE_EVERY_S, PartitionPipeline
from .pipeline_context import PipelineContext

_log = structlog.get_logger(__name__)


States = Future[list[list[AgentRow]]]
"""Agents of each checkpoint of a partition, while they are being read."""


class _Read:
    """A claimed partition whose checkpoints are being read."""

    def __init__(self, pipeline: PartitionPipeline) -> None:
        self.pipeline = pipeline
        self.states: States = Future()
        self.is_stopped = False
        """True once nobody waits for it any more: no further file is read."""
        self.failed_before = False
        self.again_at = math.inf
        """Time of the next try; infinite while one is under way."""

    @property
    def has_failed(self) -> bool:
        """True if the place did not answer the last try."""
        return self.states.done() and isinstance(self.states.exception(), Unavailable)


class CheckpointReader:
    """Reads checkpoints, those of one partition after the other. For the thread of the pipeline.

    Args:
        context: of the pipelines.
    """

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._executor = ThreadPoolExecutor(1, "checkpoints")
        self._reads: dict[int, _Read] = {}
        self._outage_logged_at = -math.inf

    @property
    def waiting(self) -> Mapping[int, PartitionPipeline]:
        """Partitions whose checkpoints are not read yet, by number."""
        return {partition: read.pipeline for partition, read in self._reads.items()}

    @property
    def busy(self) -> bool:
        """True while something is read from a place that answers, as far as is known."""
        return any(not read.failed_before for read in self._reads.values())

    def begin(self, pipeline: PartitionPipeline) -> bool:
        """Begin to read the checkpoints of a partition that was just claimed; False = it has none to wait for."""
        if not pipeline.checkpoints:
            if self._context.checkpoints is not None:
                self._executor.submit(self._remove_left, pipeline.position)
            return False
        read = self._reads[pipeline.partition] = _Read(pipeline)
        read.states = self._executor.submit(self._read, read)
        return True

    def stop(self, partition: int) -> bool:
        """Read no more of a partition that is not ours any more; False = nothing of it was to be read."""
        read = self._reads.pop(partition, None)
        if read is not None:
            read.is_stopped = True
            read.states.cancel()
        return read is not None

    def collect(self) -> list[tuple[PartitionPipeline, States]]:
        """Partitions that can go on, with their states or what is wrong with them; the others are tried again."""
        for read in self._reads.values():
            if read.has_failed:
                self._try_again(read)
        done = [read for read in self._reads.values() if read.states.done() and not read.has_failed]
        for read in done:
            del self._reads[read.pipeline.partition]
        return [(read.pipeline, read.states) for read in done]

    def wait(self, timeout_s: float) -> None:
        """Wait until something was read, at most *timeout_s* seconds: for a worker that has nothing else to do."""
        if any(read.has_failed for read in self._reads.values()):
            self._context.sleep(timeout_s)
        else:
            wait([read.states for read in self._reads.values()], timeout_s, FIRST_COMPLETED)

    def _try_again(self, read: _Read) -> None:
        """Have a read that failed made again, after a pause."""
        now = self._context.monotonic()
        if read.again_at == math.inf:
            self._tell(read, now)
            read.failed_before = True
            read.again_at = now + self._context.tuning.retry_s
        elif now >= read.again_at:
            read.again_at = math.inf
            read.states = self._executor.submit(self._read, read)

    def _tell(self, read: _Read, now: float) -> None:
        if now - self._outage_logged_at >= LOG_OUTAGE_EVERY_S:
            self._outage_logged_at = now
            _log.warning(
                "checkpoints can not be read now; their partitions wait, answers about their agents are stale",
                partitions=sorted(self._reads),
                error=str(read.states.exception()),
            )

    def _read(self, read: _Read) -> list[list[AgentRow]]:
        """Agents of each checkpoint; of one that is stopped, of those before that."""
        files = self._context.checkpoints
        assert files is not None
        return [files.read(checkpoint) for checkpoint in read.pipeline.checkpoints if not read.is_stopped]

    def _remove_left(self, position: Position) -> None:
        """Remove files that owners before left and that no commit names."""
        assert self._context.checkpoints is not None
        remove_ended_checkpoints(self._context.checkpoints, position, self._context)

    def close(self) -> None:
        """End the thread, after the file that is being read."""
        for partition in list(self._reads):
            self.stop(partition)
        self._executor.shutdown(wait=True, cancel_futures=True)
