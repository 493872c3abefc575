"""When commits are made, and that it changes nothing: state is a function of the records alone."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from tests.support.fixed_source import FixedSource
from trustwatch.ingest.errors import Fenced, Unavailable
from trustwatch.ingest.source import Record, RecordBatch
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.pipeline import partition_commits
from trustwatch.scoring.pipeline.commit_round import CommitRound
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext
from trustwatch.scoring.pipeline.processor import AppliedBatch, StageMetrics
from trustwatch.scoring.pipeline.settings import DEFAULT_TUNING, PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.decisions import Decision
from trustwatch.scoring.records.feedback import FeedbackRule
from trustwatch.scoring.store.partition_store import forget_event_ids
from trustwatch.scoring.store.sql_schema import EVENT_IDS
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

HOUR = 3_600_000


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Stopped(Exception):
    """The process was told to end while it waited."""


class PartitionTestbed:
    """One partition on a database of its own."""

    def __init__(
        self, path: Path, kit: Any, records: list[Record], tuning: PipelineTuning = DEFAULT_TUNING, **settings: Any
    ) -> None:
        self.kit, self.clock, self.source = kit, Clock(), FixedSource(records)
        self.store: SqlStore = open_store(sqlite_url(path))
        chosen = {"batch_size": 10} | {name: settings.pop(name) for name in PipelineTuning._fields if name in settings}
        self.settings, self.tuning = PipelineSettings(**settings), tuning._replace(**chosen)
        self.commits: list[int] = []
        self.sleep: Callable[[float], None] = lambda _seconds: None

    def around(self, store: Any = None) -> PipelineContext:
        return PipelineContext(
            self.source,
            store or self.store,
            LivePolicy(PolicyBook()),
            self.settings,
            self.clock,  # type: ignore[arg-type]
            self._sleep,
            self._committed,
            StageMetrics(self.clock),
            tuning=self.tuning,
        )

    def start(self, *, store: Any = None, capacity: int = 4, partition: int = 0) -> PartitionPipeline:
        work = PartitionPipeline(
            partition, self.kit.processor((store or self.store).agents, capacity), self.around(store)
        )
        work.take_over()
        return work

    def _sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def _committed(self, done: Any) -> None:
        self.commits.append(done.position.offset)

    def batch(self, work: PartitionPipeline, size: int) -> RecordBatch:
        return RecordBatch(0, work.next_offset, self.source.records[work.next_offset :][:size])

    def state(self) -> tuple[Any, ...]:
        keys = [summary.name.key for summary in self.store.agents.iterate()]
        return self.store.agents.load(keys), {d.decision_id: d for d in self.store.decisions.iterate_unpublished(0, -1)}


@pytest.fixture
def site(tmp_path: Path, kit: Any) -> Iterator[Callable[..., PartitionTestbed]]:
    made: list[PartitionTestbed] = []

    def make(records: list[Record], **settings: Any) -> PartitionTestbed:
        made.append(PartitionTestbed(tmp_path / f"{len(made)}.db", kit, records, **settings))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def commit_if_due(work: PartitionPipeline) -> None:
    if work.commits.states_due or work.commits.decisions_due:
        begun = CommitRound([work.commits], work._context, with_states=work.commits.states_due)
        assert begun.run() == {}


def history(kit: Any, make: Any) -> list[Record]:
    """Events with oddities, bad records, and ticks that let levels fall, of more agents than fit in memory."""
    events = kit.records(make.stream(11, 400, odd=0.15))
    records: list[Record] = []
    for number, record in enumerate(events):
        records.append(record)
        if number % 37 == 36:
            records.append(Record(0, number + 1, record.received_ms, b"rubbish"))
            records.append(kit.tick(record.received_ms + 3 * HOUR))
    return [*records, kit.tick(records[-1].received_ms + 48 * HOUR)]


@pytest.mark.parametrize("seed", range(4))
def test_the_moments_of_commits_change_nothing(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any, seed: int
) -> None:
    """With commits at any moments, and restarts between them, agents and decisions are byte for byte the same."""
    records = history(kit, make)
    calm = site(records, commit_interval_s=1e9, commit_share=0.0, tuning=PipelineTuning(max_uncommitted=10**9))
    work = calm.start(capacity=100)
    while work.next_offset < len(records):
        work.apply(calm.batch(work, 10))
    work.finish()
    assert calm.commits == [len(records)]

    dice = random.Random(seed)
    wild = site(records, commit_interval_s=0.5, commit_share=0.25)
    store = Failing(wild.store)
    work = wild.start(store=store)
    store.fail = lambda _commit: wild.clock.advance(dice.random() * 0.1)
    while work.next_offset < len(records):
        work.apply(wild.batch(work, dice.randrange(1, 11)))
        wild.clock.advance(dice.random() * 0.2)
        commit_if_due(work)
        if dice.random() < 0.02:
            work = wild.start(store=store)  # what was not committed is read again
    work.finish()
    assert len(wild.commits) > 20
    assert wild.state() == calm.state()
    assert {decision.cause for decision in calm.state()[1].values()} == {"event", "tick"}


def test_the_next_owner_reads_no_record_again(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its duplicate window comes from what commits stored; what that lacks, as after 0.1, from the log."""
    monkeypatch.setattr(partition_commits, "EVENT_IDS_OF_A_RUN", 100)
    one = site(history(kit, make))
    work = one.start()
    for _ in range(4):
        work.apply(one.batch(work, 50))
        work.commit()
    reads: list[tuple[int, int]] = []
    read = one.source.read_id_hashes

    def counted(partition: int, start: int, end: int) -> Any:
        reads.append((start, end))
        return read(partition, start, end)

    monkeypatch.setattr(one.source, "read_id_hashes", counted)

    def repeats() -> list[bool]:
        window = one.start()._processor.duplicate_window
        return window.mark(read(0, 0, 200), np.arange(200, 400)).tolist()

    known = [record.id_hash != 0 for record in one.source.records[:200]]
    assert repeats() == known and any(known) and not all(known)
    assert reads == []
    with one.store.database.write() as connection:
        forget_event_ids(connection, 0, before_offset=100)
    assert repeats() == known
    assert reads == [(0, 100)]


def test_ids_wait_until_they_are_worth_a_row(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it commits and dies; those that wait are read again, and go with the next owner's."""
    monkeypatch.setattr(partition_commits, "EVENT_IDS_OF_A_RUN", 100)
    one = site(history(kit, make))
    read = one.source.read_id_hashes
    monkeypatch.setattr(one.source, "read_id_hashes", lambda *span: (spans.append(span[1:]), read(*span))[1])
    for start, wanted in ((0, []), (70, [(0, 70)]), (140, [(100, 140)]), (210, [(200, 210)])):
        spans: list[Any] = []
        work = one.start()
        assert (work.next_offset, spans) == (start, wanted)
        for _ in range(7):
            work.apply(one.batch(work, 10))
            work.commit()
    with one.store.database.read() as connection:
        rows = connection.execute(select(EVENT_IDS.c.first_offset, EVENT_IDS.c.end_offset)).all()
    assert [tuple(row) for row in rows] == [(0, 100), (100, 200)]


SETTLED = 50


def settled(one: PartitionTestbed, work: PartitionPipeline) -> None:
    """The agent's first events are committed: an unknown agent becomes a known one, which is a change of level."""
    work.apply(one.batch(work, SETTLED - 1))
    work.finish()
    work.apply(one.batch(work, 1))
    work.finish()
    assert not work.commits._decisions
    one.commits.clear()


def calm_events(kit: Any, make: Any, count: int = 500) -> list[Record]:
    """Of one agent that nothing happens to: usual work at a usual pace, in sessions of a usual length."""
    start, usual = make.START_MS + 10**9, {"target": "host-1-2"}
    made = [make.event(n, 1, start + n * 600_000, resource=usual, session=f"calm-{n // 3}") for n in range(count)]
    return list(kit.records(made))


def test_commits_take_their_share_of_the_time(site: Callable[..., PartitionTestbed], kit: Any, make: Any) -> None:
    """What a commit took over the share: so long is waited, between 20 ms and the interval."""
    one = site(calm_events(kit, make), commit_interval_s=1.0, commit_share=0.25)
    store = Failing(one.store)
    work = one.start(store=store)
    settled(one, work)
    work.commits.full_at = -math.inf

    def waited_s() -> float:
        """How long records wait for the next commit."""
        started, known = one.clock(), len(one.commits)
        while len(one.commits) == known:
            work.apply(one.batch(work, 1))
            one.clock.advance(0.01)
            at = one.clock()
            commit_if_due(work)
        return at - started

    for cost_s, wait_s in ((0.0, 0.02), (0.01, 0.02), (0.05, 0.04), (0.3, 0.2), (0.0, 1.0), (0.0, 0.02)):
        # Of the commit at the end of this wait, which the next one answers for.
        store.fail = lambda _commit, cost_s=cost_s: one.clock.advance(cost_s)  # type: ignore[misc]
        assert waited_s() == pytest.approx(wait_s, abs=0.0101)


def test_a_backlog_is_not_held_up_by_commits(site: Callable[..., PartitionTestbed], kit: Any, make: Any) -> None:
    """While batches are full, commits come at the interval alone."""
    one = site(calm_events(kit, make), commit_interval_s=1.0, commit_share=0.25)
    work = one.start()
    settled(one, work)
    for _ in range(24):
        work.apply(one.batch(work, 10))
        one.clock.advance(0.125)
        commit_if_due(work)
    assert one.commits == [SETTLED + offset for offset in (80, 160, 240)]
    one.clock.advance(partition_commits.BACKLOG_S)
    work.apply(one.batch(work, 9))
    one.clock.advance(0.125)
    commit_if_due(work)
    assert one.commits[-1] == SETTLED + 249


@pytest.mark.parametrize(
    "awaited",
    ["nothing", "dead letter", "told level", "feedback", "new delegation", "many records", "many of a worker"],
)
def test_what_people_may_look_for_waits_ten_seconds_at_most(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch, awaited: str
) -> None:
    """States of agents that nobody is told of wait for the whole interval; and so does what is long to replay.

    What is told is durable at once, and never waits for the states that waited before.
    """
    one = site(calm_events(kit, make), commit_interval_s=60.0, commit_share=0.0)
    work = one.start()
    settled(one, work)
    commits, processor = work.commits, work._processor
    work.apply(one.batch(work, 9))
    one.clock.advance(25.0)
    assert not commits.states_due
    letters = [DeadLetter("01", 0, "urn:gw", "no JSON", "", b"rubbish", 0, 0)] * (awaited == "dead letter")
    decisions = [some_decision(kit, RiskLevel.HIGH, history(kit, make))] * (awaited == "told level")
    if awaited == "feedback":
        rule = FeedbackRule("F-1", "peer_group", "", "acme", "Nobody", ("target_surprise",), None, 2**60)
        assert processor.engine.feedback_rules.adopt(rule, work.next_offset - 1, make.START_MS)
    if awaited == "new delegation":
        processor.edge_collector = EdgeCollector()
        processor.edge_collector.has_new_delegation = True
    commits.note_applied(AppliedBatch([], decisions, letters, 0, 0, []), work.next_offset, batch_full=False)
    if awaited.startswith("many"):
        monkeypatch.setattr(partition_commits, "MANY_RECORDS", 9 if awaited == "many records" else 10)
        commits.worker_has_many = awaited == "many of a worker"
        assert commits.states_due  # they have waited for more than ten seconds
        return
    assert commits.decisions_due == (awaited == "told level") and not commits.states_due
    commit_if_due(work)
    began = one.clock()
    while not commits.states_due and one.clock() < began + 99.0:
        one.clock.advance(0.5)
    assert one.clock() - began == pytest.approx(35.0 if awaited == "nothing" else 10.0, abs=0.6)
    work.finish()
    work.apply(one.batch(work, 1))
    one.clock.advance(10.5)
    assert not commits.states_due  # what was awaited is written


def some_decision(kit: Any, level: RiskLevel, records: list[Record]) -> Decision:
    """The first decision about *records*, as if it had led to *level*."""
    made = kit.processor().apply(RecordBatch(0, 0, records)).decisions[0]
    return msgspec.structs.replace(made, level=level)


def is_told(decision: Decision) -> bool:
    """True for a decision that an alert tells of."""
    return max(decision.level, decision.previous_level) >= RiskLevel.MEDIUM


def test_decisions_that_nobody_is_told_of_share_commits(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any
) -> None:
    """Each new agent makes one; the first is durable at once, the others within a second, or with the next alert."""
    records = list(kit.records([make.event(n, 1_000 + n, make.START_MS + 10**9 + n * 10_000) for n in range(60)]))
    one = site(records, commit_interval_s=60.0, commit_share=0.0)
    store, times = Failing(one.store), []
    store.fail = lambda commit: times.extend([one.clock()] * bool(commit.decisions))
    work = one.start(store=store, capacity=100)
    one.clock.advance(5.0)
    begun = one.clock()
    for _ in records:
        work.apply(one.batch(work, 1))
        one.clock.advance(0.05)
        commit_if_due(work)
        assert work.commits.due_in_s() <= 1.0 or not work.commits._decisions
    assert [at - begun for at in times] == pytest.approx([0.05, 1.05, 2.05], abs=0.11)
    assert work.commits._decisions and not any(map(is_told, work.commits._decisions))
    work.commits.note_applied(
        AppliedBatch([], [msgspec.structs.replace(work.commits._decisions[0], level=RiskLevel.HIGH)], [], 0, 1, []),
        work.next_offset,
        batch_full=False,
    )
    assert work.commits.decisions_due


def test_changes_of_level_hurry_commits_but_not_behind_a_backlog(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any
) -> None:
    """What people are told of is durable at once; while batches are full, as soon as commits have room."""
    records = history(kit, make)
    records = records[: len(records) // 10 * 10]  # so that the last batch is full, too

    def commits_with_decisions(size: int) -> list[float]:
        """When they were made, with batches of *size*."""
        one = site(records, commit_interval_s=1.0, commit_share=0.25)
        store, times = Failing(one.store), []

        def cost(commit: Commit) -> None:
            one.clock.advance(0.05)
            times.extend([one.clock()] if commit.decisions else [])

        store.fail = cost
        work = one.start(store=store, capacity=100)
        while work.next_offset < len(records):
            work.apply(one.batch(work, size))
            one.clock.advance(0.01)
            commit_if_due(work)
            assert size == 10 or not any(map(is_told, work.commits._decisions))
        return times

    at_once, in_turn = commits_with_decisions(9), commits_with_decisions(10)
    assert len(at_once) > len(in_turn) > 1
    assert min(later - before for before, later in itertools.pairwise(in_turn)) >= 0.2


class Failing:
    """A store whose commits fail as they are told to."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.fail: Callable[[Commit], None] = lambda _commit: None

    def commit_all(self, commits: Sequence[Commit]) -> list[int | Fenced]:
        for commit in commits:
            self.fail(commit)
        return self._store.commit_all(commits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_commit_that_is_given_up_loses_nothing(site: Callable[..., PartitionTestbed], kit: Any, make: Any) -> None:
    """Told to end while the database is away, a worker hands its partitions back: by then it may be there again."""
    records = history(kit, make)
    one, other = site(records), site(records)
    store = Failing(one.store)
    work = one.start(store=store, capacity=100)
    for _ in range(5):
        work.apply(one.batch(work, 10))

    def away(_commit: Commit) -> None:
        raise Unavailable("away")

    def stop(_seconds: float) -> None:
        raise Stopped

    store.fail, one.sleep = away, stop
    with pytest.raises(Stopped):
        work.commit()
    store.fail = lambda _commit: None
    work.finish()

    undisturbed = other.start(capacity=100)
    for _ in range(5):
        undisturbed.apply(other.batch(undisturbed, 10))
    undisturbed.finish()
    assert one.store.partitions.position(0) == Position(0, 1, 50)
    assert one.state() == other.state()
    assert one.state()[0]


def test_a_commit_that_arrived_without_an_answer_is_not_made_twice(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any
) -> None:
    """Where the outcome is unknown the position tells; where nobody may look any more, the store refuses."""
    one = site(history(kit, make))
    store = Failing(one.store)
    work = one.start(store=store)

    def lost_answer(commit: Commit) -> None:
        one.store.commit(commit)
        raise Unavailable("no answer")

    work.apply(one.batch(work, 10))
    store.fail = lost_answer
    work.commit()
    assert work.position == one.store.partitions.position(0) == Position(0, 1, 10)

    def stop(_seconds: float) -> None:
        raise Stopped

    work.apply(one.batch(work, 10))
    one.sleep = stop
    with pytest.raises(Stopped):
        work.commit()
    store.fail = lambda _commit: None
    with pytest.raises(Fenced):
        work.finish()
    assert one.store.partitions.position(0) == Position(0, 1, 20)


@pytest.mark.parametrize("answered", [True, False])
def test_one_that_is_refused_does_not_hold_up_those_it_commits_with(
    site: Callable[..., PartitionTestbed], kit: Any, make: Any, answered: bool
) -> None:
    """One transaction for all; where its outcome is unknown, each position tells of its own part."""
    one = site(history(kit, make))
    store = Failing(one.store)
    works = [one.start(store=store, partition=partition, capacity=100) for partition in range(3)]
    for work in works:
        work.apply(one.batch(work, 10 + work.partition))
    other = one.store.partitions.claim(1)
    tries = []

    def lost_answer(commits: Sequence[Commit]) -> list[int | Fenced]:
        tries.append([commit.position.partition for commit in commits])
        found = one.store.commit_all(commits)
        if not answered and len(tries) == 1:
            raise Unavailable("no answer")
        return found

    store.commit_all = lost_answer  # type: ignore[method-assign]
    refused = CommitRound([work.commits for work in works], one.around(store)).run()
    assert tries == ([[0, 1, 2]] if answered else [[0, 1, 2], [1]])
    assert list(refused) == [1]
    assert one.commits == [10, 12]
    assert one.store.partitions.list_positions() == [Position(0, 1, 10), other, Position(2, 1, 12)]
    assert [work.commits.has_uncommitted for work in works] == [False, True, False]
    assert works[1].position == Position(1, 1, 0)
