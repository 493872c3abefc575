"""The pipeline on a real log and a real database: one transaction, pauses without loss, and what the view is told."""

from __future__ import annotations

import math
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trustwatch.ingest.errors import CorruptLog, Fenced
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.source import Record
from trustwatch.scoring.pipeline import preloading
from trustwatch.scoring.pipeline.ipc import (
    LENGTH_PREFIX,
    MAX_FRAME_ITEMS,
    NOT_MEASURED,
    PipelineUpdateSender,
    decode_update,
)
from trustwatch.scoring.pipeline.pipeline import BESIDE_POLL_S
from trustwatch.scoring.pipeline.pipeline_context import CommittedChanges
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentSummary, RiskLevel, agent_summary
from trustwatch.scoring.records.commits import Position
from trustwatch.scoring.store.sql_store import SqlStore, open_store, sqlite_url

from ...support.one_partition import EmbeddedPipeline

HOUR = 3_600_000

POLICY = LivePolicy(PolicyBook())


class RestartedPipelines:
    """A data directory with its log and its store, and pipelines on it."""

    def __init__(self, folder: Path, kit: Any) -> None:
        self.folder, self.kit = folder, kit
        self.log = EventLog(folder / "log")
        self.store: SqlStore = open_store(sqlite_url(folder / "tw.db"))
        self.committed: list[CommittedChanges] = []
        self.told: list[AgentSummary] = []
        self.pauses = 0
        self.on_pause: Callable[[], None] = lambda: None
        self.pipelines: list[EmbeddedPipeline] = []

    def append(self, records: list[Record]) -> None:
        self.log.append(records)
        self.log.sync()

    def pipeline(
        self,
        capacity: int = 100,
        store: Any = None,
        max_uncommitted: int = 20_000,
        batch_size: int = 1_000,
        **settings: Any,
    ) -> EmbeddedPipeline:
        store = store or self.store
        chosen = PipelineSettings(**{"commit_interval_s": 0.0, **settings})
        made = EmbeddedPipeline(
            self.folder / "log",
            self.kit.processor(store.agents, capacity),
            store,
            POLICY,
            chosen,
            time.monotonic,
            self.pause,
            self.committed.append,
            on_risk=lambda _, agents, erased: self.told.extend(agents),
            tuning=PipelineTuning(max_uncommitted, batch_size=batch_size, retry_s=0.01, poll_s=0.0),
        )
        self.pipelines.append(made)
        return made

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.on_pause()
        time.sleep(seconds)

    def rows(self) -> dict[str, Any]:
        return {summary.name.agent_id: summary for summary in self.store.agents.iterate()}

    def close(self) -> None:
        for pipeline in self.pipelines:
            pipeline.kill()
        self.log.close()
        self.store.close()


@pytest.fixture
def site(tmp_path: Path, kit: Any) -> Iterator[RestartedPipelines]:
    made = RestartedPipelines(tmp_path, kit)
    yield made
    made.close()


def test_stored_agents_move_in_without_a_pause(
    site: RestartedPipelines, kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While some are there, nobody waits for records; behind a backlog they wait, and the worker does not spin."""
    site.append(list(kit.records([make.event(n, n, make.START_MS + 10**9 + n) for n in range(6)])))
    first = site.pipeline()
    first.start()
    drain(first)
    monkeypatch.setattr(preloading, "MIN_STEP_SIZE", 1)
    monkeypatch.setattr(preloading, "MAX_STEP_SIZE", 1)
    monkeypatch.setattr(preloading, "FEW", 5)
    pipeline, waits = site.pipeline(), list[float]()
    poll = pipeline.source.poll
    monkeypatch.setattr(pipeline.source, "poll", lambda most, wait_s: (waits.append(wait_s), poll(most, wait_s))[1])
    pipeline.start()
    preloader, commits = pipeline._preloader, pipeline._partitions[0].commits
    wait_for_pages(pipeline)
    commits.full_at = math.inf
    pipeline.step()
    assert preloader.has_agents and waits == [BESIDE_POLL_S]
    commits.full_at = -math.inf
    for _ in range(6):
        pipeline.step()
    assert waits[1:] == [0.0] * 6 and not preloader.busy and not preloader.has_agents
    first.close()
    pipeline.close()


def wait_for_pages(pipeline: EmbeddedPipeline) -> None:
    """Wait until the first pages of the partition were read."""
    for preload in pipeline._preloader._waiting:
        for page in preload.pages:
            page.result()


@pytest.mark.parametrize("stored", [0, 6])
def test_few_agents_move_in_before_a_backlog(
    site: RestartedPipelines, kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    """Of a new partition, or one of few agents, nobody is looked for in the store, however much there is to do."""
    site.append(list(kit.records([make.event(n, n, make.START_MS + 10**9 + n) for n in range(stored)])))
    first = site.pipeline()
    first.start()
    drain(first)
    first.close()
    pipeline, loads = site.pipeline(), list[Any]()
    load = site.store.agents.load
    monkeypatch.setattr(site.store.agents, "load", lambda *of: (loads.append(of), load(*of))[1])
    pipeline.start()
    wait_for_pages(pipeline)
    pipeline._partitions[0].commits.full_at = math.inf
    for _ in range(4):  # at most two pages, and the agents of each
        pipeline.step()
    assert not pipeline._preloader.busy and pipeline._partitions[0].commits.backlogged
    site.append(list(kit.records([make.event(90 + n, n, make.START_MS + 2 * 10**9 + n) for n in range(12)])))
    drain(pipeline)
    assert len(site.rows()) == 12 and loads == []
    pipeline.close()


def critical(make: Any, agent: int, at_ms: int, number: int) -> list[dict[str, Any]]:
    token = {"credential": {"method": "none", "token_id": f"t{number}"}}
    return [
        make.event(number, agent, at_ms, type="token.revoke", **token),
        make.event(number + 1, agent, at_ms + 1, **token),
        make.event(number + 2, agent, at_ms + 2, **token),
    ]


def drain(pipeline: EmbeddedPipeline) -> None:
    while pipeline.step():
        pass
    pipeline.finish()


def test_one_commit_writes_state_decisions_alerts_and_position(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """What a batch changed is stored together; the view has heard of it before."""
    site.append([*kit.records(critical(make, 1, make.START_MS, 1)), Record(0, 5, 9, b"rubbish")])
    pipeline = site.pipeline()
    pipeline.start()
    assert site.committed == []
    drain(pipeline)
    done, noted = site.committed
    assert noted.decisions == [], "the last one only says that all is published"
    assert done.position == site.store.partitions.position(0) == Position(0, 1, 4)
    stored = site.rows()["agent-1"]
    assert stored.level == RiskLevel.CRITICAL
    assert site.told[-1] == stored
    assert {d.decision_id for d in site.store.decisions.page().items} == {d.decision_id for d in done.decisions}
    assert stored.decision_id in {d.decision_id for d in done.decisions}
    assert site.store.dead_letters.count().stored == 1
    with sqlite3.connect(site.folder / "tw.db") as connection:
        levels = [level for (level,) in connection.execute("select level from outbox")]
    connection.close()
    assert levels and set(levels) <= {2, 3, 4}
    assert {"poll", "apply", "commit", "rows"} <= set(pipeline.stages.seconds)


def test_a_flood_of_bad_records_is_committed_early(site: RestartedPipelines, kit: Any) -> None:
    """Dead letters do not pile up in memory until the commit interval has passed."""
    site.append([Record(0, number, 9, b"rubbish") for number in range(1, 31)])
    pipeline = site.pipeline(batch_size=10, max_uncommitted=20, commit_interval_s=60.0)
    pipeline.start()
    pipeline.step()
    assert site.committed == []
    while not site.committed:
        pipeline.step()
    assert site.committed[0].position.offset == 20
    assert site.store.dead_letters.count().stored >= 20


def test_restart_goes_on_where_it_stopped(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """A second pipeline begins behind the first one's commit and still knows its duplicates."""
    events = make.stream(4, 60)
    site.append(kit.records(events[:40]))
    first = site.pipeline()
    first.start()
    drain(first)
    site.append(kit.records(events[30:]))
    second = site.pipeline()
    second.start()
    assert second.position == Position(0, 2, 40)
    drain(second)
    assert (second.stages.counts["events"], second.stages.counts["duplicates"]) == (20, 10)


def test_another_worker_fences_this_one(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """Who lost the partition can not write, and says so."""
    site.append(kit.records(make.stream(4, 10)))
    old, new = site.pipeline(), site.pipeline()
    old.start()
    new.start()
    with pytest.raises(Fenced):
        drain(old)
    drain(new)
    assert site.store.partitions.position(0) == Position(0, 2, 10)


def test_a_log_that_lost_records_is_refused(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """State that is ahead of the log means the wrong directory or a restored backup."""
    site.append(kit.records(make.stream(4, 10)))
    pipeline = site.pipeline()
    pipeline.start()
    drain(pipeline)
    other = site.folder / "other"
    other.mkdir()
    log = EventLog(other / "log")
    log.append(kit.records(make.stream(4, 3)))
    log.sync()
    wrong = EmbeddedPipeline(
        other / "log",
        kit.processor(site.store.agents),
        site.store,
        POLICY,
        PipelineSettings(),
        time.monotonic,
        site.pause,
        site.committed.append,
    )
    with pytest.raises(CorruptLog, match="ends at 3"):
        wrong.start()
    wrong.kill()
    log.close()


def impatient(site: RestartedPipelines) -> SqlStore:
    """A store on the same database that waits for no lock."""
    from sqlalchemy import event

    store: SqlStore = open_store(sqlite_url(site.folder / "tw.db"))
    event.listen(
        store.database.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=1").close()
    )
    store.database.engine.dispose()
    return store


def test_a_locked_database_pauses_the_pipeline(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """While another connection holds the database, the commit waits; then everything is there exactly once."""
    store = impatient(site)
    pipeline = site.pipeline(store=store, capacity=5)
    pipeline.start()
    site.append(kit.records(make.stream(6, 120, odd=0.1)))
    blocker = sqlite3.connect(site.folder / "tw.db", isolation_level=None, check_same_thread=False)
    blocker.execute("begin immediate")

    def unlock() -> None:
        if site.pauses == 2:
            blocker.execute("rollback")

    site.on_pause = unlock
    drain(pipeline)
    blocker.close()
    store.close()
    assert site.pauses >= 2
    undisturbed = kit.processor()
    undisturbed.apply(next(kit.batches(kit.records(make.stream(6, 120, odd=0.1)), iter([120]))))
    expected = {row.name.agent_id: row for row in undisturbed.engine.agent_states.changed_rows()}
    found = site.rows()
    assert found == {name: agent_summary(row) for name, row in expected.items()}
    assert site.store.partitions.position(0).offset == 120


def test_a_store_that_can_not_be_read_pauses_moves(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """While the database cannot be opened, agents wait outside; none goes on without its history."""
    first = site.pipeline(capacity=2)
    first.start()
    site.append(kit.records([make.event(n, f"n{n % 6}", make.START_MS + n) for n in range(30)]))
    drain(first)
    database = site.folder / "tw.db"
    store = open_store(sqlite_url(database))
    pipeline = site.pipeline(store=store, capacity=2)
    pipeline.start()
    store.database.engine.dispose()
    hidden, nowhere = site.folder / "hidden", site.folder / "nowhere"
    hidden.hardlink_to(database)
    nowhere.symlink_to(site.folder / "missing" / "tw.db")
    nowhere.replace(database)  # in one step: a thread that opens the database between two would make a new one

    def show() -> None:
        if site.pauses == 2:
            hidden.replace(database)

    site.on_pause = show
    site.store.database.engine.dispose()
    site.append(kit.records([make.event(n, f"n{n % 6}", make.START_MS + n) for n in range(30, 36)]))
    drain(pipeline)
    store.close()
    assert site.pauses >= 2
    assert {name: row.events for name, row in site.rows().items()} == {f"n{n}": 6 for n in range(6)}


def test_spilled_agents_step_down_at_ticks(site: RestartedPipelines, kit: Any, make: Any) -> None:
    """Agents that are not in memory, stored or not yet, step down at the tick that finds them due, more than fit."""
    pipeline = site.pipeline(capacity=3, commit_interval_s=3600.0)
    pipeline.start()
    at = make.START_MS
    events = [e for n in range(9) for e in critical(make, n, at + n, 10 * n)]
    site.append(kit.records(events))
    drain(pipeline)
    assert {row.level for row in site.rows().values()} == {4}
    fresh = site.pipeline(capacity=3)
    fresh.start()
    site.append(kit.records([make.event(900 + n, f"other-{n}", at + 10) for n in range(5)]))
    site.append([kit.tick(at + 24 * HOUR + 100)])
    drain(fresh)
    levels = {name: row.level for name, row in site.rows().items() if name.startswith("agent-")}
    assert levels == {f"agent-{n}": 3 for n in range(9)}
    ticked = [d for d in site.store.decisions.page(limit=500).items if d.cause == "tick"]
    assert sorted(d.agent.agent_id for d in ticked) == [f"agent-{n}" for n in range(9)]


def test_frames_carry_many_agents_and_a_big_commit_in_order(kit: Any, make: Any) -> None:
    """They are cut into bounded frames; how far answers go comes with the last agents, the offset with the last one."""
    processor = kit.processor(capacity=2000)
    processor.engine.score(
        kit.columns([make.event(n, f"n{n}", make.START_MS + n) for n in range(2 * MAX_FRAME_ITEMS + 7)])
    )
    agents = processor.engine.agent_states.take_moved()
    applied = kit.processor().apply(next(kit.batches(kit.records(critical(make, 1, make.START_MS, 1)), iter([9]))))
    decisions = applied.decisions * (MAX_FRAME_ITEMS // len(applied.decisions) + 1)
    ours, theirs = socket.socketpair()
    received = bytearray()

    def read() -> None:
        while part := theirs.recv(1 << 16):
            received.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    sender = PipelineUpdateSender(ours)
    sender.send_risk(80, agents)
    sender.send_commit(CommittedChanges(decisions, Position(0, 1, 77), 2), 3, {"events": 9}, {"apply": 0.5})
    sender.send_alive(77, 81, 0, {}, {})
    sender.send_commit(CommittedChanges([], Position(0, 1, 78), 0), 0, {}, {})
    ours.close()
    reader.join()
    theirs.close()
    updates, at = [], 0
    while at < len(received):
        (length,) = LENGTH_PREFIX.unpack_from(received, at)
        updates.append(decode_update(bytes(received[at + 4 : at + 4 + length])))
        at += 4 + length
    told, big, (alive, empty) = updates[:3], updates[3:-2], updates[-2:]
    assert [summary for update in told for summary in update.agents] == agents
    assert [(update.offset, update.risk_offset) for update in told] == [(0, 0), (0, 0), (0, 80)]
    assert {update.behind for update in told} == {NOT_MEASURED}
    assert len([change for update in big for change in update.changes]) == len(decisions)
    assert all(len(update.agents) <= MAX_FRAME_ITEMS and len(update.changes) <= MAX_FRAME_ITEMS for update in updates)
    assert [(update.offset, update.risk_offset) for update in big] == [(0, 80)] * (len(big) - 1) + [(77, 80)]
    assert [update.dropped_dead_letters for update in big] == [0] * (len(big) - 1) + [2]
    assert not any(update.agents for update in big)
    assert (alive.offset, alive.risk_offset, empty.offset, empty.changes) == (77, 81, 78, [])
