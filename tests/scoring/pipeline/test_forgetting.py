"""Who is forgotten leaves the pipeline for good: memory, store, the model's history, and a replay agree."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trustwatch.ingest.errors import ConfigError
from trustwatch.ingest.identities import IdentityHasher, PrivacyKey, open_privacy_key, unkeyed_agent_key
from trustwatch.ingest.log.event_log import EventLog
from trustwatch.ingest.record_erasure import ErasureSubject, RecordEraser
from trustwatch.ingest.source import Record, RecordKind
from trustwatch.scoring.engine.seeded_agents import ErasedAgents
from trustwatch.scoring.pipeline.settings import PipelineSettings, PipelineTuning
from trustwatch.scoring.policy.book import LivePolicy, PolicyBook
from trustwatch.scoring.records.agents import AgentRow
from trustwatch.scoring.records.erasures import EraseCommand
from trustwatch.scoring.store.sql_store import open_store, sqlite_url

from ...support.one_partition import EmbeddedPipeline

GONE = ErasureSubject("agent", "acme", "https://as.example", "agent-3", "erased~1")


def forget(subject: ErasureSubject, at_ms: int) -> Record:
    body = EraseCommand("E1", subject.kind, subject.tenant, subject.issuer, subject.name, subject.pseudonym)
    return Record(RecordKind.FORGET, 0, at_ms, msgspec.json.encode(body))


def rows_of(processor: Any) -> dict[str, AgentRow]:
    return {row.name.agent_id: row for row in processor.engine.agent_states.changed_rows()}


def run(kit: Any, records: list[Record], capacity: int = 1000) -> Any:
    processor = kit.processor(capacity=capacity)
    for batch in kit.batches(records, itertools.repeat(97)):
        processor.apply(batch)
    return processor


def test_others_are_not_touched(kit: Any, make: Any) -> None:
    """State of every other agent is bit for bit what it is without the erasure."""
    records = kit.records(make.stream(5, 800, odd=0.2))
    before = rows_of(run(kit, records))
    after = rows_of(run(kit, [*records, forget(GONE, records[-1].received_ms)]))

    assert "agent-3" in before
    assert after == {name: row for name, row in before.items() if name != "agent-3"}


@pytest.mark.parametrize("capacity", [1000, 13])
def test_a_replay_of_the_rewritten_log_agrees(kit: Any, make: Any, capacity: int) -> None:
    """Whoever reads the log behind the erasure gets the same states, and the agent acts as a new one in both."""
    records = kit.records(make.stream(5, 800, odd=0.2))
    behind = kit.records(make.stream(6, 300, start_ms=make.START_MS + 10**9))
    first = [*records, forget(GONE, records[-1].received_ms)]
    live = rows_of(run(kit, [*first, *behind], capacity))
    rewritten = [RecordEraser(GONE)(record) for record in first]
    again = kit.processor(capacity=capacity)
    again.engine.agent_states.erased_agents.add(GONE.agent_identity)  # as a process does that starts behind the erasure
    for batch in kit.batches([*rewritten, *behind], itertools.repeat(41)):
        again.apply(batch)

    assert {record.kind for record in rewritten} == {RecordKind.EVENT, RecordKind.ERASED}
    assert rows_of(again) == live
    assert live["agent-3"].events < 50


def test_the_models_history_does_not_come_back(kit: Any, make: Any) -> None:
    """The agent is one of the training history: forgotten, it begins as a stranger does."""
    known = make.event(1, 3, make.START_MS + 10**9)
    processor = run(kit, [forget(GONE, make.START_MS)])
    with_history = kit.processor().engine.score(kit.columns([known]))
    anew = processor.engine.score(kit.columns([known]))
    slot = int(anew.slots[0])

    assert kit.model.seeds.find([IdentityHasher(make.SALT).agent_hash(*GONE.agent_identity)])[0] >= 0
    assert processor.engine.risk["events"][slot] == 1
    assert not np.array_equal(anew.vectors, with_history.vectors)


def test_marks_outlive_the_process() -> None:
    """Another process knows forgotten agents by keyed marks."""
    key = PrivacyKey(bytes(32))
    forgotten = ErasedAgents(key, [key.erasure_mark(unkeyed_agent_key("", "", "b"))])

    assert [name for name in (("", "", "a"), ("", "", "b")) if name in forgotten] == [("", "", "b")]
    assert ("", "", "b") not in ErasedAgents()
    assert PrivacyKey(b"x" * 32).erasure_mark(7) != key.erasure_mark(7)
    assert "x" not in repr(PrivacyKey(b"x" * 32))


def test_reasons_of_others_name_it_no_more(kit: Any, make: Any) -> None:
    """Also of an agent that is out of memory, and of one that is loaded while the store still has the name."""
    person = ErasureSubject("principal", "acme", "", "acct-ann", "erased~2")
    records = kit.records(make.stream(5, 300))
    processor = run(kit, records)
    notes = processor.engine.agent_states
    slot = processor.engine.agent_states.find_slot(GONE.agent_identity)
    told = msgspec.structs.replace(
        notes.explanation(slot),
        reasons=json.dumps([{"text": "first use of acct-ann"}]).encode(),
        counterfactual="not acct-ann",
        indicators=json.dumps([{"kind": "software", "value": "cli of acct-ann"}]).encode(),
    )
    notes.set_explanation(slot, told)
    notes.begin_commit()
    notes.mark_committed()
    processor.engine.agent_states.erase(person)

    assert b"erased~2" in notes.explanation(slot).reasons
    assert notes.explanation(slot).counterfactual == "not erased~2"
    assert b"cli of erased~2" in notes.explanation(slot).indicators
    assert processor.engine.agents.dirty[slot]
    row = processor.engine.agent_states.rows(np.array([slot], np.int32))[0]
    known = msgspec.structs.replace(row, reasons=told.reasons, indicators=told.indicators)
    loaded = notes._redacted_row(known)
    assert b"acct-ann" not in loaded.reasons + loaded.indicators


def test_the_commit_removes_the_row(kit: Any, make: Any, tmp_path: Path) -> None:
    """In the transaction of the position behind the order; who acts later in the same commit is written anew."""
    records = kit.records(make.stream(5, 400))
    late = kit.records([make.event(10_000, 3, make.START_MS + 10**9), make.event(10_001, 4, make.START_MS + 10**9)])
    log = EventLog(tmp_path / "log")
    store = open_store(sqlite_url(tmp_path / "tw.db"))
    settings = PipelineSettings(commit_interval_s=0.0)
    pipeline = EmbeddedPipeline(
        tmp_path / "log",
        kit.processor(store.agents, 5),
        store,
        LivePolicy(PolicyBook()),
        settings,
        time.monotonic,
        time.sleep,
        tuning=PipelineTuning(poll_s=0.0),
    )
    for part in (records, [forget(GONE, records[-1].received_ms)], late):
        log.append(part)
        log.sync()
    pipeline.start()
    try:
        pipeline.drain()
        row = store.agents.get("acme", "https://as.example", "agent-3")
        assert row is not None
        assert row.events == 1
        log.append([forget(GONE, make.START_MS + 10**9)])
        log.sync()
        pipeline.step()
        pipeline.finish()
        assert store.agents.get("acme", "https://as.example", "agent-3") is None
        assert store.agents.get("acme", "https://as.example", "agent-4") is not None
    finally:
        pipeline.kill()
        store.close()
        log.close()


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """With mode 0600; a key that others may read, or that is none, is refused."""
    path = tmp_path / "data" / "privacy-key"
    first = open_privacy_key(path)

    assert open_privacy_key(path).pseudonym("acme", "ann") == first.pseudonym("acme", "ann")
    assert first.pseudonym("acme", "ann") != first.pseudonym("globex", "ann")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        open_privacy_key(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(ConfigError, match="no key"):
        open_privacy_key(path)
