"""Rounds of commits: commits of several partitions in one transaction, and what is published after it.

A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition has its
own compare-and-set: if the store refuses one, the others are still written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import structlog

from trustwatch.ingest.errors import Fenced, Unavailable, retry_until_available

from ..records.commits import Commit
from ..store.sql_store import CommitResult, SqlStore
from .partition_commits import PartitionCommits
from .pipeline_context import PipelineContext


class CommitThread:
    """Writes one round of commits at a time, on a separate thread, so that neither records nor answers wait for it."""

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._executor = ThreadPoolExecutor(1, "commits")
        self._running: tuple[CommitRound, Future[None]] | None = None

    @property
    def busy(self) -> bool:
        """True while a round is not finished."""
        return self._running is not None

    def start(self, partitions: Sequence[PartitionCommits], *, with_states: bool) -> None:
        """Begin a round; the previous one must be finished."""
        begun = CommitRound(partitions, self._context, with_states=with_states)
        self._running = begun, self._executor.submit(begun.write)

    def collect(self, timeout_s: float | None = 0.0) -> dict[int, Fenced]:
        """Finish the round if it is written within *timeout_s* seconds (None = wait); see `CommitRound.finish`.

        Raises the error that ended the writing; a commit that was given up is begun again with the next round.
        """
        if self._running is None or not wait([self._running[1]], timeout_s).done:
            return {}
        written, future = self._running
        self._running = None
        future.result()
        return written.finish()

    def close(self) -> None:
        """Wait for the round that is being written; give it up if a service does not answer."""
        if self._running is not None:
            self._running[0].give_up()
        self._executor.shutdown(wait=True)


_log = structlog.get_logger(__name__)


class CommitRound:
    """Commits of one or more partitions in one transaction; then their decisions are published.

    The thread of the pipeline makes and finishes it; another thread may call `write` in between.
    """

    def __init__(
        self,
        partitions: Sequence[PartitionCommits],
        context: PipelineContext,
        *,
        with_states: bool = True,
    ) -> None:
        self._partitions = partitions
        self._context = context
        self._started = context.monotonic()
        with context.stages.timed("rows"):
            self._commits = [partition.begin(with_states=with_states) for partition in partitions]
        self._to_note = [partition.publication_to_note for partition in partitions]
        self._are_noted = False
        """True once the store knows that the positions in `_to_note` are published."""
        self._results: list[CommitResult | Fenced] = []
        self._took_s = 0.0
        self._given_up = False

    def run(self) -> dict[int, Fenced]:
        self.write()
        return self.finish()

    def write(self) -> None:
        """Write the commits, then publish their decisions; waits while a service is unavailable."""
        stages, publisher = self._context.stages, self._context.publisher
        letters = [letter for commit in self._commits for letter in commit.dead_letters]
        if publisher is not None and letters:
            retry_until_available(partial(publisher.write_dead_letters, letters), self._wait_before_retry)
        with stages.timed("commit"):
            self._results = write_commits(self._commits, self._context.store, self._wait_before_retry)
        if publisher is not None:
            with stages.timed("publish"):
                for commit, result in zip(self._commits, self._results, strict=True):
                    if not isinstance(result, Fenced):
                        retry_until_available(partial(publisher.publish_commit, commit), self._wait_before_retry)
                retry_until_available(publisher.wait_acknowledged, self._wait_before_retry)
        self._note_publications()
        self._took_s = self._context.monotonic() - self._started

    def _note_publications(self) -> None:
        """Note in the store what is published; if it does not answer now, the next commit notes it.

        Called once everything has arrived. Partitions that were dropped meanwhile are left out: what was sent of them
        may have been forgotten.
        """
        written = [
            position
            for number, (position, result) in enumerate(zip(self._to_note, self._results, strict=True))
            if position is not None and not isinstance(result, Fenced)
            if not self._partitions[number].is_dropped
        ]
        if not written:
            return
        try:
            self._context.store.partitions.note_published(written)
        except Unavailable as error:
            _log.info("a publication is noted with the next commit", error=str(error))
        else:
            self._are_noted = True

    def give_up(self) -> None:
        """Stop retrying: `write` raises the error of a service that does not answer. Any thread may call this."""
        self._given_up = True

    def _wait_before_retry(self, error: Unavailable) -> None:
        if self._given_up:
            raise error
        self._partitions[0].wait_before_retry(error)

    def finish(self) -> dict[int, Fenced]:
        """Report the outcome of their commits to the partitions; return those that the store refused.

        A refused partition belongs to another worker: nothing of it was written, and the caller drops it.
        """
        refused: dict[int, Fenced] = {}
        for number, (partition, result) in enumerate(zip(self._partitions, self._results, strict=True)):
            if isinstance(result, Fenced):
                refused[partition.position.partition] = result
            else:
                is_noted = self._are_noted and self._to_note[number] is not None
                self._context.on_commit(partition.mark_committed(result, self._took_s, is_noted=is_noted))
        return refused


def write_commits(
    commits: Sequence[Commit], store: SqlStore, wait_before_retry: Callable[[Unavailable], None]
) -> list[CommitResult | Fenced]:
    """Commit; if the outcome is unknown, look it up before trying again, so that nothing is applied twice."""
    outcomes: dict[int, CommitResult | Fenced] = {}
    unwritten = list(commits)
    while unwritten:
        try:
            for commit, result in zip(unwritten, store.commit_all(unwritten), strict=True):
                outcomes[commit.position.partition] = result
            break
        except Unavailable as error:
            wait_before_retry(error)
        for commit in list(unwritten):
            position = commit.position
            if (
                position == commit.expected
            ):  # a decision commit: its outcome does not show, and writing it twice has no further effect
                continue
            stored = retry_until_available(partial(store.partitions.position, position.partition), wait_before_retry)
            if stored == position:
                outcomes[position.partition] = CommitResult(0)
                unwritten.remove(commit)
    return [outcomes[commit.position.partition] for commit in commits]
