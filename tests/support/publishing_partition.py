"""One partition on a database of its own, whose workers do what a test says, when it says so."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.pipeline.partition import PartitionPipeline
from trustwatch.scoring.pipeline.pipeline_context import PipelineContext, RiskListener
from trustwatch.scoring.pipeline.preloading import AgentPreloader
from trustwatch.scoring.pipeline.processor import StageMetrics
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentRow, ReleaseAgent
from trustwatch.scoring.records.erasures import EraseCommand
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from .published_risk import PublishedRisk

HOUR = 3_600_000
POLICY = LivePolicy(PolicyBook())
GONE = ("acme", "https://as.example", "agent-3")


class PublishingPartition:
    """One partition on a database of its own, with workers that begin a commit and end it when the test says so."""

    def __init__(self, path: Path, kit: Any, records: list[Record]) -> None:
        self.kit, self.records, self.now = kit, records, 100.0
        self.store: SqlStore = open_store(sqlite_url(path))
        self.written = len(records)
        self.preloader = AgentPreloader(self.store, time.monotonic)
        self.risk = PublishedRisk()
        self.committed: list[int] = []

    def context(self, on_risk: RiskListener, commit_share: float = 0.005, **settings: Any) -> PipelineContext:
        return PipelineContext(
            self,  # type: ignore[arg-type]
            self.store,
            POLICY,
            PipelineSettings(**settings),
            lambda: self.now,
            self._sleep,
            lambda done: self.committed.append(done.position.offset),
            StageMetrics(lambda: self.now),
            on_risk=on_risk,
            tuning=PipelineTuning(batch_size=40, commit_share=commit_share),
        )

    def _sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def sleep(self, _seconds: float) -> None:
        raise AssertionError("nothing is away")

    def end_offset(self, _partition: int) -> int:
        return self.written

    def read_id_hashes(self, _partition: int, start: int, end: int) -> Any:
        return np.array([record.id_hash for record in self.records[start:end]], np.uint64)

    def worker(self, on_risk: RiskListener | None = None, capacity: int = 9, **settings: Any) -> PartitionPipeline:
        processor = self.kit.processor(self.store.agents, capacity)
        made = PartitionPipeline(0, processor, self.context(on_risk or self.risk.collect, **settings))
        begin = made.take_over()
        self.preloader.begin(made)
        if any(record.kind == RecordKind.FORGET for record in self.records[:begin]):  # as the service does
            processor.engine.agent_states.erased_agents.add(GONE)
        return made

    def apply(self, work: PartitionPipeline, size: int) -> None:
        part = self.records[work.next_offset : self.written][:size]
        if part:
            work.apply(RecordBatch(0, work.next_offset, part))


def busy_records(kit: Any, make: Any) -> list[Record]:
    """Events with oddities, bad records, ticks, releases, feedback, and an erased agent that comes back."""
    records: list[Record] = []
    for number, record in enumerate(kit.records(make.stream(11, 400, odd=0.2))):
        records.append(record)
        at = record.received_ms
        if number % 37 == 36:
            records += [Record(RecordKind.EVENT, number + 1, at, b"rubbish"), kit.tick(at + 3 * HOUR)]
        if number % 90 == 89:
            released = ReleaseAgent("", "ann", "ok", "acme", "https://as.example", f"agent-{number % 12}")
            records.append(Record(RecordKind.CONTROL, 0, at, msgspec.json.encode(released)))
        if number == 200:
            order = EraseCommand("01E", "agent", *GONE, "erased~1")
            records.append(Record(RecordKind.FORGET, 0, at, msgspec.json.encode(order)))
    return [*records, kit.tick(records[-1].received_ms + 48 * HOUR)]


def stored_states(site: PublishingPartition) -> dict[str, tuple[bytes, bytes, bytes]]:
    """All that the database has of what agents go on from."""
    names = [agent.name.key for agent in site.store.agents.iterate()]
    return states_of(site.store.agents.load(names).values())


def states_of(rows: Iterable[AgentRow]) -> dict[str, tuple[bytes, bytes, bytes]]:
    return {row.name.agent_id: (row.features, row.risk, row.announced_paths, row.capabilities) for row in rows}
