"""Risk is published before its commit: whatever dies, sleeps or comes back, as of an offset there is one truth."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.published_risk import PublishedRisk, RiskByOffset, undisturbed_risk
from tests.support.publishing_partition import (
    PublishingPartition,
    busy_records,
    states_of,
    stored_states,
)
from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.source import PartitionOwner, Record, RecordBatch, RecordKind
from trustwatch.scoring.pipeline import partition_commits
from trustwatch.scoring.pipeline import pipeline as pipeline_module
from trustwatch.scoring.pipeline.commit_round import CommitRound, CommitThread
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.partition_commits import BACKLOG_S, PartitionCommits
from trustwatch.scoring.pipeline.pipeline import Pipeline
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.erasures import PartitionErasure
from trustwatch.scoring.records.models import ModelSwitch
from trustwatch.scoring.store.decision_store import verify_chains


@pytest.fixture(scope="module")
def truth(kit: Any, make: Any) -> RiskByOffset:
    """What the records say."""
    return undisturbed_risk(kit.processor(), busy_records(kit, make))


@pytest.fixture(scope="module")
def decided(kit: Any, make: Any) -> list[Decision]:
    """Decisions that the records lead to."""
    records = busy_records(kit, make)
    applied = kit.processor().apply(RecordBatch(0, 0, records))
    return sorted(applied.decisions, key=lambda decision: (decision.offset, decision.decision_id))


@pytest.fixture(scope="module")
def states(kit: Any, make: Any) -> dict[str, tuple[bytes, bytes, bytes]]:
    """States of agents that the records lead to."""
    processor = kit.processor()
    processor.apply(RecordBatch(0, 0, busy_records(kit, make)))
    return states_of(processor.engine.agent_states.changed_rows())


@pytest.fixture
def site(tmp_path: Path, kit: Any, make: Any) -> Iterator[PublishingPartition]:
    """A partition on an empty database."""
    made = PublishingPartition(tmp_path / "store.db", kit, busy_records(kit, make))
    yield made
    made.preloader.close()
    made.store.close()


def check_time_finds_all(work: PartitionPipeline) -> None:
    """Ticks look for agents whose risk time changes among those that are pinned alone."""
    builder, risk = work.agent_states.builder, work._processor.engine.risk
    slots = np.flatnonzero(builder.slots.keys)
    assert (builder.pinned[slots] == (risk["due_ms"][slots] != 0)).all()


@pytest.mark.parametrize(("seed", "many_agents"), [(0, 5_000), (1, 1), (2, 5_000), (3, 1), (4, 5_000), (5, 1)])
def test_whatever_was_published_is_what_the_records_say(
    site: PublishingPartition,
    truth: RiskByOffset,
    decided: list[Decision],
    states: dict[str, tuple[bytes, bytes, bytes]],
    seed: int,
    many_agents: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers die with commits begun, written or not; the one before goes on as a zombie; nothing goes back."""
    monkeypatch.setattr(partition_commits, "MANY_AGENTS", many_agents)
    dice, beside, zombies = random.Random(seed), random.Random(seed), PublishedRisk()

    def publish(position: Position, agents: Sequence[AgentSummary], erasures: object) -> None:
        """Whoever is not of the present epoch is a zombie."""
        present = position.epoch == site.store.partitions.position(0).epoch
        (site.risk if present else zombies).collect(position, agents, erasures)

    site.written = 0
    work, begun, asleep = site.worker(publish), None, None
    killed = fenced = 0
    while work.next_offset < len(site.records) or work.commits.has_uncommitted:
        site.written = min(len(site.records), site.written + dice.randrange(8))
        site.apply(work, dice.randrange(1, 12))
        check_time_finds_all(work)
        site.now += dice.random() * 0.05
        work.risk.publish_due(at_once=dice.random() < 0.2)
        if beside.random() < 0.3:
            site.preloader.step(None)
        if begun is None and work.commits.has_uncommitted and dice.random() < 0.4:
            begun = CommitRound([work.commits], work._context, with_states=beside.random() < 0.5)
        elif begun is not None and dice.random() < 0.5:
            begun.write()
            assert begun.finish() == {}
            begun = None
        if dice.random() < 0.08 and killed < 25:
            if begun is not None and dice.random() < 0.5:
                begun.write()  # it is in the database, and nobody knows
            killed, begun, asleep = killed + 1, None, work
            work = site.worker(publish)
        if asleep is not None and dice.random() < 0.5:
            try:
                site.apply(asleep, dice.randrange(1, 12))
                asleep.risk.publish_due(at_once=True)
            except Fenced:  # it had to read an agent, which may be further than it is
                asleep, fenced = None, fenced + 1
    assert killed > 4 and fenced and len(site.risk.published) > 100 and zombies.published
    levels = {agent.level for _, agent in site.risk.published}
    assert {RiskLevel.LOW, RiskLevel.CRITICAL} <= levels
    site.risk.check_never_goes_back()
    site.risk.check(truth)
    zombies.check(truth)
    assert list(site.store.decisions.iterate_unpublished(0, -1)) == decided
    assert verify_chains(site.store.decisions, site.store.erasures).intact
    work.finish()
    assert stored_states(site) == states


def test_decisions_are_durable_before_the_states_they_belong_to(site: PublishingPartition) -> None:
    """Who reads the store meanwhile goes by them; who takes over makes them again, and they stand there once."""
    site.written = 150
    first = site.worker(capacity=100)
    site.apply(first, 100)
    first.commit()
    site.apply(first, 50)
    first.risk.publish_due(at_once=True)
    CommitRound([first.commits], first._context, with_states=False).run()
    assert site.store.partitions.position(0) == Position(0, 1, 100) and first.commits.uncommitted_records == 50
    stored = {agent.name: agent for agent in site.store.agents.iterate()}
    newest = {agent.name: agent for _, agent in site.risk.published}
    decided = {one.agent: one for one in site.store.decisions.iterate_unpublished(0, 100)}
    ahead = {one.agent.name: one for one in site.store.agents.list_ahead(0)}
    assert decided and set(ahead) == set(decided)
    for name, one in ahead.items():
        assert (one.agent.level, one.agent.decision_id) == (newest[name].level, newest[name].decision_id)
        assert (one.epoch, one.offset) == (1, decided[name].offset + 1)
        assert site.store.agents.find_newest(name) == one.agent
    assert any(one.agent.level != stored[name].level for name, one in ahead.items())
    calm = next(name for name in stored if name not in ahead)
    assert site.store.agents.find_newest(calm) == stored[calm]
    links = site.store.decisions.chain_heads()
    second = site.worker()
    site.apply(second, 50)
    second.commit()
    assert site.store.decisions.chain_heads() == links and site.store.agents.list_ahead() == []
    assert {agent.name: agent for agent in site.store.agents.iterate()} == newest


def test_risk_shows_before_its_commit_and_the_commit_has_it(site: PublishingPartition) -> None:
    """A change of level is published at once; what a commit began with is in the store when it ends."""
    site.written = 30
    work = site.worker(capacity=100)
    site.apply(work, 30)
    work.risk.publish_due()
    told = dict((agent.name.agent_id, agent) for _, agent in site.risk.published)
    assert work.risk.offset == 30 and list(site.store.agents.iterate()) == []
    work.commit()
    assert {agent.name.agent_id: agent for agent in site.store.agents.iterate()} == told


def test_what_a_dead_worker_may_have_published_is_applied_first(site: PublishingPartition) -> None:
    """Up to the end of the log at the take-over nothing is published; what was committed meanwhile is, then."""
    work = site.worker()
    end = len(site.records)
    while work.next_offset < end - 1:
        site.apply(work, min(50, end - 1 - work.next_offset))
        work.risk.publish_due(at_once=True)
        work.commit()
    assert site.risk.published == [] and work.risk.offset == 0
    assert site.store.partitions.published_offset(0) == 0
    site.apply(work, 1)
    work.risk.publish_due(at_once=True)
    assert {agent.name for _, agent in site.risk.published} == {agent.name for agent in site.store.agents.iterate()}


def refuse(committed: object) -> None:
    """A store that does not answer."""
    raise Unavailable("the database does not answer")


def test_what_nobody_is_known_to_have_told_is_told_once_it_may_be(
    site: PublishingPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies while it is silent has committed what nobody told; the next one tells it, from the store."""
    site.written = 150
    silent = site.worker()
    site.apply(silent, 100)
    silent.commit()
    assert site.risk.published == [] and site.store.partitions.published_offset(0) == 0
    work = site.worker()
    work.risk.publish_due(at_once=True)
    assert site.risk.published == []
    site.apply(work, 60)
    work.risk.publish_due(at_once=True)
    work.commit()
    told = {agent.name.agent_id: agent for _, agent in site.risk.published}
    assert told == {agent.name.agent_id: agent for agent in site.store.agents.iterate()}
    site.written = 160
    monkeypatch.setattr(site.store.partitions, "note_published", refuse)
    site.apply(work, 10)
    work.commit()
    assert site.store.partitions.published_offset(0) == 150
    before = len(site.risk.published)
    again = site.worker()
    assert {agent.name.agent_id for _, agent in site.risk.published[before:]} == {
        one.agent.name.agent_id for one in site.store.agents.iterate_unpublished(0, 150)
    }
    assert again.risk.offset == 160


def test_after_a_clean_end_nothing_is_told_again(site: PublishingPartition) -> None:
    """A worker that hands its partition over notes that all is published."""
    site.written = 0
    work = site.worker()
    site.written = 160
    site.apply(work, 160)
    work.finish()
    assert site.store.partitions.published_offset(0) == 160
    before = len(site.risk.published)
    assert site.worker().risk.offset == 160
    assert 0 < before == len(site.risk.published)


def test_a_switch_of_models_at_the_take_over_publishes_nothing_of_others(site: PublishingPartition) -> None:
    """Its commit comes before anything is applied: what nobody is known to have told still is to be."""
    site.written = 150
    silent = site.worker()
    site.apply(silent, 100)
    silent.commit()
    processor = site.kit.processor(site.store.agents, 9)
    processor.model_switcher.pending_switches.append(ModelSwitch(0, 0, 100, "next", "digest", "digest", 1))
    work = PartitionPipeline(0, processor, site.context(site.risk.collect))
    work.take_over()
    assert site.store.models.list_switches(1)[0].version == "next"
    assert site.store.partitions.published_offset(0) == 0
    site.apply(work, 60)
    work.commit()
    assert {agent.name for _, agent in site.risk.published} == {agent.name for agent in site.store.agents.iterate()}


def test_erased_agents_are_told_of_when_the_silence_ends(site: PublishingPartition) -> None:
    """Also where the order was committed meanwhile; what was to be told of others has the name no more."""
    told: list[str] = []
    site.written = len(site.records)

    def publish(_position: Position, _agents: object, erasures: Sequence[PartitionErasure]) -> None:
        told.extend([*(f"gone {one.subject.name}" for one in erasures), "agents"])

    work = site.worker(publish)
    order = next(at for at, record in enumerate(site.records) if record.kind == RecordKind.FORGET)
    while work.next_offset < site.written:
        if order < work.next_offset < order + 30:
            work.commit()
        site.apply(work, 40)
    assert told == []
    work.risk.publish_due(at_once=True)
    assert told == ["gone agent-3", "agents"]


def test_who_may_have_lost_the_partition_asks_first(site: PublishingPartition) -> None:
    """A worker that was asleep does not know whether the partition is still its own; the store does."""
    site.written = 20
    work = site.worker()
    site.apply(work, 20)
    work.commit()
    site.written = 400
    known = len(site.risk.published)
    work.risk.confirm_first()
    site.apply(work, 20)
    ask = site.store.partitions.check_owner
    site.store.partitions.check_owner = raising(Unavailable("away"))  # type: ignore[method-assign]
    work.risk.publish_due(at_once=True)
    assert len(site.risk.published) == known and work.risk.offset == 20
    assert work.risk.due_in_s() > 1e9  # it is not asked again at once
    site.store.partitions.check_owner = ask  # type: ignore[method-assign]
    site.now += 1.0
    work.risk.publish_due(at_once=True)
    assert len(site.risk.published) > known and work.risk.offset == 40
    site.apply(work, 20)
    site.worker()
    work.risk.confirm_first()
    with pytest.raises(Fenced):
        work.risk.publish_due(at_once=True)


class TwoPartitions:
    """Hands out, in turns, batches of two partitions that hold the same records."""

    def __init__(self, records: list[Record], size: int) -> None:
        self._records, self._size, self._next, self._turn = records, size, {0: 0, 1: 0}, 0

    def join(self, owner: PartitionOwner) -> None:
        owner.assigned((0, 1))

    def end_offset(self, partition: int) -> int:
        return self._next[partition]  # the rest is written afterwards

    def read_id_hashes(self, _partition: int, start: int, end: int) -> Any:
        return np.array([record.id_hash for record in self._records[start:end]], np.uint64)

    def poll(self, _max_records: int, _timeout_s: float) -> RecordBatch | None:
        partition, self._turn = self._turn, 1 - self._turn
        begin = self._next[partition]
        self._next[partition] = min(begin + self._size, len(self._records))
        part = self._records[begin : begin + self._size]
        return RecordBatch(partition, begin, part) if part else None


@pytest.mark.parametrize("size", [39, 40])
def test_answers_wait_for_no_batch_of_another_partition_unless_there_is_a_backlog(
    site: PublishingPartition, kit: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Batches of 40 are full: more waits, and one publication of all partitions costs less."""
    told: list[str] = []
    context = site.context(lambda position, *_: told.append(f"risk of {position.partition}"))
    source: Any = TwoPartitions(site.records[:200], size)

    def make_processor(partition: int) -> Any:
        made = kit.processor(site.store.agents, 9)
        apply = made.apply
        made.apply = lambda batch: (told.append(f"batch of {partition}"), apply(batch))[1]
        return made

    group = Pipeline(source, context._replace(source=source), make_processor)
    group.start()
    for _ in range(2):  # of each partition the first publication waits for nothing
        site.now += 10.0
        told.clear()
        assert group.step() == 2 * size
    assert told == (
        ["batch of 0", "batch of 1", "risk of 0", "risk of 1"]
        if size == 40
        else ["batch of 0", "risk of 0", "batch of 1", "risk of 1"]
    )
    assert not any(pipeline.commits.worker_has_many for pipeline in group._partitions.values())
    monkeypatch.setattr(pipeline_module, "MANY_RECORDS", 2 * size)
    group.step()
    assert all(pipeline.commits.worker_has_many for pipeline in group._partitions.values())
    commits = [pipeline.commits for pipeline in group._partitions.values()]
    assert all(partition.backlogged == (size == 40) for partition in commits)
    site.now += BACKLOG_S
    assert not any(partition.backlogged for partition in commits)
    group.finish()
    group.close()


def test_states_of_one_partition_after_the_other_and_decisions_between(
    site: PublishingPartition, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait for the rows of one partition at most, and what is told for one commit of states."""
    context = site.context(lambda *_: None, commit_interval_s=20.0, commit_share=0.0)
    source: Any = TwoPartitions(site.records, 20)
    group = Pipeline(source, context._replace(source=source), lambda _: kit.processor(site.store.agents, 9))
    group.start()
    begun: list[tuple[list[int], bool]] = []
    start = group._commits.start

    def begin(commits: Sequence[PartitionCommits], *, with_states: bool) -> None:
        begun.append(([commit.position.partition for commit in commits], with_states))
        start(commits, with_states=with_states)

    monkeypatch.setattr(group._commits, "start", begin)
    collect = group._commits.collect
    monkeypatch.setattr(group._commits, "collect", lambda _timeout_s=0.0: collect(None))  # each step finds it written
    group.step()
    site.now += 20.0
    for _ in range(5):
        group.step()
        site.now += 0.001
    assert begun[0] == ([0, 1], False)
    assert [partitions for partitions, with_states in begun if with_states] == [[0], [1]]
    assert all(earlier != later for earlier, later in itertools.pairwise(with_states for _, with_states in begun))
    offsets = {position.partition: position.offset for position in site.store.partitions.list_positions()}
    assert set(offsets) == {0, 1} and all(offsets.values())
    monkeypatch.setattr(partition_commits, "MAX_UNCOMMITTED_RECORDS", 1)
    begun.clear()
    group.step()
    assert begun == [([0, 1], True)]
    group.finish()
    group.close()


def raising(error: Exception) -> Callable[[Position], None]:
    def call(_owner: Position) -> None:
        raise error

    return call


def test_publishing_takes_its_share_of_the_time(site: PublishingPartition, kit: Any, make: Any) -> None:
    """What the last one took over the share: so long is waited; a change of level waits for nothing."""
    start = make.START_MS + 10**9
    site.records = kit.records([make.event(n, 1, start + n * 600_000) for n in range(300)])
    site.written = 0
    costs_s = iter((0.0, 0.0, 0.004, 0.02, 0.0))

    def publish(position: Position, agents: Sequence[AgentSummary], _erasures: object) -> None:
        site.now += next(costs_s)
        site.risk.collect(position, agents)

    work = site.worker(publish, capacity=100)
    site.written = 300
    site.apply(work, 250)
    work.risk.publish_due(at_once=True)
    for wait_s in (0.005, 0.02, 0.1):
        site.apply(work, 1)
        assert work.risk.due_in_s() == pytest.approx(wait_s)
        site.now += wait_s * 0.9
        before = len(site.risk.published)
        work.risk.publish_due()
        assert len(site.risk.published) == before
        site.now += wait_s * 0.2
        work.risk.publish_due()
        assert len(site.risk.published) == before + 1


def test_the_thread_of_commits_writes_beside(site: PublishingPartition) -> None:
    """The pipeline goes on meanwhile; what it changes is in the next round; an error comes back to it."""
    work = site.worker(capacity=100)
    thread = CommitThread(work._context)
    site.apply(work, 30)
    thread.start([work.commits], with_states=True)
    site.apply(work, 30)
    assert thread.busy
    assert thread.collect(None) == {} and not thread.busy
    assert site.committed == [30] and work.commits.has_uncommitted
    other = site.worker()
    thread.start([work.commits], with_states=True)
    (refused,) = thread.collect(None).values()
    assert isinstance(refused, Fenced)
    assert site.store.partitions.position(0) == Position(0, other.position.epoch, 30)
    thread.close()


def test_a_worker_that_ends_waits_for_no_database(site: PublishingPartition) -> None:
    """What is being written while the database is away is given up; the next owner reads it again."""
    work, asked = site.worker(capacity=100), threading.Event()

    def away(_commits: object) -> list[int | Fenced]:
        asked.set()
        raise Unavailable("away")

    site.store.commit_all, commit_all = away, site.store.commit_all  # type: ignore[method-assign]
    work._context = work._context._replace(sleep=lambda _seconds: None)
    thread = CommitThread(work._context)
    site.apply(work, 30)
    thread.start([work.commits], with_states=True)
    assert asked.wait(10)
    thread.close()
    with pytest.raises(Unavailable):
        thread.collect(None)
    site.store.commit_all = commit_all  # type: ignore[method-assign]
    work.finish()
    assert site.store.partitions.position(0).offset == 30


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions count as large with one agent."""
    monkeypatch.setattr(partition_commits, "MANY_AGENTS", 1)


@pytest.mark.usefixtures("many")
def test_of_many_agents_the_store_knows_at_once_what_is_published(site: PublishingPartition) -> None:
    """Who takes over from a killed worker has nothing to look for among the rows, and the end writes nothing more."""
    site.written = 0
    work = site.worker()
    site.written = 160
    site.apply(work, 100)
    work.commit()
    assert site.store.partitions.published_offset(0) == 100 and not work.commits.has_unnoted_publication
    before = len(site.risk.published)
    again = site.worker()
    assert before == len(site.risk.published)
    site.apply(again, 60)
    again.finish()
    assert site.store.partitions.published_offset(0) == 160 == again.risk.offset
    told = {agent.name: agent for _, agent in site.risk.published}
    assert told == {agent.name: agent for agent in site.store.agents.iterate()}


@pytest.mark.usefixtures("many")
def test_what_is_not_published_is_not_noted(site: PublishingPartition) -> None:
    """A worker that has to be silent commits without a note; its successor tells what is in the rows."""
    site.written = 150
    silent = site.worker()
    site.apply(silent, 100)
    silent.commit()
    assert site.store.partitions.published_offset(0) == 0
    work = site.worker()
    site.apply(work, 60)
    work.commit()
    told = {agent.name.agent_id: agent for _, agent in site.risk.published}
    assert told == {agent.name.agent_id: agent for agent in site.store.agents.iterate()}


@pytest.mark.usefixtures("many")
def test_a_note_that_can_not_be_written_goes_with_the_next_commit(
    site: PublishingPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is; how much of it is published the store learns later."""
    site.written = 0
    work = site.worker()
    site.written = 160

    with monkeypatch.context() as patched:
        patched.setattr(site.store.partitions, "note_published", refuse)
        site.apply(work, 100)
        work.commit()
        assert work.position.offset == 100 and work.commits.has_unnoted_publication
        assert site.store.partitions.published_offset(0) == 0
        site.apply(work, 30)
        work.commit()
    assert site.store.partitions.published_offset(0) == 100
    work.finish()
    assert site.store.partitions.published_offset(0) == 130 and not work.commits.has_unnoted_publication
