"""Rounds of commits: commits of several partitions in one transaction, and what is published after it.

A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition has its
own compare-and-set: if the store refuses one, the others are still written.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import structlog

from trustwatch.ingest.errors import Fenced, Unavailable, retry_until_available

from ..records.commits import Position
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
        self, partitions: Sequence[PartitionCommits], context: PipelineContext, *, with_states: bool = True
    ) -> None:
        self._partitions = partitions
        self._context = context
        self._started = context.monotonic()
        with context.stages.timed("rows"):
            self._commits = [partition.begin(with_states=with_states) for partition in partitions]
        self._to_note = [partition.publication_to_note for partition in partitions]
        self._noted: set[int] = set()
        """Partitions of which the store knows that the positions in `_to_note` are published."""
        self._outcomes: dict[int, int | Fenced] = {}
        """By partition: the number of dropped dead letters, or the refusal of the store."""
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
            self._write_commits()
        if publisher is not None:
            with stages.timed("publish"):
                for commit in self._commits:
                    if self._is_written(commit.position):
                        retry_until_available(partial(publisher.publish_commit, commit), self._wait_before_retry)
                retry_until_available(publisher.wait_acknowledged, self._wait_before_retry)
        self._note_publications()
        self._took_s = self._context.monotonic() - self._started

    def _write_commits(self) -> None:
        """Commit; if the outcome is unknown, look it up before trying again, so that nothing is applied twice."""
        store, unwritten = self._context.store, self._commits
        while unwritten:
            try:
                results = store.commit_all(unwritten)
            except Unavailable as error:
                self._wait_before_retry(error)
            else:
                self._outcomes |= zip((commit.position.partition for commit in unwritten), results, strict=True)
                return
            unknown, unwritten = unwritten, []
            for commit in unknown:
                at = commit.position
                # The outcome of a decision commit does not show, and writing it twice has no further effect.
                if at != commit.expected and at == retry_until_available(
                    partial(store.partitions.position, at.partition), self._wait_before_retry
                ):
                    self._outcomes[at.partition] = 0
                else:
                    unwritten.append(commit)

    def _is_written(self, position: Position) -> bool:
        return not isinstance(self._outcomes[position.partition], Fenced)

    def _note_publications(self) -> None:
        """Note in the store what is published; if it does not answer now, the next commit notes it.

        Called once everything has arrived. Partitions that were dropped meanwhile are left out: what was sent of them
        may have been forgotten.
        """
        written = [
            position
            for partition, position in zip(self._partitions, self._to_note, strict=True)
            if position is not None and self._is_written(position) and not partition.is_dropped
        ]
        if not written:
            return
        try:
            self._context.store.partitions.note_published(written)
        except Unavailable as error:
            _log.info("a publication is noted with the next commit", error=str(error))
        else:
            self._noted = {position.partition for position in written}

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
        for partition in self._partitions:
            number = partition.position.partition
            outcome = self._outcomes[number]
            if isinstance(outcome, Fenced):
                refused[number] = outcome
            else:
                done = partition.mark_committed(outcome, self._took_s, is_noted=number in self._noted)
                self._context.on_commit(done)
        return refused
