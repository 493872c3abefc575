"""Checkpoints: what is in them and in rows, when rows are written, and what a next owner makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.publishing_partition import (
    GONE,
    CountedCheckpointFiles,
    PublishingPartition,
    busy_records,
    states_of,
    stored_states,
)
from tests.support.stored_rows import agent
from trustwatch.ingest.errors import ConfigError, CorruptCheckpoint, Fenced, Unavailable
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.pipeline.commit_round import CommitRound
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.partition_commits import _BegunCommit, _with_earlier
from trustwatch.scoring.pipeline.processor import VectorFrames
from trustwatch.scoring.records.agents import AgentName, AgentRow, RiskLevel
from trustwatch.scoring.records.commits import Commit, EventIdRun, Position
from trustwatch.scoring.records.dead_letters import DeadLetter
from trustwatch.scoring.records.feedback import FeedbackRule, PartitionRule
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.decision_store import verify_chains


@pytest.fixture
def site(tmp_path: Path, kit: Any, make: Any) -> Iterator[PublishingPartition]:
    files = CountedCheckpointFiles(tmp_path / "checkpoints")
    made = PublishingPartition(tmp_path / "store.db", kit, busy_records(kit, make), files)
    made.written = 0
    yield made
    made.preloader.close()
    made.store.close()


@pytest.fixture
def work(site: PublishingPartition) -> PartitionPipeline:
    """A worker with all agents in memory, that has rows of them as of offset 100."""
    made = site.worker(capacity=100)
    site.written = len(site.records)
    site.apply(made, 100)
    made.commit()
    return made


def commit(site: PublishingPartition, work: PartitionPipeline) -> CommitRound:
    """A commit of states, as the pipeline makes it."""
    work.risk.publish_due(at_once=True)
    made = CommitRound([work.commits], work._context)
    assert made.run() == {}
    return made


def files_of(site: PublishingPartition) -> list[str]:
    assert site.checkpoints is not None
    return site.checkpoints.objects.list_names("")


def rows_by_name(site: PublishingPartition) -> dict[str, AgentRow]:
    keys = [agent.name.key for agent in site.store.agents.iterate()]
    return {row.name.agent_id: row for row in site.store.agents.load(keys).values()}


def in_memory(work: PartitionPipeline) -> dict[str, tuple[bytes, bytes, bytes]]:
    states = work.agent_states
    resident = np.flatnonzero([name is not None for name in states._agents.names]).astype(np.int32)
    return states_of([*states.evicted.values(), *states.rows(resident)])


def test_levels_are_in_rows_and_the_rest_in_the_checkpoint(site: PublishingPartition, work: PartitionPipeline) -> None:
    """Rows of agents about whom something was decided are as of the position; others may be older."""
    before = rows_by_name(site)
    decided: set[str] = set()
    for size in (40, 50):
        site.apply(work, size)
        decided |= {one.agent.agent_id for one in work.commits._decisions}
        CommitRound([work.commits], work._context, with_states=False).run()  # decisions leave before states
    retyped = unlisted(work)
    commit(site, work)
    after, now = rows_by_name(site), in_memory(work)
    assert site.store.partitions.position(0).offset == 190 and site.store.agents.list_ahead(0) == []
    changed = {name for name, row in after.items() if row != before[name]}
    raised = {name for name, row in after.items() if row.level >= RiskLevel.MEDIUM}
    assert decided | retyped <= changed <= decided | retyped | raised and raised & changed
    assert changed < after.keys()
    assert {name: states_of([after[name]])[name] for name in changed} == {name: now[name] for name in changed}
    (checkpoint,) = site.store.checkpoints.list_of(0)
    assert checkpoint.position == site.store.partitions.position(0) and files_of(site) == [checkpoint.name]
    assert site.checkpoints is not None
    assert states_of(site.checkpoints.read(checkpoint)).items() <= now.items()
    assert checkpoint.agents == len(site.checkpoints.read(checkpoint)) > len(decided) > 0


def test_the_next_owner_goes_on_from_them(site: PublishingPartition, work: PartitionPipeline) -> None:
    """Each agent from the last checkpoint that it is in; the duplicate window, dead letters and rules from the rows."""
    for _ in range(3):
        site.apply(work, 60)
        commit(site, work)
    states = in_memory(work)
    site.now += 0.001
    heir = site.worker(capacity=100)
    assert heir.next_offset == 280 and in_memory(heir).items() <= states.items()
    site.preloader.step(None)
    site.preloader.step(None)
    heir.finish()
    assert stored_states(site) == states and files_of(site) == []
    assert site.store.checkpoints.partitions() == []


def test_rows_are_written_when_they_are_due(site: PublishingPartition, work: PartitionPipeline) -> None:
    """After the interval; where few agents changed; where too many moved out."""
    site.apply(work, 40)
    commit(site, work)
    assert len(files_of(site)) == 1
    site.now += 2.0
    site.apply(work, 40)
    commit(site, work)
    assert files_of(site) == [] and stored_states(site) == in_memory(work)
    site.apply(work, 1)
    assert work.agent_states.unwritten_count == 1
    commit(site, work)
    assert files_of(site) == [] and stored_states(site) == in_memory(work)


def test_agents_that_moved_out_are_in_a_checkpoint(site: PublishingPartition) -> None:
    """And stay known until their rows are written, though memory has room for few."""
    work = site.worker(capacity=3)
    site.written = len(site.records)
    for _ in range(5):
        site.apply(work, 20)
        commit(site, work)
    assert len(files_of(site)) > 3 and len(work.agent_states.evicted) > 3
    states = in_memory(work)
    heir = site.worker(capacity=3)
    heir.finish()
    assert stored_states(site) == states


def test_an_agent_that_comes_back_before_its_checkpoint_is_in_it(
    site: PublishingPartition, work: PartitionPipeline
) -> None:
    """It moved out changed, and moves in again without an event."""
    commit(site, work)
    site.apply(work, 40)
    states = work.agent_states
    slot = int(states._agents.uncheckpointed.slots()[0])
    name = states._agents.names[slot]
    assert name is not None
    keys = states.builder.slots.keys[[slot]]
    states.evict(keys, np.array([slot], np.int32))
    states.builder.slots.remove(np.array([slot], np.int32))
    assert states.find_slot(name.identity) is not None
    assert name.agent_id in {row.name.agent_id for row in states.begin_checkpoint()[0]}


def test_an_erasure_leaves_nothing_of_the_agent(site: PublishingPartition, work: PartitionPipeline) -> None:
    """All rows are written then, and the checkpoints that had it go."""
    order = next(at for at, record in enumerate(site.records) if record.kind == RecordKind.FORGET)
    site.apply(work, order - 100)
    commit(site, work)
    assert GONE[2] in states_of(site.checkpoints.read(site.store.checkpoints.list_of(0)[0]))  # type: ignore[union-attr]
    site.apply(work, 1)
    assert work.commits.states_due
    commit(site, work)
    assert files_of(site) == [] and GONE[2] not in rows_by_name(site)


def test_whoever_lost_the_partition_leaves_files_that_the_owner_removes(
    site: PublishingPartition, work: PartitionPipeline
) -> None:
    """And takes none of the owner's away."""
    site.apply(work, 40)
    late = CommitRound([work.commits], work._context)
    heir = site.worker(capacity=100)
    late.write()
    assert [type(error) for error in late.finish().values()] == [Fenced]
    site.apply(heir, 50)
    commit(site, heir)
    assert [name[17:30] for name in files_of(site)] == ["000000000001-", "000000000002-"]
    assert site.checkpoints is not None
    assert site.checkpoints.remove_up_to(work.position) == 0
    assert site.checkpoints.remove_up_to(Position(0, 1, 10**9)) == 1
    heir.finish()
    assert files_of(site) == []


def test_rows_are_written_while_the_store_of_objects_is_away(
    site: PublishingPartition, work: PartitionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions leave at once; what the checkpoint was to have comes with the rows, and none is tried for a while."""
    assert site.checkpoints is not None
    states, tried = undisturbed_states(site), site.checkpoints.written
    monkeypatch.setattr(site.checkpoints.objects, "put", away)
    site.apply(work, 40)
    letters = len(work.commits._dead_letters)
    commit(site, work)
    assert site.store.partitions.position(0).offset == 100 and files_of(site) == []
    told = {one.decision_id for one in site.store.decisions.iterate_unpublished(0, 100)}
    site.apply(work, 50)
    letters += len(work.commits._dead_letters)
    CommitRound([work.commits], work._context, with_states=False).run()
    assert told < {one.decision_id for one in site.store.decisions.iterate_unpublished(0, 100)}
    stored = len(site.store.dead_letters.page().items)
    commit(site, work)
    assert site.store.partitions.position(0).offset == 190 and stored_states(site) == states
    assert len(site.store.dead_letters.page().items) == stored + letters > stored
    site.apply(work, 5)
    commit(site, work)
    assert site.checkpoints.written == tried + 1
    assert work._context.stages.counts["checkpoints_postponed"] == 1
    monkeypatch.undo()
    site.now += 60.0
    commit(site, work)
    site.apply(work, 5)
    commit(site, work)
    assert len(files_of(site)) == 1 and verify_chains(site.store.decisions, site.store.erasures).intact


def test_a_worker_ends_while_the_store_of_objects_is_away(
    site: PublishingPartition, work: PartitionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for nothing; files that stay are counted, and the next owner removes them."""
    assert site.checkpoints is not None
    site.apply(work, 40)
    commit(site, work)
    monkeypatch.setattr(site.checkpoints.objects, "put", away)
    monkeypatch.setattr(site.checkpoints.objects, "delete", away)
    site.apply(work, 40)
    commit(site, work)
    work.finish()
    assert site.store.partitions.position(0).offset == 180 and stored_states(site) == in_memory(work)
    assert site.store.checkpoints.partitions() == [] and len(files_of(site)) == 1
    assert work._context.stages.counts["checkpoints_not_removed"] == 1
    monkeypatch.undo()
    site.now += 60.0
    site.worker()
    assert files_of(site) == []


def test_a_commit_of_rows_takes_a_postponed_one_along() -> None:
    """Dead letters and event ids in their order, each rule as it was last, vectors of both."""
    at, later = Position(0, 1, 10), Position(0, 1, 30)
    first, second, third = (rule(number) for number in (1, 2, 3))
    postponed = Commit(
        Position(0, 1, 0),
        at,
        [],
        [],
        [],
        [letter(1)],
        feedback_rules=[first, second],
        event_ids=EventIdRun(0, b"a" * 80),
        event_ids_needed_from=7,
        checkpointed=[agent(AgentName(1, "t", "i", "a"), 1)],
    )
    rows = [agent(AgentName(1, "t", "i", "a"), 2)]
    newer = msgspec.structs.replace(second, until_offset=25, matched=9)
    now = Commit(
        Position(0, 1, 0), later, rows, [], [], [letter(2)], 5, (), [newer, third], event_ids=EventIdRun(10, b"b" * 160)
    )
    both = _with_earlier(
        _BegunCommit(postponed, True, False, VectorFrames([b"x"], 2)),
        _BegunCommit(now, True, True, VectorFrames([b"y"], 3)),
    )
    assert both.published and both.vectors == VectorFrames([b"x", b"y"], 5)
    assert both.commit == msgspec.structs.replace(
        now,
        dead_letters=[letter(1), letter(2)],
        feedback_rules=[first, newer, third],
        event_ids=EventIdRun(0, b"a" * 80 + b"b" * 160),
        event_ids_needed_from=7,
    )
    assert both.commit.checkpointed == () and both.commit.agents == rows


def rule(number: int) -> PartitionRule:
    made = FeedbackRule(f"F-{number}", "peer_group", "", "acme", "Reader", (), None, 1)
    return PartitionRule(made, 0, 1, number, -1, 0, 0)


def letter(number: int) -> DeadLetter:
    return DeadLetter(f"L-{number}", 0, "a source", "no event", "$", b"rubbish", 0, number)


def away(*_: object) -> None:
    raise Unavailable("no answer")


def undisturbed_states(site: PublishingPartition) -> dict[str, tuple[bytes, bytes, bytes]]:
    """States as of offset 190."""
    processor = site.kit.processor()
    processor.apply(RecordBatch(0, 0, site.records[:190]))
    return states_of(processor.engine.agent_states.changed_rows())


def test_owners_that_die_soon_after_each_other_do_not_put_rows_off(
    site: PublishingPartition, work: PartitionPipeline
) -> None:
    """What goes on from checkpoints has its rows written next."""
    site.apply(work, 40)
    commit(site, work)
    heir = site.worker(capacity=100)
    site.apply(heir, 40)
    commit(site, heir)
    assert site.store.checkpoints.list_of(0) == [] and stored_states(site) == in_memory(heir)


def test_rows_are_due_once_checkpoints_have_much(
    site: PublishingPartition, work: PartitionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same agents in one checkpoint after the other: their files are not to grow without end."""
    tuning = work._context.tuning._replace(max_checkpointed=25)
    monkeypatch.setattr(work.commits, "_context", work._context._replace(tuning=tuning))
    counts = []
    for _ in range(5):
        site.apply(work, 20)
        commit(site, work)
        counts.append(len(site.store.checkpoints.list_of(0)))
    assert 0 in counts and max(counts) >= 2


def test_agents_that_are_new_or_of_another_type_are_in_lists(
    site: PublishingPartition, work: PartitionPipeline
) -> None:
    """Though nothing was decided about them."""
    site.apply(work, 40)
    agents = work.agent_states._agents
    slots = agents.uncheckpointed.slots()
    calm = [slot for slot in slots.tolist() if not agents.unlisted[slot]][:2]
    agents.unlisted[calm] = True
    names = unlisted(work)
    assert len(names) > len(calm) == 2  # some events name another type
    before = rows_by_name(site)
    commit(site, work)
    assert names <= {name for name, row in rows_by_name(site).items() if row != before[name]}
    assert unlisted(work) == set()


def unlisted(work: PartitionPipeline) -> set[str]:
    """Agents in memory whose row is missing, or has another type."""
    agents = work.agent_states._agents
    names = [agents.names[slot] for slot in np.flatnonzero(agents.unlisted)]
    return {name.agent_id for name in names if name is not None}


def test_a_place_of_checkpoints_belongs_to_one_deployment(tmp_path: Path) -> None:
    """Its files go by partition and position alone: another one would remove them."""
    for _ in range(2):
        CheckpointFiles(FolderObjects(tmp_path), "one").check()
    with pytest.raises(ConfigError, match="the place is another database's"):
        CheckpointFiles(FolderObjects(tmp_path), "two").check()


def test_a_place_that_was_away_at_the_start_is_seen_to_before_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose it is: nothing is written into another one's, removed there or read."""
    objects, at, rows = FolderObjects(tmp_path), Position(0, 1, 10), [agent(AgentName(1, "t", "i", "a"), 1)]
    mine, others = CheckpointFiles(objects, "one"), CheckpointFiles(objects, "two")
    with monkeypatch.context() as patch:
        patch.setattr(FolderObjects, "check", away)
        patch.setattr(FolderObjects, "get", away)
        for use in (mine.check, lambda: mine.write(at, rows), lambda: mine.remove_up_to(at)):
            with pytest.raises(Unavailable):
                use()
    assert objects.list_names("") == []
    written = mine.write(at, rows)
    assert objects.list_names("") == ["deployment", written.name]
    for use in (lambda: others.write(at, rows), lambda: others.remove_up_to(at), lambda: others.read(written)):
        with pytest.raises(ConfigError, match="the place is another database's"):
            use()
    assert objects.list_names("") == ["deployment", written.name] and mine.read(written) == rows


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not what was written"),
        (lambda path: path.write_bytes(b""), "is not what was written"),
    ],
)
def test_a_damaged_checkpoint_stops_the_partition(
    site: PublishingPartition, work: PartitionPipeline, tmp_path: Path, damage: Callable[[Path], object], fault: str
) -> None:
    """Nobody goes on from states that are older than the position."""
    site.apply(work, 40)
    commit(site, work)
    (name,) = files_of(site)
    damage(tmp_path / "checkpoints" / name)
    with pytest.raises(CorruptCheckpoint, match=f"{name}.*{fault}"):
        site.worker()


def test_settings_that_name_none_are_refused_while_there_are_some(
    site: PublishingPartition, work: PartitionPipeline
) -> None:
    site.apply(work, 40)
    commit(site, work)
    files, site.checkpoints = site.checkpoints, None
    with pytest.raises(ConfigError, match=r"`store\.checkpoints`: the newest states of partition 0"):
        site.worker()
    site.checkpoints = files
    site.worker().finish()
    site.checkpoints = None
    site.worker()


def test_rows_of_a_later_version_can_be_read(site: PublishingPartition, work: PartitionPipeline) -> None:
    """Members that a version knows nothing of are left out, and those that it misses have their defaults."""
    site.apply(work, 40)
    states = in_memory(work)
    rows = [{**msgspec.to_builtins(row, builtin_types=(bytes,)), "new": 1} for row in work.agent_states.changed_rows()]
    for row in rows:
        del row["indicators"]
    assert site.checkpoints is not None
    checkpoint = site.checkpoints.write(Position(0, 1, 140), rows)  # type: ignore[arg-type]
    assert states_of(site.checkpoints.read(checkpoint)).items() <= states.items()


def test_ticks_alone_make_no_checkpoint(site: PublishingPartition, work: PartitionPipeline, kit: Any) -> None:
    """Nothing changed of anybody: the position moves on, and no file is written."""
    site.apply(work, 40)
    commit(site, work)
    at = site.records[work.next_offset - 1].received_ms
    tick: Record = kit.tick(at + 1)
    site.records.insert(work.next_offset, tick)
    site.apply(work, 1)
    commit(site, work)
    assert site.store.partitions.position(0).offset == 141 and len(files_of(site)) == 1
    assert not work.commits.is_finished
