"""A switch of models at a recorded offset: whoever passes it, and however often he is interrupted, ends alike."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.events import decode_event
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import ModelRegistry, save_trained_model
from trustwatch.models.model_training import train_model
from trustwatch.scoring.engine.delegation import EdgeCollector
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.commits import Commit
from trustwatch.scoring.records.models import ModelSwitch, SwitchModel, encode_model_switch
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support.nightly import is_nightly
from ...support.one_partition import EmbeddedPipeline

NOW = 1_764_900_000_000
POLICY = LivePolicy(PolicyBook(modes={"acme": "enforce"}))


class TwoModels(NamedTuple):
    """An installed model (`one`) and a later version (`two`) on the shelf, and a day that is to come."""

    installed: Path
    shelf: Path
    events: list[dict[str, Any]]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, make: Any) -> TwoModels:
    """Two models of one salt: the second has learned more, other forests and other agents."""
    folder = tmp_path_factory.mktemp("switch")
    past = make.stream(1, 2_000)
    later = make.stream(2, 2_000, agents=16, start_ms=make.START_MS + 20 * 86_400_000)

    def train(where: Path, name: str, events: list[dict[str, Any]], salt: bytes = make.SALT) -> None:
        columns = ColumnEncoder(salt).encode([decode_event(json.dumps(one).encode()) for one in events])
        settings = DetectorSettings(trees=20, folds=3, seed=len(name))
        save_trained_model(where, train_model(columns, salt, name, settings), settings, 100, NOW)

    train(folder / "installed", "one", past)
    train(folder / "shelf" / "two", "two", past[1_000:] + later)
    train(folder / "shelf" / "salted", "salted", past, b"another salt!")
    day = make.stream(3, 1_500, agents=18, start_ms=make.START_MS + 60 * 86_400_000, odd=0.15)
    return TwoModels(folder / "installed", folder / "shelf", day)


class SwitchingPipelines:
    """A log, a store, a shelf, and pipelines on them that may be given up at any moment."""

    def __init__(self, folder: Path, world: TwoModels) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        shutil.copytree(world.installed, folder / "model")
        shutil.copytree(world.shelf, folder / "models")
        self.shelf = ModelRegistry(folder / "models", folder / "model")
        self.log = EventLog(folder / "log")
        self.store: SqlStore = open_store(sqlite_url(folder / "tw.db"))
        self.pipelines: list[EmbeddedPipeline] = []

    def wish(self, version: str) -> Record:
        """The command to switch to a version."""
        digest = read_manifest(self.shelf.find_directory(version))[1]
        return Record(RecordKind.CONTROL, 0, NOW, encode_model_switch(SwitchModel(version, digest, "ann", "better")))

    def write(self, records: list[Record]) -> None:
        self.log.append(records)
        self.log.sync()

    def pipeline(self, capacity: int = 1_000, batch: int = 200) -> EmbeddedPipeline:
        """A worker as `serve` makes one."""
        models = ActiveModels(self.shelf, lambda: NOW)
        chosen = models.choose(self.store.models.current_switch(0))
        model = models.load(chosen.version, chosen.digest)
        engine = Engine(model, EngineSettings(capacity=capacity), self.store.agents, identities=self.store.identities)
        processor = Processor(
            engine,
            ColumnEncoder(model.salt, identities=self.store.identities),
            DuplicateWindow(4096),
            POLICY,
            edges=EdgeCollector(),
            models=models,
        )
        settings = PipelineSettings(commit_interval_s=0.0)
        pipeline = EmbeddedPipeline(
            self.folder / "log",
            processor,
            self.store,
            POLICY,
            settings,
            time.monotonic,
            time.sleep,
            tuning=PipelineTuning(batch_size=batch, poll_s=0.0, retry_s=0.01),
        )
        self.pipelines.append(pipeline)
        pipeline.start()
        return pipeline

    def state(self) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """Agents with all their state, decisions, and switches by offset."""
        keys = [one.name.key for one in self.store.agents.iterate()]
        decisions = sorted(self.store.decisions.page(limit=500).items, key=lambda one: one.decision_id)
        switches = sorted((one.offset, one.version) for one in self.store.models.list_switches())
        return {row.name.agent_id: row for row in self.store.agents.load(keys).values()}, decisions, switches

    def close(self) -> None:
        for pipeline in self.pipelines:
            pipeline.kill()
        self.log.close()
        self.store.close()


@pytest.fixture
def site(tmp_path: Path, world: TwoModels) -> Iterator[SwitchingPipelines]:
    made = SwitchingPipelines(tmp_path / "site", world)
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, world: TwoModels, kit: Any) -> Any:
    """State of a run that met both switches without any interruption."""
    site = SwitchingPipelines(tmp_path_factory.mktemp("undisturbed") / "site", world)
    site.write(day(site, world, kit))
    drain(site.pipeline())
    found = site.state()
    site.close()
    return found


def day(site: SwitchingPipelines, world: TwoModels, kit: Any) -> list[Record]:
    """Events, a switch among them, ticks, and the way back."""
    records = kit.records(world.events)
    last = records[-1].received_ms
    parts = [
        records[:500],
        [site.wish("two")],
        records[500:700],
        [kit.tick(records[700].received_ms)],
        records[700:1_100],
    ]
    return list(itertools.chain(*parts, [site.wish("one")], records[1_100:], [kit.tick(last + 7_200_000)]))


def drain(pipeline: EmbeddedPipeline) -> None:
    while pipeline.step():
        pass
    pipeline.finish()


def test_the_day_shows_a_difference(undisturbed: Any, tmp_path: Path, world: TwoModels, kit: Any) -> None:
    """Else the tests below could not fail: without the switches the state is another one."""
    site = SwitchingPipelines(tmp_path / "plain", world)
    wishes = [record for record in day(site, world, kit) if record.kind != RecordKind.CONTROL]
    site.write(wishes)
    drain(site.pipeline())
    agents, decisions, switches = site.state()
    site.close()

    assert switches == [(0, "one")]
    assert {row.agent_id for row in (one.name for one in agents.values())} == set(undisturbed[0])
    assert agents != undisturbed[0]
    assert {one.model_version for one in decisions} == {"one"}
    assert {one.model_version for one in undisturbed[1]} == {"one", "two"}


def test_switches_stand_behind_their_records(undisturbed: Any) -> None:
    """Decisions name the version that was in force where they were made."""
    assert undisturbed[2] == [(0, "one"), (501, "two"), (1_103, "one")]
    for decision in undisturbed[1]:
        assert decision.model_version == ("two" if 501 <= decision.offset < 1_103 else "one"), decision.offset


@pytest.mark.parametrize(("capacity", "batch"), [(1_000, 37), (9, 9), (1_000, 1_000)])
def test_cuts_and_crowds_change_nothing(
    site: SwitchingPipelines, world: TwoModels, kit: Any, undisturbed: Any, capacity: int, batch: int
) -> None:
    """Batches of any size, and agents that move out of memory all the time."""
    site.write(day(site, world, kit))
    drain(site.pipeline(capacity, batch))

    assert site.state() == undisturbed


@pytest.mark.parametrize("steps", [1, 14, 15] if not is_nightly() else [1, 3, 13, 14, 15, 16, 29, 30])
def test_a_worker_that_dies_at_any_step_leaves_old_or_new(
    site: SwitchingPipelines, world: TwoModels, kit: Any, undisturbed: Any, steps: int
) -> None:
    """It is given up with what it had applied, without a word, again and again; the next one goes on."""
    site.write(day(site, world, kit))
    for _ in range(200):
        pipeline = site.pipeline(batch=37)
        done = [pipeline.step() for _ in range(steps)]
        pipeline.close()
        stored, found = site.store.partitions.position(0), site.store.models.current_switch(0)
        if found is not None:
            expected = "two" if 501 <= stored.offset < 1_103 else "one"
            assert found.version == expected
        if done[-1] == 0:
            break
    pipeline.finish()

    agents, decisions, switches = site.state()
    assert (agents, decisions) == undisturbed[:2]
    assert [version for _, version in switches] == ["one", "two", "one"]


def test_a_model_of_another_salt_ends_the_worker(site: SwitchingPipelines, world: TwoModels, kit: Any) -> None:
    """Agents' state could not be carried over; nothing behind the command is judged by the old model either."""
    site.write([*kit.records(world.events[:50]), site.wish("salted"), *kit.records(world.events[50:100])])
    pipeline = site.pipeline()
    with pytest.raises(ModelError, match="another salt"):
        drain(pipeline)

    assert site.store.partitions.position(0).offset <= 50


def test_a_version_that_was_taken_away_is_waited_for(site: SwitchingPipelines, world: TwoModels, kit: Any) -> None:
    """The worker ends and says which directory is missing; once it is back, the day goes on as if nothing had been."""
    site.write([*kit.records(world.events[:50]), site.wish("two"), *kit.records(world.events[50:100])])
    site.shelf.directory_of("two").rename(site.folder / "away")
    with pytest.raises(ModelError, match="is not at"):
        drain(site.pipeline())
    (site.folder / "away").rename(site.shelf.directory_of("two"))
    drain(site.pipeline())

    switch = site.store.models.current_switch(0)
    assert switch is not None
    assert (switch.version, switch.offset) == ("two", 51)
    assert site.store.partitions.position(0).offset == 101


def test_a_version_that_was_changed_is_refused(site: SwitchingPipelines, world: TwoModels, kit: Any) -> None:
    """The command names what was meant by its digest."""
    site.write([*kit.records(world.events[:50]), site.wish("two")])
    shutil.rmtree(site.shelf.directory_of("two"))
    shutil.copytree(world.shelf / "salted", site.shelf.directory_of("two"))
    with pytest.raises(ModelError, match="with digest"):
        drain(site.pipeline())


def test_another_installed_model_comes_into_force_at_a_start(
    site: SwitchingPipelines, world: TwoModels, kit: Any
) -> None:
    """As before there were versions: the operator replaces `model_dir` and restarts. The others stay on the shelf."""
    site.write([*kit.records(world.events[:50]), site.wish("two")])
    drain(site.pipeline())
    shutil.rmtree(site.folder / "model")
    shutil.copytree(world.shelf / "salted", site.folder / "model")
    site.write(kit.records(world.events[50:60]))
    drain(site.pipeline())

    assert [(one[0], one[1]) for one in site.state()[2]] == [(0, "one"), (51, "salted"), (51, "two")]
    newest = site.store.models.current_switch(0)
    assert newest is not None
    assert newest.version == "salted"
    assert {one.version for one in site.shelf.versions()} == {"one", "two", "salted"}


def test_a_new_partition_settles_its_model_as_it_is_taken_over(
    site: SwitchingPipelines, world: TwoModels, kit: Any
) -> None:
    """Others may switch before it has committed anything; its first records are judged as they were to be."""
    site.write(kit.records(world.events[:400]))
    site.pipeline()  # taken over, and lost before it commits any record
    assert site.store.models.current_switch(0).version == "one"  # type: ignore[union-attr]
    digest = read_manifest(site.shelf.find_directory("two"))[1]
    other = site.store.partitions.claim(1)
    later = ModelSwitch(1, other.epoch, 40, "two", digest, read_manifest(world.installed)[1], NOW + 1)
    site.store.commit(Commit(other, other, [], [], [], [], switches=[later]))

    again = site.pipeline()
    drain(again)
    assert {row.version for row in site.store.models.list_switches() if row.partition == 0} == {"one"}
    assert {one.model_version for one in site.state()[1]} == {"one"}
