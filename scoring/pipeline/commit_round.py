"""Rounds of commits: what partitions have to write, in one transaction, and what is published behind it.

Checkpoints are written before the transaction that names them, and those that it ends are removed behind it. So a crash
leaves files that nobody needs at most, which the next owner removes. Where one can not be written the round writes the
decisions of its partition alone: what acts on the outside needs the database, and no other store.

A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition keeps its
own compare-and-set: one that the store refuses does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import structlog
from msgspec.structs import replace

from trustwatch.ingest.errors import ConfigError, Fenced, Unavailable
from trustwatch.ingest.retry import Answer, retry_until_available

from ..records.commits import Commit, Position
from ..store.checkpoint_files import CheckpointFiles
from ..store.sql_store import CommitResult, SqlStore
from .partition_commits import PartitionCommits
from .pipeline_context import PipelineContext

_log = structlog.get_logger(__name__)

AWAY_S = 60.0
"""Time for which no checkpoint is written or removed after one could not be, s: each try may cost seconds, and
decisions wait."""


class CommitRound:
    """Commits of partitions, at least one, in one transaction; then their decisions are published.

    It is made and finished by the thread of the pipeline; `write` may be called by another one meanwhile.

    Args:
        partitions: what they have applied is committed.
        context: what they share.
        with_states: False = their decisions alone.
        with_rows: True = no checkpoints: the rows of all agents that changed are written.
    """

    def __init__(
        self,
        partitions: Sequence[PartitionCommits],
        context: PipelineContext,
        *,
        with_states: bool = True,
        with_rows: bool = False,
    ) -> None:
        self._partitions = partitions
        self._context = context
        self._started = context.monotonic()
        with context.stages.timed("rows"):
            self._commits = [partition.begin(with_states=with_states, with_rows=with_rows) for partition in partitions]
        self._to_note = [partition.publication_to_note for partition in partitions]
        self._are_noted = False
        """True once the store knows that what is in `_to_note` is published."""
        self._postponed: set[int] = set()
        """Places of commits whose checkpoint could not be written."""
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
        self._write_checkpoints()
        with stages.timed("commit"):
            self._results = write_commits(self._commits, self._context.store, self._wait_before_retry)
        if publisher is not None:
            with stages.timed("publish"):
                for commit, result in zip(self._commits, self._results, strict=True):
                    if not isinstance(result, Fenced):
                        retry_until_available(partial(publisher.publish_commit, commit), self._wait_before_retry)
                retry_until_available(publisher.wait_acknowledged, self._wait_before_retry)
        self._note_publications()
        self._remove_ended_checkpoints()
        self._took_s = self._context.monotonic() - self._started

    def _note_publications(self) -> None:
        """Tell the store that all is published; where it does not answer now, the next commit tells it.

        Called once all has arrived. What was sent of a partition that was dropped meanwhile may have been forgotten
        instead: it is marked before that, and left out here.
        """
        written = [
            position
            for number, (position, result) in enumerate(zip(self._to_note, self._results, strict=True))
            if position is not None and number not in self._postponed and not isinstance(result, Fenced)
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

    def _write_checkpoints(self) -> None:
        """Write the checkpoints of the commits, and have the commits name them.

        Where one can not be written its commit is one of decisions, and the next one of states has rows.
        """
        files, counts = self._context.checkpoints, self._context.stages.counts
        for number, commit in enumerate(self._commits):
            if files is None or not commit.checkpointed:
                continue
            try:
                with self._context.stages.timed("checkpoint"):
                    checkpoint = _ask(files, partial(files.write, commit.position, commit.checkpointed), self._context)
            except Unavailable as error:
                self._postpone(number, error)
                continue
            self._commits[number] = replace(commit, checkpointed=(), checkpoint=checkpoint)
            counts["checkpoints"] += 1
            counts["checkpoint_bytes"] += checkpoint.content_bytes

    def _postpone(self, number: int, error: Unavailable) -> None:
        commit = self._commits[number]
        _log.warning(
            "a checkpoint can not be written now; rows are written instead",
            partition=commit.position.partition,
            error=str(error),
        )
        self._context.stages.counts["checkpoints_postponed"] += 1
        self._postponed.add(number)
        self._commits[number] = Commit(
            commit.expected, commit.expected, [], commit.decisions, commit.outbox, [], commit.published, commit.edges
        )

    def _remove_ended_checkpoints(self) -> None:
        """Remove files that nobody needs any more."""
        files = self._context.checkpoints
        for commit, result in zip(self._commits, self._results, strict=True):
            if files is None or not commit.ends_checkpoints or isinstance(result, Fenced):
                continue
            remove_ended_checkpoints(files, commit.position, self._context)

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
            elif number in self._postponed:
                self._context.on_commit(partition.postpone(result))
            else:
                is_noted = self._are_noted and self._to_note[number] is not None
                self._context.on_commit(partition.mark_committed(result, self._took_s, is_noted=is_noted))
        return refused


def remove_ended_checkpoints(files: CheckpointFiles, position: Position, context: PipelineContext) -> None:
    """Remove files that nobody needs from *position* on; those that can not be removed now are the next time."""
    try:
        _ask(files, partial(files.remove_up_to, position), context)
    except (ConfigError, Unavailable) as error:
        context.stages.counts["checkpoints_not_removed"] += 1
        _log.warning("checkpoints can not be removed now", partition=position.partition, error=str(error))


def _ask(files: CheckpointFiles, call: Callable[[], Answer], context: PipelineContext) -> Answer:
    """Ask the place of checkpoints, unless it failed to answer not long ago. Raises Unavailable, and as *call*."""
    if files.is_away(context.monotonic()):
        raise Unavailable(f"their place did not answer in the last {AWAY_S:g} s")
    try:
        return call()
    except Unavailable:
        files.leave_alone_until(context.monotonic() + AWAY_S)
        raise


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
