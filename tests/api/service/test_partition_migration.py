"""`topics restored` and `topics grow`: where reading goes on, and how long work goes on before partitions move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trustwatch.api.service import commands
from trustwatch.api.service.partition_migration import PARTITION_COUNT_KEY, PartitionExtent, resume_offsets
from trustwatch.ingest.errors import ConfigError
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

TOPIC = {0: PartitionExtent(100, 900), 1: PartitionExtent(0, 50)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(sqlite_url(tmp_path / "store.db"))
    yield made
    made.close()


@pytest.mark.parametrize("offsets", [{0: 100, 1: 0}, {0: 900, 1: 50}, {0: 500}])
def test_what_the_topic_holds_is_read_on(store: SqlStore, offsets: dict[int, int]) -> None:
    for partition, offset in offsets.items():
        store.partitions.set_position(partition, offset)
    assert resume_offsets(store, TOPIC, anew=False, accept_loss=False) == {0: offsets[0], 1: offsets.get(1, 0)}


@pytest.mark.parametrize(("offsets", "accepted"), [({0: 99, 1: 51}, {0: 100, 1: 50}), ({}, {0: 100, 1: 0})])
def test_loss_is_accepted_by_name_alone(store: SqlStore, offsets: dict[int, int], accepted: dict[int, int]) -> None:
    for partition, offset in offsets.items():
        store.partitions.set_position(partition, offset)
    with pytest.raises(ConfigError, match=r"0: \d+, holds 100 to 900.*--accept-loss.*--events-anew"):
        resume_offsets(store, TOPIC, anew=False, accept_loss=False)
    assert resume_offsets(store, TOPIC, anew=False, accept_loss=True) == accepted


def test_a_topic_that_was_made_again_is_read_from_its_beginning(store: SqlStore) -> None:
    store.partitions.set_position(0, 500)
    assert resume_offsets(store, TOPIC, anew=True, accept_loss=False) == {0: 100, 1: 0}


def test_state_of_another_number_of_partitions_is_refused(store: SqlStore) -> None:
    store.metadata.put(PARTITION_COUNT_KEY, "1")
    with pytest.raises(ConfigError, match="has 2 partitions, this state was made for 1"):
        resume_offsets(store, TOPIC, anew=False, accept_loss=True)


class DrainingPipeline:
    """A pipeline whose only partition is there or not, one step after the other, each of which takes ten seconds."""

    def __init__(self, steps: list[bool]) -> None:
        self.steps, self.now_s, self.finished = iter(steps), 0.0, False
        self.owned = False

    def start(self) -> None:
        pass

    def step(self) -> bool:
        self.now_s += 10.0
        self.owned = next(self.steps)
        return self.now_s < 200.0

    def progress(self) -> dict[int, Any]:
        return {0: SimpleNamespace(behind=0)} if self.owned else {}

    def finish(self) -> None:
        self.finished = True


def drain(monkeypatch: pytest.MonkeyPatch, steps: list[bool]) -> DrainingPipeline:
    pipeline = DrainingPipeline(steps)
    worker = SimpleNamespace(pipeline=pipeline, partitions=1, close=lambda: None)
    monkeypatch.setattr(commands, "GroupPipelineWorker", lambda *_, **__: worker)
    monkeypatch.setattr(commands.clock, "monotonic", lambda: pipeline.now_s)
    settings: Any = SimpleNamespace(brokers=SimpleNamespace(session_timeout_s=6.0, group_id="ours"))
    commands.drain_events(settings)
    return pipeline


def test_a_partition_that_was_lost_late_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drain(monkeypatch, [True] * 10 + [False] * 3 + [True] * 10).finished


@pytest.mark.parametrize("owned_before", [0, 10])
def test_another_worker_is_refused(monkeypatch: pytest.MonkeyPatch, owned_before: int) -> None:
    with pytest.raises(ConfigError, match="other workers of group ours still run"):
        drain(monkeypatch, [True] * owned_before + [False] * 10)
