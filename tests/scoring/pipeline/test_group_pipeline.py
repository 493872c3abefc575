"""Partitions of one worker: what one of them has to say does not wait for the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trustwatch.ingest.source import PartitionOwner, Record, RecordBatch
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext
from trustwatch.scoring.pipeline.pipelines import MAX_PAUSE_S, ConsumerGroupPipeline
from trustwatch.scoring.pipeline.processor import StageMetrics
from trustwatch.scoring.pipeline.settings import PipelineSettings
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentSummary
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url


class SharedSite:
    """As much of a `GroupSource` as a worker asks for, and what happened in order.

    Args:
        parts: records of each partition; a batch is one of them.
    """

    def __init__(self, parts: Sequence[list[Record]]) -> None:
        self.parts, self.now = parts, 100.0
        self.poll_takes_s = 0.1
        """Time that a poll takes by the clock of the worker: longer than risk waits for other risk to leave with."""
        self.told: list[str] = []
        self._unread = [(partition, at) for at in range(len(parts[0])) for partition in range(len(parts))]

    def join(self, owner: PartitionOwner) -> None:
        owner.assigned(range(len(self.parts)))

    def end_offset(self, partition: int) -> int:
        return sum(told == f"read {partition}" for told in self.told)  # the rest arrives as it is read

    def read_id_hashes(self, _partition: int, _start: int, _end: int) -> npt.NDArray[np.uint64]:
        return np.empty(0, np.uint64)

    def poll(self, _max_records: int, _timeout_s: float) -> RecordBatch | None:
        self.now += self.poll_takes_s
        if not self._unread:
            return None
        partition, at = self._unread.pop(0)
        self.told.append(f"read {partition}")
        return RecordBatch(partition, at, self.parts[partition][at : at + 1])

    def pause(self, partition: int) -> None:
        self.told.append(f"dropped {partition}")

    def publish(self, position: Position, agents: Sequence[AgentSummary], _erasures: object) -> None:
        if agents:
            self.told.append(f"risk of {position.partition}")


@pytest.fixture
def parts(kit: Any, make: Any) -> list[list[Record]]:
    """Two events of an agent in each partition."""
    minutes = (make.START_MS, make.START_MS + 60_000)
    return [kit.records([make.event(2 * at + n, at, minutes[n]) for n in range(2)]) for at in range(3)]


def worker_of(site: SharedSite, kit: Any, store: SqlStore) -> ConsumerGroupPipeline:
    context = PipelineContext(
        site,  # type: ignore[arg-type]
        store,
        LivePolicy(PolicyBook()),
        PipelineSettings(),
        lambda: site.now,
        lambda _seconds: None,
        lambda _done: None,
        StageMetrics(lambda: site.now),
        on_risk=site.publish,
    )
    return ConsumerGroupPipeline(site, context, lambda _: kit.processor(store.agents))  # type: ignore[arg-type]


def test_risk_of_a_batch_does_not_wait_for_other_partitions(
    tmp_path: Path, kit: Any, parts: list[list[Record]]
) -> None:
    """An answer is as old as the batch it comes from, however many partitions have records at the same time."""
    site, store = SharedSite(parts), open_store(sqlite_url(tmp_path / "store.db"))
    worker = worker_of(site, kit, store)
    worker.start()
    assert worker.step() == 3
    assert site.told == ["read 0", "risk of 0", "read 1", "risk of 1", "read 2", "risk of 2"]
    worker.close()
    store.close()


def test_a_pause_within_a_step_makes_the_worker_ask_who_owns_a_partition(
    tmp_path: Path, kit: Any, parts: list[list[Record]]
) -> None:
    """A worker that slept may have lost its partitions, also between two batches of one step."""
    site, store = SharedSite(parts), open_store(sqlite_url(tmp_path / "store.db"))
    worker = worker_of(site, kit, store)
    worker.start()
    worker.step()
    site.told.clear()
    store.partitions.claim(1)  # by another worker
    site.poll_takes_s = MAX_PAUSE_S + 1.0
    worker.step()
    assert site.told == ["read 0", "risk of 0", "read 1", "dropped 1", "read 2", "risk of 2"]
    assert sorted(worker.progress()) == [0, 2]
    worker.close()
    store.close()
