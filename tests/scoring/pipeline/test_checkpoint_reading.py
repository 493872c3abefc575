"""Partitions that wait for their checkpoints: nothing of them is applied, and their worker goes on with all others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.support.publishing_partition import (
    POLICY,
    CountedCheckpointFiles,
    PublishingPartition,
    busy_records,
    states_of,
    stored_states,
    take_over,
)
from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint, Unavailable
from trustwatch.ingest.source import PartitionOwner, Record, RecordBatch
from trustwatch.scoring.pipeline.checkpoint_reading import CheckpointReader
from trustwatch.scoring.pipeline.commit_round import AWAY_S, CommitRound
from trustwatch.scoring.pipeline.group_pipeline import RECLAIM_AFTER_S, ConsumerGroupPipeline
from trustwatch.scoring.pipeline.partition import LOG_OUTAGE_EVERY_S, PartitionPipeline
from trustwatch.scoring.pipeline.settings import PipelineTuning
from trustwatch.scoring.pipeline.single_partition import SinglePartitionPipeline
from trustwatch.scoring.records.commits import Position

CHECKPOINTED, OTHER = 0, 1
COMMITTED = 190
"""Offset as of which the states of the checkpointed partition are stored."""


class GroupOfOne:
    """A source whose partitions are all one worker's, and go when a test says so."""

    def __init__(self, records: dict[int, list[Record]]) -> None:
        self.records = records
        self.next: dict[int, int] = {}
        """Offset of the next record of each partition that is not paused."""
        self.ours: set[int] = set()
        self._owner: PartitionOwner | None = None

    def join(self, owner: PartitionOwner) -> None:
        self._owner = owner
        self.assign(self.records)

    def assign(self, partitions: Collection[int]) -> None:
        assert self._owner is not None
        self.next.update(self._owner.assigned(partitions))
        self.ours |= set(partitions)

    def take_away(self, partition: int, how: str) -> None:
        self.ours.remove(partition)
        self.next.pop(partition, None)
        getattr(self._owner, how)((partition,))

    def owned(self) -> frozenset[int]:
        return frozenset(self.ours)

    def pause(self, partition: int) -> None:
        self.next.pop(partition, None)

    def seek(self, partition: int, offset: int) -> None:
        assert partition in self.ours
        self.next[partition] = offset

    def poll(self, most: int, _timeout_s: float) -> RecordBatch | None:
        for partition, begin in sorted(self.next.items(), key=lambda item: item[1]):
            if part := self.records[partition][begin : begin + most]:
                self.next[partition] = begin + len(part)
                return RecordBatch(partition, begin, part)
        return None

    def end_offset(self, partition: int) -> int:
        return len(self.records[partition])

    def read_id_hashes(self, partition: int, start: int, end: int) -> Any:
        return np.array([record.id_hash for record in self.records[partition][start:end]], np.uint64)

    def close(self) -> None:
        pass


class KilledWorkerSite:
    """A worker died and left its states in checkpoints; the next one has another partition besides."""

    def __init__(self, folder: Path, kit: Any, make: Any) -> None:
        self.folder = folder / "checkpoints"
        files = CountedCheckpointFiles(self.folder)
        self.site = PublishingPartition(folder / "store.db", kit, busy_records(kit, make), files)
        self.site.sleep = time.sleep  # type: ignore[method-assign]
        self.objects, self.store = files.objects, self.site.store
        others = kit.records([make.event(n, f"other-{n % 5}", make.START_MS + n) for n in range(1, 120)])
        self.source = GroupOfOne({CHECKPOINTED: self.site.records, OTHER: others})
        work = self.site.worker(capacity=100)
        for size in (100, COMMITTED - 100):
            self.site.apply(work, size)
            work.risk.publish_due(at_once=True)
            CommitRound([work.commits], work._context, with_rows=size == 100).run()
        assert self.store.checkpoints.partitions() == [CHECKPOINTED]
        self.told: list[tuple[int, int]] = []

    def group(self) -> ConsumerGroupPipeline:
        """The next worker of both partitions."""
        context = self.site.context(lambda at, *_: self.told.append((at.partition, at.offset)))
        source: Any = self.source
        return ConsumerGroupPipeline(
            source, context._replace(source=source), lambda _: self.site.kit.processor(self.store.agents, 100)
        )

    def step_until(self, work: Any, done: Callable[[], Any]) -> None:
        """Let it work until *done*, while time passes."""
        deadline = time.monotonic() + 60.0
        while not done():
            assert time.monotonic() < deadline
            work.step()
            self.site.now += 0.1
            time.sleep(0.001)

    def undisturbed(self) -> dict[str, tuple[bytes, bytes, bytes]]:
        """States of the agents of the checkpointed partition behind all records."""
        processor = self.site.kit.processor()
        processor.apply(RecordBatch(CHECKPOINTED, 0, self.site.records))
        return states_of(processor.engine.agent_states.changed_rows())

    def stored(self) -> dict[str, tuple[bytes, bytes, bytes]]:
        return {name: row for name, row in stored_states(self.site).items() if not name.startswith("other-")}

    def close(self) -> None:
        self.site.preloader.close()
        self.store.close()


@pytest.fixture
def killed(tmp_path: Path, kit: Any, make: Any) -> Iterator[KilledWorkerSite]:
    made = KilledWorkerSite(tmp_path, kit, make)
    yield made
    made.close()


def away(*_: object) -> None:
    raise Unavailable("no answer")


def test_one_partition_waits_and_the_others_go_on(killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is claimed, and neither read nor published until its states are there; then all is as if undisturbed."""
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(killed.objects, "get", away)
        group, epoch = killed.group(), killed.store.partitions.position(CHECKPOINTED).epoch
        group.start()
        killed.step_until(group, lambda: (OTHER, 119) in killed.told)
        killed.step_until(group, lambda: killed.site.now > 100.0 + LOG_OUTAGE_EVERY_S * 1.5)
        told = [log["partitions"] for log in logs if "can not be read now" in log["event"]]
        assert len(told) == 2 and told[0] == [CHECKPOINTED]
    assert killed.store.partitions.position(CHECKPOINTED) == Position(CHECKPOINTED, epoch + 1, COMMITTED)
    assert group.partitions_waiting == 1 and {partition for partition, _ in killed.told} == {OTHER}
    waits, goes_on = group.progress().values()
    assert (waits.behind, waits.received_ms, waits.idle) == (len(killed.site.records) - COMMITTED, 0, False)
    assert (goes_on.behind, goes_on.idle) == (0, True)
    killed.step_until(group, lambda: (CHECKPOINTED, len(killed.site.records)) in killed.told)
    assert group.partitions_waiting == 0
    group.finish()
    group.close()
    assert killed.stored() == killed.undisturbed()
    assert killed.store.partitions.position(CHECKPOINTED).epoch == epoch + 1
    assert killed.store.checkpoints.partitions() == [] and killed.objects.list_names("partition-") == []


def test_a_place_that_hangs_holds_nobody_up(killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the other partition, and not the worker that has to give the waiting one back meanwhile."""
    answer, get = threading.Event(), killed.objects.get
    monkeypatch.setattr(killed.objects, "get", lambda name: (answer.wait(60.0), get(name))[1])
    group = killed.group()
    group.start()
    killed.step_until(group, lambda: (OTHER, 119) in killed.told)
    killed.source.take_away(CHECKPOINTED, "revoked")
    assert group.partitions_waiting == 0 and group.progress().keys() == {OTHER}
    answer.set()
    group.finish()
    group.close()
    assert {partition for partition, _ in killed.told} == {OTHER}


def test_it_goes_on_between_two_commits(killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin with one of its own, and two at a time would take each other's decisions as acknowledged."""
    commits, busy = threading.Event(), []
    commit_all, get, resume = killed.store.commit_all, killed.objects.get, PartitionPipeline.resume

    def commit_slowly(*given: Any) -> Any:
        commits.set()
        time.sleep(0.3)
        return commit_all(*given)

    def note_busy(work: PartitionPipeline, *given: Any) -> int:
        busy.append((work.partition, group._commits.busy))
        return resume(work, *given)

    monkeypatch.setattr(killed.store, "commit_all", commit_slowly)
    monkeypatch.setattr(killed.objects, "get", lambda name: (commits.wait(60.0), get(name))[1])
    monkeypatch.setattr(PartitionPipeline, "resume", note_busy)
    group = killed.group()
    group.start()
    killed.step_until(group, lambda: (CHECKPOINTED, len(killed.site.records)) in killed.told)
    group.finish()
    group.close()
    assert commits.is_set() and busy == [(OTHER, False), (CHECKPOINTED, False)]
    assert killed.stored() == killed.undisturbed()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_no_further_file_is_read_for_nobody(
    killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A partition that was handed back, or a worker that ends, waits for one file at most."""
    asked, answer, get = [], threading.Event(), killed.objects.get
    monkeypatch.setattr(killed.objects, "get", lambda name: (asked.append(name), answer.wait(60.0), get(name))[2])
    context = killed.site.context(lambda *_: None)
    work = PartitionPipeline(CHECKPOINTED, killed.site.kit.processor(killed.store.agents, 9), context)
    work.checkpoints = killed.store.checkpoints.list_all() * 3
    reader = CheckpointReader(context)
    assert reader.begin(work)
    while not asked:
        time.sleep(0.001)
    ending = threading.Thread(target=reader.close)
    if how == "stop":
        assert reader.stop(CHECKPOINTED) and reader.waiting == {}
    ending.start()
    while reader.waiting:
        time.sleep(0.001)
    answer.set()
    ending.join(60.0)
    assert not ending.is_alive() and len(asked) == 1


@pytest.mark.parametrize("how", ["revoked", "lost"])
def test_a_waiting_partition_that_goes_is_left_as_it_is(
    killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its checkpoints stay for the next owner, which may be the same worker."""
    before = killed.store.checkpoints.list_all()
    group = killed.group()
    with monkeypatch.context() as patch:
        patch.setattr(killed.objects, "get", away)
        group.start()
        killed.step_until(group, lambda: (OTHER, 119) in killed.told)
        killed.source.take_away(CHECKPOINTED, how)
    killed.step_until(group, lambda: killed.site.now > 110.0)
    assert group.progress().keys() == {OTHER} and killed.store.checkpoints.list_all() == before
    killed.source.assign([CHECKPOINTED])
    killed.step_until(group, lambda: (CHECKPOINTED, len(killed.site.records)) in killed.told)
    group.finish()
    group.close()
    assert killed.stored() == killed.undisturbed()


def test_who_lost_the_partition_while_it_waited_is_refused(
    killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next owner has ended the checkpoints: their files are gone, not damaged."""
    group = killed.group()
    with monkeypatch.context() as patch:
        patch.setattr(killed.objects, "get", away)
        group.start()
        killed.step_until(group, lambda: (OTHER, 119) in killed.told)
    killed.site.worker(capacity=100).finish()
    assert killed.objects.list_names("partition-") == []
    killed.step_until(group, lambda: group.stages.counts["fenced"])
    assert group.partitions_waiting == 0 and {partition for partition, _ in killed.told} == {OTHER}
    assert killed.source.next.keys() == {OTHER}
    killed.site.now += RECLAIM_AFTER_S  # the group still calls it ours
    killed.step_until(group, lambda: (CHECKPOINTED, len(killed.site.records)) in killed.told)
    group.finish()
    group.close()
    assert killed.stored() == killed.undisturbed()


def damage(killed: KilledWorkerSite) -> None:
    (name,) = killed.objects.list_names("partition-")
    killed.objects.put(name, b"something else")


def give_away(killed: KilledWorkerSite) -> None:
    killed.objects.put("deployment", b"another one")
    killed.site.checkpoints = CountedCheckpointFiles(killed.folder, "this one")


@pytest.mark.parametrize(
    ("harm", "error", "told"),
    [
        (damage, CorruptCheckpoint, "is not what was written"),
        (give_away, ConfigError, "the place is another database's"),
    ],
)
def test_what_waiting_would_not_mend_ends_the_worker(
    killed: KilledWorkerSite, harm: Callable[[KilledWorkerSite], None], error: type[Exception], told: str
) -> None:
    """A file that is damaged, and a place that turns out to be another deployment's once it answers."""
    harm(killed)
    group = killed.group()
    group.start()
    with pytest.raises(error, match=told):
        killed.step_until(group, lambda: False)
    group.close()


def test_the_only_partition_waits_too(killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker goes on to report, and can be stopped."""

    def worker() -> SinglePartitionPipeline:
        context, told = killed.site.context(lambda *_: None), lambda *_: killed.told.append((0, 0))
        return SinglePartitionPipeline(
            killed.source,  # type: ignore[arg-type]
            killed.site.kit.processor(killed.store.agents, 100),
            killed.store,
            POLICY,
            context.settings,
            context.monotonic,
            context.sleep,
            context.on_commit,
            on_risk=told,
            tuning=PipelineTuning(poll_s=0.001),
            checkpoints=killed.site.checkpoints,
        )

    killed.source.records, killed.source.ours = {0: killed.site.records}, {0}
    stopped, before = worker(), killed.store.checkpoints.list_all()
    with monkeypatch.context() as patch:
        patch.setattr(killed.objects, "get", away)
        stopped.start()
        killed.step_until(stopped, lambda: killed.site.now > 110.0)
        assert (stopped.step(), stopped.partitions_waiting, stopped.position.offset) == (0, 1, COMMITTED)
        stopped.finish()
        stopped.close()
    assert killed.store.checkpoints.list_all() == before and killed.told == []
    heir = worker()
    heir.start()
    killed.step_until(heir, lambda: heir.risk_offset == len(killed.site.records))
    heir.finish()
    heir.close()
    assert killed.stored() == killed.undisturbed() and killed.told != []


def test_files_that_nobody_needs_hold_no_take_over_up(
    killed: KilledWorkerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are removed beside it; while their place does not answer they stay, and it is left alone."""
    files = killed.site.checkpoints
    assert files is not None
    take_over_alone(killed, OTHER)
    asked = []
    monkeypatch.setattr(killed.objects, "list_names", lambda prefix: (asked.append(prefix), away()))
    left = files.write(Position(OTHER, 1, 7), [])
    for partition in (OTHER, 2):
        work = take_over_alone(killed, partition)
        assert work._context.stages.counts["checkpoints_not_removed"] == 1
    assert asked == ["partition-000001/"] and files.is_away(killed.site.now)
    monkeypatch.undo()
    killed.site.now += AWAY_S
    take_over_alone(killed, OTHER)
    assert left.name not in killed.objects.list_names("")


def take_over_alone(killed: KilledWorkerSite, partition: int) -> PartitionPipeline:
    killed.source.records.setdefault(partition, [])
    context = killed.site.context(lambda *_: None)._replace(source=killed.source)  # type: ignore[arg-type]
    work = PartitionPipeline(partition, killed.site.kit.processor(killed.store.agents, 9), context)
    take_over(work)
    return work
