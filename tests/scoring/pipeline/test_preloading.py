"""Agents of a partition move in before they act: nothing of their state changes by it, and the store is asked less."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fixed_source import FixedSource
from trustwatch.ingest.errors import Unavailable
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.pipeline import preloading
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext
from trustwatch.scoring.pipeline.preloading import AgentPreloader
from trustwatch.scoring.pipeline.processor import StageMetrics
from trustwatch.scoring.pipeline.settings import PipelineSettings
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agent_pages import AgentColumns, AgentPage
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.erasures import EraseCommand
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

GONE = ("acme", "https://as.example", "agent-3")


class Site:
    """A partition with a store whose look-ups are counted."""

    def __init__(self, path: Path, kit: Any, records: list[Record]) -> None:
        self.kit, self.records, self.store = kit, records, open_store(sqlite_url(path))
        self.loads: list[list[int]] = []
        load = self.store.agents.load

        def counted(keys: Collection[int], owner: Position | None = None) -> dict[int, AgentRow]:
            self.loads.append(sorted(keys))
            return load(keys, owner)

        self.store.agents.load = counted  # type: ignore[method-assign]
        self.preloader = AgentPreloader(self.store, time.monotonic)

    def start(self, capacity: int = 100) -> PartitionPipeline:
        context = PipelineContext(
            FixedSource(self.records),  # type: ignore[arg-type]
            self.store,
            LivePolicy(PolicyBook()),
            PipelineSettings(),
            lambda: 0.0,
            lambda _seconds: None,
            lambda _done: None,
            StageMetrics(lambda: 0.0),
        )
        work = PartitionPipeline(0, self.kit.processor(self.store.agents, capacity), context)
        work.take_over()
        return work

    def apply(self, work: PartitionPipeline, count: int) -> None:
        work.apply(RecordBatch(0, work.next_offset, self.records[work.next_offset :][:count]))

    def fill(self, count: int = 150) -> None:
        """Store the state of the first *count* records."""
        first = self.start()
        self.apply(first, count)
        first.finish()

    def preload(self) -> None:
        while self.preloader.busy:
            self.preloader.step(None)

    def states(self) -> dict[int, AgentRow]:
        return {row.name.key: row for row in self.store.agents.states_of_partition(self.position, None, 1000).rows}

    @property
    def position(self) -> Position:
        return self.store.partitions.position(0)


@pytest.fixture
def make_site(tmp_path: Path, kit: Any) -> Iterator[Callable[[list[Record]], Site]]:
    made: list[Site] = []

    def make(records: list[Record]) -> Site:
        made.append(Site(tmp_path / f"{len(made)}.db", kit, records))
        return made[-1]

    yield make
    for one in made:
        one.preloader.close()
        one.store.close()


@pytest.fixture
def records(kit: Any, make: Any) -> list[Record]:
    """Of twelve agents."""
    return list(kit.records(make.stream(5, 300, odd=0.1)))


def test_who_is_preloaded_is_not_read_again_and_comes_to_the_same_state(
    make_site: Callable[[list[Record]], Site], records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages and parts; also a new agent is not looked for any more, since it is known who is stored."""
    monkeypatch.setattr(preloading, "PAGE_SIZE", 5)
    monkeypatch.setattr(preloading, "MIN_STEP_SIZE", 2)
    monkeypatch.setattr(preloading, "MAX_STEP_SIZE", 2)
    ours, plain = make_site(records), make_site(records)
    for site in (ours, plain):
        site.fill()
    loads = len(ours.loads)
    work, other = ours.start(), plain.start()
    ours.preloader.begin(work)
    ours.preload()
    for site, one in ((ours, work), (plain, other)):
        site.apply(one, 150)
        one.finish()
    assert len(ours.loads) == loads and len(plain.loads) > loads
    assert ours.states() == plain.states() and len(ours.states()) > 5


def test_a_step_takes_its_time_and_no_more(
    make_site: Callable[[list[Record]], Site], records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where agents move in slowly fewer do at a time, and more again later; never less than some."""
    monkeypatch.setattr(preloading, "MIN_STEP_SIZE", 1)
    monkeypatch.setattr(preloading, "MAX_STEP_SIZE", 4)
    monkeypatch.setattr(preloading, "KEY_RANGES", ((None, None),))
    site = make_site(records)
    site.fill()
    work = site.start()
    each_s, now, sizes = 0.0, 0.0, []
    move_in = work.agent_states.preload_columns

    def timed(columns: AgentColumns) -> int | None:
        nonlocal now
        now += each_s * columns.agent_count
        sizes.append(columns.agent_count)
        return move_in(columns)

    monkeypatch.setattr(work.agent_states, "preload_columns", timed)
    preloader = preloading.AgentPreloader(site.store, lambda: now)
    preloader.begin(work)
    for each_s in (0.0, 0.0, preloading.STEP_S / 2, 1.0, 0.0):  # noqa: B007 (the clock reads it)
        preloader.step(None)
    preloader.close()
    assert sizes == [1, 2, 4, 2, 1]


def test_a_page_is_older_than_what_was_met_since_the_take_over(
    make_site: Callable[[list[Record]], Site], records: list[Record]
) -> None:
    """An agent that acted, left memory and was stored again does not go back; an erased one stays away."""
    order = EraseCommand("01E", "agent", *GONE, "erased~1")
    at = records[209].received_ms
    records.insert(209, Record(RecordKind.FORGET, 0, at, msgspec.json.encode(order)))
    ours, plain = make_site(records), make_site(records)
    for site in (ours, plain):
        site.fill()
    work, other = ours.start(), plain.start()
    ours.preloader.begin(work)
    (reading,) = ours.preloader._waiting
    assert sum(future.result().agent_count for future in reading.pages) == len(ours.states())
    page = ours.store.agents.states_of_partition(ours.position, None, 1000).rows  # meanwhile much happens
    for site, one in ((ours, work), (plain, other)):
        for _ in range(6):
            site.apply(one, 10)
            one.commit()
        one.agent_states.builder.evict_all()
    ours.preload()
    stored = ours.states()
    assert any(row != stored[row.name.key] for row in page if row.name.key in stored)
    assert {row.name.identity for row in page} - {row.name.identity for row in stored.values()} == {GONE}
    for site, one in ((ours, work), (plain, other)):
        while one.next_offset < len(site.records):
            site.apply(one, 10)
        one.finish()
    assert ours.states() == plain.states()


def test_agents_of_another_version_move_in_beside_the_others(
    make_site: Callable[[list[Record]], Site], records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose state has another format come as rows, those that have it as columns, and both go on as ever."""
    monkeypatch.setattr(preloading, "PAGE_SIZE", 5)
    monkeypatch.setattr(preloading, "MIN_STEP_SIZE", 1)
    monkeypatch.setattr(preloading, "MAX_STEP_SIZE", 2)
    ours, plain = make_site(records), make_site(records)
    for site in (ours, plain):
        site.fill()
        older = [
            msgspec.structs.replace(row, risk=b"of before", state_version=row.state_version.split(":")[0] + ":before")
            for row in list(site.states().values())[::2]
        ]
        at = site.position
        site.store.commit(Commit(at, Position(0, at.epoch, at.offset), older, [], [], []))
    work, other = ours.start(), plain.start()
    ways: list[str] = []
    for way in ("preload", "preload_columns"):
        move_in = getattr(work.agent_states, way)
        monkeypatch.setattr(
            work.agent_states, way, lambda part, way=way, move_in=move_in: (ways.append(way), move_in(part))[1]
        )
    ours.preloader.begin(work)
    ours.preload()
    assert set(ways) == {"preload", "preload_columns"}
    assert len(work.agent_states.builder.slots) == len(ours.states())
    for site, one in ((ours, work), (plain, other)):
        site.apply(one, 150)
        one.finish()
    assert ours.states() == plain.states()


def test_a_flood_while_pages_come_ends_it(
    make_site: Callable[[list[Record]], Site],
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which rows are older than what was met is not known any more: no further page is read, and the log says so."""
    monkeypatch.setattr(preloading, "PAGE_SIZE", 2)
    site = make_site(records)
    site.fill()
    work = site.start(capacity=4)
    site.preloader.begin(work)
    site.preloader.step(None)
    site.apply(work, 60)
    for page in site.preloader._waiting[0].pages:
        page.result()
    pages: list[object] = []
    read = site.store.agents.states_of_partition
    monkeypatch.setattr(site.store.agents, "states_of_partition", lambda *of: (pages.append(of), read(*of))[1])
    site.preload()
    assert len(pages) <= 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "read when they act" in line]
    assert "agents=2" in line or '"agents": 2' in line or '"agents":2' in line


def test_a_store_that_is_away_ends_it(make_site: Callable[[list[Record]], Site], records: list[Record]) -> None:
    """Agents are then read as they act; another owner ends it, too."""
    site = make_site(records)
    site.fill()
    work = site.start()
    site.start()  # it is another's now
    site.preloader.begin(work)
    site.preload()
    assert len(work.agent_states.builder.slots) == 0

    def away(*_: object) -> AgentPage:
        raise Unavailable("away")

    work = site.start()
    site.store.agents.states_of_partition, read = away, site.store.agents.states_of_partition  # type: ignore[method-assign]
    site.preloader.begin(work)
    site.preload()
    site.store.agents.states_of_partition = read  # type: ignore[method-assign]
    loads = len(site.loads)
    site.apply(work, 50)
    assert len(site.loads) > loads


def test_a_partition_that_went_is_not_read_on(
    make_site: Callable[[list[Record]], Site], records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preloading, "PAGE_SIZE", 2)
    site = make_site(records)
    site.fill()
    gone, next_one = site.start(), site.start()
    site.preloader.begin(gone)
    site.preloader.begin(next_one)
    site.preloader.stop(gone)
    site.preload()
    assert len(gone.agent_states.builder.slots) == 0
    assert len(next_one.agent_states.builder.slots) == len(site.states())
