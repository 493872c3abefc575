"""Rounds of commits: what partitions have to write, in one transaction, and what is published behind it.

A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition keeps its
own compare-and-set: one that the store refuses does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.retry import retry_until_available

from ..records.commits import Commit
from ..store.sql_store import CommitResult, SqlStore
from .partition_commits import PartitionCommits
from .pipeline_context import PipelineContext

_log = structlog.get_logger(__name__)


class CommitRound:
    """Commits of partitions, at least one, in one transaction; then their decisions are published.

    It is made and finished by the thread of the pipeline; `write` may be called by another one meanwhile.
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
        """True once the store knows that what is in `_to_note` is published."""
        self._results: list[CommitResult | Fenced] = []
        self._took_s = 0.0
        self._given_up = False

    def run(self) -> dict[int, Fenced]:
        """Write and finish; see `finish`."""
        self.write()
        return self.finish()

    def write(self) -> None:
        """Write the commits and publish what may leave once they are written; waits while a service is away."""
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
        """Tell the store that all is published; where it does not answer now, the next commit tells it.

        Called once all has arrived. What was sent of a partition that was dropped meanwhile may have been forgotten
        instead: it is marked before that, and left out here.
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
        """Try no more once a service does not answer: `write` raises its error. Another thread may call this."""
        self._given_up = True

    def _wait_before_retry(self, error: Unavailable) -> None:
        if self._given_up:
            raise error
        self._partitions[0].wait_before_retry(error)

    def finish(self) -> dict[int, Fenced]:
        """Tell the partitions what became of their commits; returns those that the store refused.

        A refused one has lost its partition: nothing of it was written, and it is to be dropped.
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
    """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
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
            if position == commit.expected:  # nothing moves on, so nothing shows; written twice it is the same
                continue
            stored = retry_until_available(partial(store.partitions.position, position.partition), wait_before_retry)
            if stored == position:
                outcomes[position.partition] = CommitResult(0)
                unwritten.remove(commit)
    return [outcomes[commit.position.partition] for commit in commits]
