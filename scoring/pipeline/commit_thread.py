"""The thread that writes commits, so that neither records nor answers wait for the database."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from trustwatch.ingest.errors import Fenced

from .commit_round import CommitRound
from .partition_commits import PartitionCommits
from .pipeline_context import PipelineContext


class CommitThread:
    """Writes one round of commits at a time, beside the thread of the pipeline."""

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._executor = ThreadPoolExecutor(1, "commits")
        self._running: tuple[CommitRound, Future[None]] | None = None

    @property
    def busy(self) -> bool:
        """True while a round is not finished."""
        return self._running is not None

    def start(self, partitions: Sequence[PartitionCommits], *, with_states: bool) -> None:
        """Begin a round, see `CommitRound`; the one before must be finished."""
        begun = CommitRound(partitions, self._context, with_states=with_states)
        self._running = begun, self._executor.submit(begun.write)

    def collect(self, timeout_s: float | None = 0.0) -> dict[int, Fenced]:
        """Finish the round if it is written within *timeout_s* seconds (None = wait for it); see `CommitRound.finish`.

        Raises what ended the writing: a commit that was given up is made again with the next one of its partition.
        """
        if self._running is None or not wait([self._running[1]], timeout_s).done:
            return {}
        written, future = self._running
        self._running = None
        future.result()
        return written.finish()

    def close(self) -> None:
        """Wait for what is being written; while a service does not answer it is given up."""
        if self._running is not None:
            self._running[0].give_up()
        self._executor.shutdown(wait=True)
