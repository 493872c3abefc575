"""What partitions of one worker have applied becomes durable in one transaction, and is told.

A transaction costs much the same for one partition as for all, and so does a wait for brokers. Each partition keeps its
own compare-and-set: one that the store refuses does not hold the others up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..ingest.errors import Fenced, Unavailable
from .records import AgentRow, Commit, Decision, Position
from .store import CommitResult

if TYPE_CHECKING:
    from .partition import PartitionPipeline, PipelineContext


class CommittedChanges(NamedTuple):
    """What became durable, for the risk view: changed agents, decisions, and how far the partition is."""

    rows: Sequence[AgentRow]
    decisions: Sequence[Decision]
    position: Position
    dropped_dead_letters: int


def commit_partitions(works: Sequence[PartitionPipeline], around: PipelineContext) -> dict[int, Fenced]:
    """Commit everything that *works*, at least one, have applied; returns the partitions that the store refused.

    A refused one has lost its partition: nothing of it was written, and it is to be dropped.
    """
    stages, publisher, speaker = around.stages, around.publisher, works[0]
    started = around.monotonic()
    with stages.timed("rows"):
        commits = [work.build_commit() for work in works]
    letters = [letter for commit in commits for letter in commit.dead_letters]
    if publisher is not None and letters:
        speaker.retry_until_available(partial(publisher.write_dead_letters, letters))
    with stages.timed("commit"):
        results = write_commits(commits, speaker, around)
    done = [
        (work, commit, result.dropped_dead_letters)
        for work, commit, result in zip(works, commits, results, strict=True)
        if not isinstance(result, Fenced)
    ]
    for work, commit, _ in done:
        work.mark_committed(commit)
    with stages.timed("publish"):
        publish_commits([commit for _, commit, _ in done], speaker, around)
    took_s = around.monotonic() - started
    for work, commit, dropped in done:
        work.mark_published(took_s)
        around.on_commit(CommittedChanges(commit.agents, commit.decisions, commit.position, dropped))
    return {work.partition: one for work, one in zip(works, results, strict=True) if isinstance(one, Fenced)}


def publish_commits(commits: Sequence[Commit], speaker: PartitionPipeline, around: PipelineContext) -> None:
    """Tell the topics of all *commits*, then wait until it has arrived."""
    publisher = around.publisher
    if publisher is None:
        return
    for commit in commits:
        speaker.retry_until_available(partial(publisher.publish_commit, commit))
    speaker.retry_until_available(publisher.wait_acknowledged)


def write_commits(
    commits: Sequence[Commit], speaker: PartitionPipeline, around: PipelineContext
) -> list[CommitResult | Fenced]:
    """Commit; where the outcome is unknown, look before trying again, so that nothing is applied twice."""
    found: dict[int, CommitResult | Fenced] = {}
    left = list(commits)
    while left:
        try:
            for commit, result in zip(left, around.store.commit_all(left), strict=True):
                found[commit.position.partition] = result
            break
        except Unavailable as error:
            speaker.wait_before_retry(error)
        for commit in list(left):
            place = commit.position
            if place == commit.expected:  # nothing moves on, so nothing shows; written twice it is the same
                continue
            if speaker.retry_until_available(partial(around.store.position, place.partition)) == place:
                found[place.partition] = CommitResult(0)
                left.remove(commit)
    return [found[commit.position.partition] for commit in commits]
