"""What rests on rows of agents, on every store: refused while newer states are in checkpoints, before a row changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from trustwatch.api.service.checkpoint_recovery import write_rows_from_checkpoints
from trustwatch.api.service.partition_migration import GROWTH_TARGET_KEY, PartitionGrowth
from trustwatch.api.settings.root import Settings
from trustwatch.api.settings.storage_settings import StoreSettings
from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import IdentityHasher
from trustwatch.ingest.objects.folder_objects import FolderObjects
from trustwatch.ingest.topics.topic_definitions import TopicNames
from trustwatch.scoring.records.commits import Checkpoint, Commit, Position
from trustwatch.scoring.store.checkpoint_files import CheckpointFiles
from trustwatch.scoring.store.sql_store import SqlStore

from ..support.stored_rows import agent, decision, name

BOT, CLERK, DRIVER = name("bot"), name("clerk"), name("driver")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", store=StoreSettings(checkpoints=str(tmp_path / "states")))


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    return CheckpointFiles(FolderObjects(tmp_path / "states"))


@pytest.fixture
def made(store: SqlStore, files: CheckpointFiles) -> list[Checkpoint]:
    """Checkpoints of a partition of three agents: bot is in both, clerk in the first, driver in the second.

    About driver something was decided with the second, whose commit wrote its row.
    """
    at = store.partitions.claim(0)
    first, second = Position(0, at.epoch, 10), Position(0, at.epoch, 20)
    store.commit(Commit(at, Position(0, at.epoch, 5), [agent(one, 1) for one in (BOT, CLERK, DRIVER)], [], [], []))
    told = [
        files.write(first, [agent(BOT, 2), agent(CLERK, 2), agent(DRIVER, 2)]),
        files.write(second, [agent(BOT, 3), agent(DRIVER, 3)]),
    ]
    store.commit(Commit(Position(0, at.epoch, 5), first, [], [], [], [], checkpoint=told[0]))
    decided = [msgspec.structs.replace(decision(1, DRIVER), agent=DRIVER)]
    store.commit(Commit(first, second, [agent(DRIVER, 3)], decided, [], [], checkpoint=told[1]))
    return told


def levels(store: SqlStore) -> dict[str, int]:
    return {row.name.agent_id: row.level for row in store.agents.iterate()}


def snapshot(store: SqlStore) -> tuple[object, ...]:
    """Everything that a refused move might have changed."""
    return levels(store), store.partitions.list_positions(), store.checkpoints.list_all(), store.identities.proof


def test_no_agent_moves_and_no_key_changes(store: SqlStore, made: list[Checkpoint]) -> None:
    """Rows alone would move, and agents of checkpoints have keys of before."""
    before = snapshot(store)
    with pytest.raises(ConfigError, match=f"newer states of some are in checkpoints .{made[0].name}.*cleanly"):
        store.partitions.repartition(lambda _: 1)
    with pytest.raises(ConfigError, match=r"in checkpoints, whose agents have keys of before.*stop them cleanly"):
        store.use_identities(IdentityHasher(b"k" * 32), renew=True)

    assert snapshot(store) == before
    assert not store.has_identity_key()


class Brokers:
    """Of an events topic of two partitions, of which nothing waits."""

    def __init__(self) -> None:
        self.grown: list[str] = []

    def describe(self, _topic: str) -> Any:
        return SimpleNamespace(partitions=2)

    def grow_partitions(self, topic: str, _partitions: int) -> None:
        self.grown.append(topic)

    def end_offsets(self) -> dict[tuple[str, int], int]:
        return {("trustwatch.events", 0): 20, ("trustwatch.events", 1): 0}


def growth(store: SqlStore, brokers: Any, drain: Callable[[], None]) -> PartitionGrowth:
    return PartitionGrowth(store, brokers, brokers, TopicNames(), drain, lambda _: None)


def test_topics_grow_once_rows_have_everything(store: SqlStore, made: list[Checkpoint], settings: Settings) -> None:
    """It refuses before anything is changed; a worker that drains and ends its checkpoints lets it go on."""
    brokers, before = Brokers(), snapshot(store)
    told = "agents of partition 0 are in checkpoints, and growing topics goes by rows.*then run this again"
    with pytest.raises(ConfigError, match=told):
        growth(store, brokers, lambda: None).run(4)
    assert snapshot(store) == before
    assert not store.metadata.get(GROWTH_TARGET_KEY)
    assert brokers.grown == []
    grown = growth(store, brokers, lambda: no_loss(settings, store)).run(4)
    assert (grown.before, grown.after) == (2, 4)
    assert levels(store) == {"bot": 3, "clerk": 2, "driver": 3}


def test_a_worker_of_the_last_moment_keeps_topics_from_growing(
    store: SqlStore, files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fenced then; and workers, which have to end its checkpoint, are let in again."""
    at, brokers = store.partitions.claim(0), Brokers()
    store.commit(Commit(at, Position(0, at.epoch, 20), [agent(BOT, 1)], [], [], []))
    put = store.metadata.put

    def put_late(key: str, value: str) -> None:
        put(key, value)
        if value == "4":
            late = files.write(Position(0, at.epoch, 20), [agent(BOT, 2)])
            store.commit(Commit(late.position, late.position, [], [], [], [], checkpoint=late))

    monkeypatch.setattr(store.metadata, "put", put_late)
    with pytest.raises(ConfigError, match="are in checkpoints"):
        growth(store, brokers, lambda: None).run(4)
    assert brokers.grown == []
    assert store.metadata.get(GROWTH_TARGET_KEY) == ""


def no_loss(settings: Settings, store: SqlStore) -> None:
    assert write_rows_from_checkpoints(settings, store, accept_loss=False) == []


def test_rows_are_written_from_checkpoints(
    store: SqlStore, made: list[Checkpoint], settings: Settings, files: CheckpointFiles
) -> None:
    """Each agent's newest; the partition stays where it was, above all epochs before, and no file is left."""
    before = store.partitions.position(0)
    no_loss(settings, store)

    assert levels(store) == {"bot": 3, "clerk": 2, "driver": 3}
    assert store.partitions.position(0) == Position(0, before.epoch + 1, 20)
    assert store.checkpoints.list_all() == []
    assert files.list_files() == {}
    no_loss(settings, store)  # there is nothing to do
    assert store.partitions.position(0).epoch == before.epoch + 1


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_lost_checkpoints_are_accepted_by_name_alone(
    store: SqlStore, made: list[Checkpoint], settings: Settings, tmp_path: Path, damage: str
) -> None:
    """Agents of the last one go on from the one before; a row that is newer than that stays."""
    path, before = tmp_path / "states" / made[1].name, snapshot(store)
    path.unlink() if damage == "gone" else path.write_bytes(b"something else")
    told = rf"gone or damaged \({made[1].name} of 2 agents; looked at: {tmp_path}/states\).*--accept-lost-states"
    with pytest.raises(ConfigError, match=told):
        write_rows_from_checkpoints(settings, store, accept_loss=False)
    assert snapshot(store) == before

    assert write_rows_from_checkpoints(settings, store, accept_loss=True) == [made[1]]
    assert levels(store) == {"bot": 2, "clerk": 2, "driver": 3}
    assert store.checkpoints.list_all() == []


def test_without_any_place_all_go_on_from_rows(store: SqlStore, made: list[Checkpoint], settings: Settings) -> None:
    nowhere = msgspec.structs.replace(settings, store=StoreSettings(checkpoints="none"))
    with pytest.raises(ConfigError, match=r"looked at: nothing, since `store.checkpoints` names no place"):
        write_rows_from_checkpoints(nowhere, store, accept_loss=False)

    assert write_rows_from_checkpoints(nowhere, store, accept_loss=True) == made
    assert levels(store) == {"bot": 1, "clerk": 1, "driver": 3}
