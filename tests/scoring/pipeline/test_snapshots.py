"""Copies of rows: who takes over from them goes on as from the rows, whatever became of agents and files since."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.fixed_source import FixedSource
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.ingest.record_erasure import ErasureSubject
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.pipeline import snapshot_writing
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext
from trustwatch.scoring.pipeline.preloading import AgentPreloader, make_preloader
from trustwatch.scoring.pipeline.processor import StageMetrics
from trustwatch.scoring.pipeline.settings import PipelineSettings
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.erasures import EraseCommand
from trustwatch.scoring.store.snapshot_files import SnapshotFiles
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

GONE = ("acme", "https://as.example", "agent-3")
AGENTS = 12


class Objects(FolderObjects):
    """A folder that can be away, and says how often it was read."""

    away = False
    read = 0

    def get(self, name: str) -> bytes:
        self.read += 1
        if self.away:
            raise Unavailable("the place is away")
        return super().get(name)

    def put(self, name: str, content: bytes) -> None:
        if self.away:
            raise Unavailable("the place is away")
        super().put(name, content)


class Site:
    """A partition with a place of snapshots. `now` is the clock of its workers."""

    def __init__(self, folder: Path, kit: Any, records: list[Record]) -> None:
        folder.mkdir()
        self.kit, self.records, self.store = kit, records, open_store(sqlite_url(folder / "s.db"))
        self.objects = Objects(folder / "objects")
        self.files = SnapshotFiles(self.objects)
        self.now = 1_000.0
        self.preloaders: list[AgentPreloader] = []
        self.row_reads: list[int] = []
        for way in ("states_of_partition", "states_of_agents"):
            setattr(self.store.agents, way, self._counted(getattr(self.store.agents, way)))

    def _counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*of: Any) -> Any:
            found = read(*of)
            self.row_reads.append((found[0] if isinstance(found[0], tuple) else found).agent_count)
            return found

        return counted

    def start(self, capacity: int = 100) -> tuple[PartitionPipeline, AgentPreloader]:
        """A new owner with empty memory, in a process of its own as far as files are concerned."""
        self.files = SnapshotFiles(self.objects)
        context = PipelineContext(
            FixedSource(self.records),  # type: ignore[arg-type]
            self.store,
            LivePolicy(PolicyBook()),
            PipelineSettings(),
            lambda: self.now,
            lambda _seconds: None,
            lambda _done: None,
            StageMetrics(lambda: self.now),
            snapshots=self.files,
        )
        work = PartitionPipeline(0, self.kit.processor(self.store.agents, capacity), context)
        work.claim()
        work.resume()
        self.preloaders.append(make_preloader(context))
        return work, self.preloaders[-1]

    def preload(self, capacity: int = 100) -> tuple[PartitionPipeline, AgentPreloader]:
        """A new owner whose agents have moved in; `row_reads` are those of it."""
        self.row_reads.clear()
        work, preloader = self.start(capacity)
        preloader.begin(work)
        while preloader.busy:
            preloader.step(None)
        return work, preloader

    def apply(self, work: PartitionPipeline, count: int) -> None:
        part = self.records[work.next_offset :][:count]
        if part:
            work.apply(RecordBatch(0, work.next_offset, part))

    def look(self, preloader: AgentPreloader, later_s: float = 10_000.0) -> None:
        """Let a worker look at its copies after a while, and wait until it has."""
        self.now += later_s
        preloader.step()
        writer = preloader._writer
        assert writer is not None
        running = [watch.running for watch in writer._watches.values() if watch.running is not None]
        for future in running:
            future.exception(30)
        preloader.step()

    def copied(self) -> dict[str, int]:
        """Number of agents in each snapshot."""
        return {one.name: one.agents for one in self.store.snapshots.list_of(0)}

    def states(self) -> dict[int, AgentRow]:
        at = self.store.partitions.position(0)
        return {row.name.key: row for row in self.store.agents.states_of_partition(at, None, 1000).rows}

    def counts(self, preloader: AgentPreloader) -> dict[str, float]:
        assert preloader._writer is not None
        return dict(preloader._writer._context.stages.counts)

    def close(self) -> None:
        for preloader in self.preloaders:
            preloader.close()
        self.store.close()


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MIN_AGENTS", 2), ("READ_SIZE", 2), ("BLOCK_SIZE", 3), ("FILE_SIZE", 5), ("REST_FACTOR", 0.0)):
        monkeypatch.setattr(snapshot_writing, name, value)


@pytest.fixture
def make_site(tmp_path: Path, kit: Any) -> Iterator[Callable[[list[Record]], Site]]:
    made: list[Site] = []

    def make(records: list[Record]) -> Site:
        made.append(Site(tmp_path / f"site-{len(made)}", kit, records))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def records(kit: Any, make: Any) -> list[Record]:
    """Of twelve agents."""
    return list(kit.records(make.stream(5, 300, odd=0.1)))


@pytest.fixture
def site(make_site: Callable[[list[Record]], Site], records: list[Record]) -> Site:
    """A partition whose first 150 records are applied and stored, with copies of all its rows."""
    made = make_site(records)
    fill(made)
    return made


def fill(site: Site) -> None:
    work, _ = site.start()
    site.apply(work, 150)
    work.finish()
    _, preloader = site.preload()
    site.look(preloader)


def goes_on_as_from_rows(site: Site, plain: Site, work: PartitionPipeline) -> None:
    """The rest of the records comes to the states of a worker that read each row as its agent acted."""
    other, _ = plain.start()
    for one, of in ((work, site), (other, plain)):
        while one.next_offset < len(of.records):
            of.apply(one, 30)
        one.finish()
    assert site.states() == plain.states() and len(site.states()) > AGENTS - 2


def test_a_take_over_reads_copies_and_no_row(
    site: Site,
    make_site: Callable[[list[Record]], Site],
    records: list[Record],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every agent is in memory then, and goes on as if its row had been read. The log counts the copies."""
    assert sum(site.copied().values()) == AGENTS and set(site.copied().values()) == {2, 5}
    work, _ = site.preload()
    assert site.row_reads == [] and len(work.agent_states.builder.slots) == AGENTS
    assert f"copies_read={AGENTS}" in capsys.readouterr().out
    plain = make_site(records)
    fill(plain)
    goes_on_as_from_rows(site, plain, work)


def test_rows_that_changed_since_are_read_instead_of_their_copies(
    site: Site, make_site: Callable[[list[Record]], Site], records: list[Record]
) -> None:
    """So it does not matter how old a copy is."""
    plain = make_site(records)
    fill(plain)
    for one in (site, plain):
        work, _ = one.start()
        one.apply(work, 4)
        work.finish()
    acted = {json.loads(record.payload)["agent"]["id"] for record in records[150:154]}
    work, _ = site.preload()
    assert sum(site.row_reads) == len(acted) < AGENTS
    assert len(work.agent_states.builder.slots) == AGENTS
    goes_on_as_from_rows(site, plain, work)


def test_an_agent_without_a_row_does_not_come_back(site: Site) -> None:
    """It was purged, erased or moved to another partition: its copy is nobody's."""
    at = site.store.partitions.position(0)
    gone = next(iter(site.states()))
    site.store.commit(Commit(at, Position(0, at.epoch, at.offset), [], [], [], [], removed_agents=[gone]))
    work, _ = site.preload()
    assert len(work.agent_states.builder.slots) == AGENTS - 1 and gone not in work.agent_states.builder.slots.keys
    assert site.row_reads == []


def test_what_was_met_since_the_take_over_is_newer(
    site: Site, make_site: Callable[[list[Record]], Site], records: list[Record]
) -> None:
    """Agents that act before their copies come, and one that is erased meanwhile."""
    order = EraseCommand("01E", "agent", *GONE, "erased~1")
    records.insert(170, Record(RecordKind.FORGET, 0, records[169].received_ms, msgspec.json.encode(order)))
    plain = make_site(records)
    fill(plain)
    work, preloader = site.start()
    preloader.begin(work)
    (reading,) = preloader._waiting
    for page in reading.pages:
        page.result()
    for _ in range(3):
        site.apply(work, 15)
        work.commit()
    work.agent_states.builder.evict_all()
    while preloader.busy:
        preloader.step(None)
    goes_on_as_from_rows(site, plain, work)


@pytest.mark.parametrize("fault", ["gone", "damaged", "away", "another format"])
def test_without_its_files_a_take_over_reads_rows(site: Site, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody relies on a copy. Each agent is in memory once."""
    paths = [site.objects._path(name) for name in site.copied()]
    if fault == "gone":
        paths[0].unlink()
    elif fault == "damaged":
        for path in paths:
            content = path.read_bytes()
            path.write_bytes(content[:-20] + bytes(20))
    elif fault == "away":
        site.objects.away = True
    else:
        for path in paths:
            path.write_bytes(b"TWSN\x02" + path.read_bytes()[5:])
    site.objects.read = 0
    work, _ = site.preload()
    assert len(work.agent_states.builder.slots) == AGENTS
    assert 0 < sum(site.row_reads) <= AGENTS
    if fault == "away":  # no other file is waited for
        assert site.objects.read <= 2 and sum(site.row_reads) == AGENTS
    if fault == "damaged":  # the last block of each file
        assert sum(site.row_reads) < AGENTS


def test_a_worker_of_another_format_leaves_copies_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade: it reads rows, which it can turn into its own format."""
    work, preloader = site.start()
    rows = work.agent_states._rows
    rows.state_format = rows.state_format._replace(state_version="another")
    preloader.begin(work)
    site.row_reads.clear()
    while preloader.busy:
        preloader.step(None)
    assert sum(site.row_reads) == AGENTS and len(work.agent_states.builder.slots) == AGENTS


def test_what_does_not_fit_stays_where_it_is(
    site: Site, records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory that is full ends it, as with rows."""
    work, _ = site.preload(capacity=4)
    assert not work.agent_states.evicted
    assert "others are read as they act" in capsys.readouterr().out
    while work.next_offset < len(records):
        site.apply(work, 4)
    work.finish()
    assert sum(row.events for row in site.states().values()) > 290, "each went on from its row"


def test_copies_are_written_where_a_tenth_has_none(site: Site) -> None:
    """Fewer rows are left to be read; files with few copies that are still true go."""
    before = site.copied()
    work, preloader = site.preload()
    site.look(preloader)
    assert site.copied() == before, "nothing changed"
    site.apply(work, 40)
    work.commit()
    site.look(preloader, later_s=1.0)
    assert site.copied() == before, "it looked a second ago"
    site.look(preloader)
    after = site.copied()
    assert not set(after) & set(before), "every agent has acted"
    assert site.files.list_names(0) == set(after)
    counts = site.counts(preloader)
    assert counts["snapshots"] == 3 and counts["snapshot_bytes"] > 0 and "snapshots_failed" not in counts
    site.preload()
    assert site.row_reads == []


def test_a_file_with_half_of_its_copies_true_stays(site: Site) -> None:
    """What changed is in a further one."""
    before = site.copied()
    at = site.store.partitions.position(0)
    name = max(before, key=lambda one: before[one])
    snapshot = next(one for one in site.store.snapshots.list_of(0) if one.name == name)
    states, keys = site.states(), site.files.open(snapshot).index.versions.keys[:2].tolist()
    position = Position(0, at.epoch, at.offset + 1)
    site.store.commit(Commit(at, position, [states[key] for key in keys], [], [], []))
    _, preloader = site.preload()
    assert sum(site.row_reads) == 2
    site.look(preloader)
    after = site.copied()
    assert set(before) < set(after) and sorted(after[one] for one in set(after) - set(before)) == [2]
    site.preload()
    assert site.row_reads == []


def test_nobody_keeps_a_copy_of_an_agent_that_is_gone(site: Site) -> None:
    """Its row was purged, so the file goes within hours, whatever else is in it; the others are copied anew."""
    at, before = site.store.partitions.position(0), site.copied()
    gone = next(iter(site.states()))
    (held_by,) = [one for one in site.store.snapshots.list_of(0) if gone in site.files.index(one).versions.keys]
    site.store.commit(Commit(at, Position(0, at.epoch, at.offset), [], [], [], [], removed_agents=[gone]))
    _, preloader = site.preload()
    site.look(preloader)
    assert site.copied() == before, "who purges some does so in all files"
    site.look(preloader, later_s=snapshot_writing.GONE_FOR_S - 1.0)
    assert site.copied() == before
    site.look(preloader)
    assert set(before) - set(site.copied()) == {held_by.name}
    assert sum(site.copied().values()) == AGENTS - 1 and site.files.list_names(0) == set(site.copied())


def test_a_file_that_nobody_names_goes_and_one_that_is_gone_is_forgotten(site: Site) -> None:
    """A crash left the one; somebody removed the other, so it is written again."""
    (first, *_) = site.copied()
    site.objects._path(first).unlink()
    left = f"{first.rpartition('/')[0]}/left.rows"
    site.objects.put(left, b"of a crash")
    _, preloader = site.preload()
    site.look(preloader)
    assert first not in site.copied() and site.files.list_names(0) == set(site.copied())
    assert sum(site.copied().values()) == AGENTS


def test_few_agents_have_no_copies_nor_more_than_memory_holds(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that there are go."""
    _, preloader = site.preload()
    monkeypatch.setattr(snapshot_writing, "MIN_AGENTS", AGENTS + 1)
    site.look(preloader)
    assert site.copied() == {} and site.files.list_names(0) == set()
    monkeypatch.setattr(snapshot_writing, "MIN_AGENTS", 2)
    site.look(preloader)
    assert sum(site.copied().values()) == AGENTS
    work, preloader = site.start(capacity=AGENTS - 1)
    assert preloader._writer is not None
    preloader._writer.begin(work)
    site.look(preloader)
    assert site.copied() == {}


def test_an_erasure_while_rows_are_read_leaves_no_copy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before may have the name. The next look copies rows anew."""
    work, preloader = site.preload()
    site.apply(work, 40)
    work.commit()
    write = site.files.write

    def erased_before(*of: Any) -> Any:
        site.store.snapshots.forget_all()
        return write(*of)

    monkeypatch.setattr(site.files, "write", erased_before)
    site.look(preloader)
    assert site.copied() == {}
    monkeypatch.setattr(site.files, "write", write)
    site.look(preloader)
    assert sum(site.copied().values()) == AGENTS and site.files.list_names(0) == set(site.copied())


def test_a_place_that_is_away_is_told_and_tried_again(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else waits for it."""
    work, preloader = site.preload()
    site.apply(work, 40)
    work.commit()
    site.objects.away = True
    site.look(preloader)
    assert site.counts(preloader)["snapshots_failed"] == 1
    assert "copies of rows were not written" in capsys.readouterr().out
    site.objects.away = False
    site.look(preloader)
    assert sum(site.copied().values()) == AGENTS


def test_who_lost_the_partition_writes_and_removes_nothing(site: Site) -> None:
    """The next owner's files are left alone."""
    work, preloader = site.preload()
    site.apply(work, 40)
    work.commit()
    before = site.copied()
    site.start()
    left = f"{next(iter(before)).rpartition('/')[0]}/next.rows"
    site.objects.put(left, b"being written by the next owner")
    site.look(preloader)
    assert site.copied() == before and left in site.files.list_names(0)
    assert "snapshots_failed" not in site.counts(preloader)


def test_a_worker_that_ends_does_not_finish_a_look(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the next owner waiting."""
    work, preloader = site.preload()
    site.apply(work, 40)
    work.commit()
    monkeypatch.setattr(snapshot_writing, "REST_FACTOR", 1.0)
    begun = threading.Event()
    read = site.store.agents.states_of_agents

    def slow(*of: Any) -> Any:
        begun.set()
        site.now += 1e6  # so long a pause follows
        return read(*of)

    monkeypatch.setattr(site.store.agents, "states_of_agents", slow)
    before = site.copied()
    site.now += 10_000.0
    preloader.step()
    assert begun.wait(30)
    preloader.close()
    assert site.copied() == before


def test_rows_of_an_earlier_format_are_copied_once_their_agents_acted(site: Site) -> None:
    """Until then they are not read at each look again."""
    at = site.store.partitions.position(0)
    older = [
        msgspec.structs.replace(row, risk=b"of before", state_version=row.state_version.split(":")[0] + ":before")
        for row in list(site.states().values())[::2]
    ]
    site.store.commit(Commit(at, Position(0, at.epoch, at.offset), older, [], [], []))
    site.store.snapshots.forget_all()
    work, preloader = site.preload()
    site.look(preloader)
    assert sum(site.copied().values()) == AGENTS - len(older)
    site.row_reads.clear()
    site.look(preloader)
    assert site.row_reads == []
    while work.next_offset < len(site.records):
        site.apply(work, 30)
    work.finish()
    site.look(preloader)
    assert sum(site.copied().values()) == AGENTS


def test_an_erasure_behind_a_take_over_ends_the_use_of_its_copies(site: Site) -> None:
    """Rows lose a name without a new version, so a copy of before is not used, however long it lay there."""
    work, preloader = site.start()
    preloader.begin(work)
    wait_for_pages(preloader)
    preloader.step()
    wait_for_pages(preloader)  # versions and secrets are known
    site.store.snapshots.forget_all()
    site.row_reads.clear()
    while preloader.busy:
        preloader.step(None)
    assert sum(site.row_reads) == AGENTS == len(work.agent_states.builder.slots)


def test_names_of_an_open_erasure_do_not_come_in_with_copies(site: Site) -> None:
    """As with rows: what is loaded must not bring a name back into reasons."""
    named = next(row for row in site.states().values() if row.reasons != b"[]")
    told = named.reasons.replace(b'"text":"', b'"text":"agent-3 ')
    assert told != named.reasons
    at = site.store.partitions.position(0)
    row = msgspec.structs.replace(named, reasons=told)
    site.store.commit(Commit(at, Position(0, at.epoch, at.offset + 1), [row], [], [], []))
    _, preloader = site.preload()
    site.look(preloader)
    site.store.snapshots.forget_all()
    site.look(preloader)
    site.row_reads.clear()
    work, preloader = site.start()
    subject = EraseCommand("01E", "agent", *GONE, "erased~1")
    work.agent_states.keep_out_erased([ErasureSubject("agent", *GONE, subject.pseudonym)])
    preloader.begin(work)
    while preloader.busy:
        preloader.step(None)
    assert site.row_reads == []
    slot = int(work.agent_states.builder.slots.find(np.array([named.name.key], np.uint64))[0])
    assert b"erased~1 " in work.agent_states.explanation(slot).reasons
    assert b"agent-3 " not in work.agent_states.explanation(slot).reasons


def test_an_outage_while_versions_are_read_leaves_it_to_rows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query over all rows of a partition may take too long where pages of them do not."""

    def away(*_: Any) -> Any:
        raise Unavailable("statement timeout")

    monkeypatch.setattr(site.store.agents, "versions_of_partition", away)
    work, _ = site.preload()
    assert sum(site.row_reads) == AGENTS == len(work.agent_states.builder.slots)


@pytest.mark.parametrize("where", ["open", "index"])
def test_an_error_that_nobody_foresaw_ends_no_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told; rows are read, and nothing is copied."""

    def fails(*_: Any) -> Any:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(SnapshotFiles, where, fails)
    work, preloader = site.preload()
    assert len(work.agent_states.builder.slots) == AGENTS
    assert sum(site.row_reads) == (AGENTS if where == "open" else 0)
    site.look(preloader)
    assert site.counts(preloader)["snapshots_failed"] == 1
    assert "nobody foresaw it" in capsys.readouterr().out


def test_a_partition_that_went_opens_no_further_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is being read is the last one: the next partition needs the threads."""
    opened, go_on, opens = threading.Event(), threading.Event(), []
    open_file = SnapshotFiles.open

    def slow(files: SnapshotFiles, snapshot: Any) -> Any:
        opens.append(snapshot.name)
        opened.set()
        assert go_on.wait(30)
        return open_file(files, snapshot)

    monkeypatch.setattr(SnapshotFiles, "open", slow)
    work, preloader = site.start()
    preloader.begin(work)
    while not opened.is_set():
        preloader.step(0.01)
    preloader.stop(work)
    go_on.set()
    preloader.close()
    assert len(opens) <= 2 < len(site.copied()) and not preloader.busy


def test_a_new_partition_learns_beside_a_backlog_that_it_is_empty(
    make_site: Callable[[list[Record]], Site], records: list[Record]
) -> None:
    """Nobody new is looked for in the store then."""
    empty = make_site(records)
    work, preloader = empty.start()
    preloader.begin(work)
    for _ in range(1_000):
        for page in [page for waiting in preloader._waiting for page in waiting.pages]:
            page.result()
        if not preloader.busy:
            break
        assert preloader.has_few_left
        preloader.step(is_quiet=False)
    assert not preloader.busy


@pytest.fixture
def version_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[Position]:
    """Owners for whom the versions of all rows were read."""
    reads: list[Position] = []
    read = site.store.agents.versions_of_partition
    monkeypatch.setattr(site.store.agents, "versions_of_partition", lambda owner: (reads.append(owner), read(owner))[1])
    return reads


def wait_for_pages(preloader: AgentPreloader) -> None:
    """Wait for what is being read."""
    for page in [page for waiting in preloader._waiting for page in waiting.pages]:
        page.result()


def test_versions_of_all_rows_wait_until_there_is_no_backlog(site: Site, version_reads: list[Position]) -> None:
    """Nothing is there to move in meanwhile, and nobody spins for it."""
    work, preloader = site.start()
    site.row_reads.clear()
    preloader.begin(work)
    for _ in range(50):
        wait_for_pages(preloader)
        if preloader.has_few_left:
            preloader.step(is_quiet=False)
    assert preloader.busy and not version_reads and not preloader.has_few_left and not preloader.has_agents
    while preloader.busy:
        preloader.step(None)
    assert len(version_reads) == 1 and site.row_reads == [] and len(work.agent_states.builder.slots) == AGENTS


def test_who_loses_a_partition_reads_no_versions_of_it(site: Site, version_reads: list[Position]) -> None:
    """Though it was to."""
    work, preloader = site.start()
    preloader.begin(work)
    wait_for_pages(preloader)
    preloader.step(is_quiet=False)
    assert not preloader._waiting[0].pages
    preloader.stop(work)
    preloader.close()
    assert not version_reads and not preloader.busy


def test_an_erasure_while_versions_wait_makes_rows_be_read(site: Site, version_reads: list[Position]) -> None:
    """No version is asked for in vain."""
    work, preloader = site.start()
    preloader.begin(work)
    wait_for_pages(preloader)
    preloader.step(is_quiet=False)
    site.store.snapshots.forget_all()
    site.row_reads.clear()
    while preloader.busy:
        preloader.step(None)
    assert not version_reads and len(work.agent_states.builder.slots) == AGENTS


def test_a_table_that_takes_long_to_look_at_is_looked_at_rarely(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the time at most."""
    _, preloader = site.preload()
    read = site.store.agents.versions_of_partition
    scans = []

    def slow(*of: Any) -> Any:
        site.now += 30.0
        scans.append(site.now)
        return read(*of)

    monkeypatch.setattr(site.store.agents, "versions_of_partition", slow)
    site.look(preloader)
    site.look(preloader, later_s=2_900.0)
    assert len(scans) == 1
    site.look(preloader, later_s=101.0)
    assert len(scans) == 2


def test_indexes_of_partitions_that_went_take_no_memory(site: Site) -> None:
    """They are 24 bytes an agent."""
    work, preloader = site.preload()
    assert len(site.files._indexes) == len(site.copied())
    preloader.stop(work)
    assert site.files._indexes == {}


def test_a_backlog_puts_every_look_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events come first."""
    work, preloader = site.preload()
    site.apply(work, 40)
    work.commit()
    before = site.copied()
    site.now += 10_000.0
    work.commits.full_at = site.now
    preloader.step()
    assert preloader._writer is not None
    assert all(watch.running is None for watch in preloader._writer._watches.values())
    site.look(preloader)
    assert site.copied() != before
