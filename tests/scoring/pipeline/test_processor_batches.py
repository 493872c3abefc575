"""Whole processor: what comes out depends on the records and their order alone."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.source import Record
from trustwatch.scoring.engine import announced_paths, decision_maker, risk_levels
from trustwatch.scoring.pipeline.processor import Processor
from trustwatch.scoring.records.agents import AgentRow, RiskLevel
from trustwatch.scoring.records.decisions import Decision


class MemoryStore:
    """A store in memory: what was written comes back, nothing else does."""

    def __init__(self) -> None:
        self.rows: dict[int, AgentRow] = {}

    def load(self, keys: Any, owner: Any = None) -> dict[int, AgentRow]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    def due(self, before_ms: int, limit: int, after: Any = None, partition: int = 0) -> list[Any]:
        from trustwatch.scoring.records.agents import DueAgent

        found = sorted(DueAgent(r.due_ms, k) for k, r in self.rows.items() if 0 < r.due_ms <= before_ms)
        return [due for due in found if after is None or due > after][:limit]


def with_ticks(kit: Any, events: list[dict[str, Any]], seed: int) -> list[Record]:
    """Records with ticks at random places, some of them behind the events' time."""
    dice, records = random.Random(seed), []
    for record in kit.records(events):
        records.append(record)
        if dice.random() < 0.1:
            records.append(kit.tick(record.received_ms + dice.choice([-3_600_000, 0, 60_000, 7_200_000])))
    return records


def everything(processor: Processor) -> tuple[dict[int, AgentRow], dict[int, AgentRow]]:
    """Rows of all agents, in memory or moved out."""
    engine = processor.engine
    resident = np.flatnonzero(engine.builder.slots.keys).astype(np.int32)
    rows = {row.name.key: row for row in engine.agent_states.rows(resident)}
    return rows, dict(engine.agent_states.evicted)


def run(processor: Processor, kit: Any, records: list[Record], sizes: Any) -> tuple[list[Any], list[Decision]]:
    scores, decisions = [], []
    for batch in kit.batches(records, sizes):
        applied = processor.apply(batch)
        decisions += applied.decisions
        for scored, offsets in applied.scored:
            scores += [
                (
                    int(offset),
                    *scored.risk[row].tolist(),
                    scored.anomaly[row],
                    scored.p_values[row],
                    scored.levels[row].tolist(),
                    scored.vectors[row].tobytes(),
                )
                for row, offset in enumerate(offsets.tolist())
            ]
    return scores, sorted(decisions, key=lambda d: d.decision_id)


@pytest.fixture(scope="module")
def records(kit: Any, make: Any) -> list[Record]:
    return with_ticks(kit, make.stream(7, 1_200, agents=25, start_ms=make.START_MS + 10**9, odd=0.12), 7)


@pytest.fixture(scope="module")
def undisturbed(kit: Any, records: list[Record]) -> Any:
    processor = kit.processor()
    scores, decisions = run(processor, kit, records, itertools.repeat(200))
    return scores, decisions, everything(processor)[0]


def test_the_stream_moves_agents_up_and_down(undisturbed: Any) -> None:
    """The stream is worth comparing: levels rise by events and fall by ticks."""
    _, decisions, _ = undisturbed
    assert {decision.cause for decision in decisions} == {"event", "tick"}
    assert max(decision.level for decision in decisions) == 4
    assert any(decision.counterfactual for decision in decisions)


@pytest.mark.parametrize("seed", range(4))
def test_batches_change_nothing(kit: Any, records: list[Record], undisturbed: Any, seed: int) -> None:
    """However records are cut into batches, scores, decisions with reasons, and stored rows are equal bit for bit."""
    dice = random.Random(seed)
    processor = kit.processor()
    sizes = (dice.choice([1, 2, 7, 60, 500]) for _ in itertools.count())
    scores, decisions = run(processor, kit, records, sizes)
    assert scores == undisturbed[0]
    assert decisions == undisturbed[1]
    assert everything(processor)[0] == undisturbed[2]


@pytest.mark.parametrize("size", [1, 5, 60])
def test_what_is_passed_over_would_have_changed_nothing(
    kit: Any, records: list[Record], undisturbed: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A batch without a row that may bring a decision, or tell an announced path, costs a look alone."""
    looked: list[bool] = []
    has_notable_row = decision_maker._has_notable_row

    def look(*columns: Any) -> bool:
        looked.append(has_notable_row(*columns))
        return True

    monkeypatch.setattr(decision_maker, "_has_notable_row", look)
    monkeypatch.setattr(announced_paths, "may_matter", lambda *_: True)
    processor = kit.processor()
    scores, decisions = run(processor, kit, records, itertools.repeat(size))
    assert (scores, decisions, everything(processor)[0]) == undisturbed
    assert any(looked) and (size == 60 or not all(looked))


def test_batches_change_nothing_of_agents_that_nobody_knew(
    kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first events lift them from unknown, while their evidence falls, and leave them calm soon after."""
    monkeypatch.setattr(risk_levels, "CONFIDENCE_MINIMUM", 0.7)
    events = make.stream(8, 600, agents=80, odd=0.3)
    for event in events:
        event["agent"]["id"] += "-new"
    records = kit.records(events)
    ends = []
    for size in (1, 600):
        processor = kit.processor()
        _, decisions = run(processor, kit, records, itertools.repeat(size))
        assert (processor.engine.risk["told"] >= 0.0).all()
        ends.append((decisions, everything(processor)[0]))
    assert any((one.previous_level, one.level) == (RiskLevel.UNKNOWN, RiskLevel.LOW) for one in ends[0][0])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("capacity", [1, 3, 10])
def test_small_memory_changes_nothing(kit: Any, records: list[Record], undisturbed: Any, capacity: int) -> None:
    """Agents that move out and back, kept aside, go on as if they had stayed."""
    processor = kit.processor(capacity=capacity)
    scores, decisions = run(processor, kit, records, itertools.repeat(60))
    resident, gone = everything(processor)
    assert scores == undisturbed[0]
    assert decisions == undisturbed[1]
    assert {**gone, **resident} == undisturbed[2]


@pytest.mark.parametrize("seed", range(3))
def test_store_and_restarts_change_nothing(kit: Any, records: list[Record], undisturbed: Any, seed: int) -> None:
    """With small memory, commits that take their time, and restarts from the stored rows, all is as undisturbed."""
    dice, shelf = random.Random(seed), MemoryStore()
    in_flight: list[AgentRow] = []
    processor = kit.processor(shelf, capacity=8)
    scores, decisions = [], []
    for batch in kit.batches(records, (dice.choice([1, 5, 40, 90]) for _ in itertools.count())):
        applied = processor.apply(batch)
        decisions += applied.decisions
        scores += [score for scored, _ in applied.scored for score in scored.risk_scores.tolist()]
        if dice.random() < 0.4:
            shelf.rows.update({row.name.key: row for row in in_flight})
            processor.engine.agent_states.mark_committed()
            in_flight = processor.engine.agent_states.begin_commit()
            if dice.random() < 0.3:
                shelf.rows.update({row.name.key: row for row in in_flight})
                processor.engine.agent_states.mark_committed()
                in_flight = []
                processor = _restarted(kit, processor, shelf)
    shelf.rows.update({row.name.key: row for row in (*in_flight, *processor.engine.agent_states.changed_rows())})
    assert scores == [row[1] for row in undisturbed[0]]
    assert sorted(decisions, key=lambda d: d.decision_id) == undisturbed[1]
    assert shelf.rows == undisturbed[2]


def _restarted(kit: Any, old: Processor, shelf: MemoryStore) -> Processor:
    """A new process that knows what is stored, and the duplicate window from the log."""
    fresh: Processor = kit.processor(shelf, capacity=8)
    fresh.duplicate_window = old.duplicate_window
    return fresh
