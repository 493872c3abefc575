"""Events that come late make nobody look hasty: a history that is sent again, and what a gateway held back."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.models.model_training import train_model
from trustwatch.scoring.pipeline.processor import StageMetrics
from trustwatch.scoring.records.agents import RiskLevel

from ...support.feature_histories import order_doubted_agents

HOUR = 3_600_000
TIMED = [FEATURE_INDEX[name] for name in ("pace_1m", "pace_15m", "pace_4h", "dormancy", "failure_pace", "drift")]
STEPS = ("login", "search", "open", "read", "compare", "draft", "check", "save", "close", "logout")


class Delivery:
    """What a processor made of events that came in this order, all of them after the last one happened."""

    def __init__(self, kit: Any, events: list[dict[str, Any]], received_ms: int) -> None:
        processor, stages = kit.processor(capacity=100), StageMetrics(lambda: 0.0)
        self.levels: dict[str, int] = {}
        self.most = np.zeros(len(TIMED))
        for batch in kit.batches(kit.records(events, received_ms=received_ms), itertools.repeat(500)):
            applied = processor.apply(batch)
            stages.count_batch(applied)
            for scored, _ in applied.scored:
                self.most = np.maximum(self.most, scored.vectors[:, TIMED].max(axis=0))
                for row, event in enumerate(scored.columns.events):
                    level = int(scored.levels[row, 1])
                    self.levels[event.agent.id] = max(level, self.levels.get(event.agent.id, 0))
        self.counts = stages.counts
        self.agents_without_order = order_doubted_agents(processor.engine.builder)


def test_a_history_that_is_sent_again_is_no_haste(kit: Any, make: Any) -> None:
    """All of it is older than what the model knows of its agents: three days within a moment of their clocks."""
    events = [{**event, "id": f"again-{n}"} for n, event in enumerate(make.stream(1, 2_000))]
    newest = kit.model.window_ms[1]
    told = Delivery(kit, events, newest + HOUR)

    assert len(told.levels) == 12
    assert max(told.levels.values()) == RiskLevel.LOW
    assert told.counts["late_events"] >= told.counts["out_of_order_events"] > 1_900
    assert told.most.max() < 6.0, "the last of them come a second time: twice the usual at most"


@pytest.mark.parametrize("held_ms", [HOUR, 6 * HOUR])
def test_what_a_gateway_held_back_is_no_haste(kit: Any, make: Any, held_ms: int) -> None:
    """Two of three events come through a gateway that sends every hour, or every six hours; the others as they happen.
    Nobody is in more haste than if all had come in time."""
    events = make.stream(2, 800, start_ms=kit.model.window_ms[1] + HOUR)
    first_ms = make.START_MS
    times = [int(np.datetime64(event["time"].rstrip("Z"), "ms").astype(np.int64)) for event in events]
    arrival = [((at - first_ms) // held_ms + 1) * held_ms + first_ms if n % 3 else at for n, at in enumerate(times)]
    in_time = Delivery(kit, events, max(arrival))
    late = Delivery(kit, [events[n] for n in np.argsort(arrival, kind="stable")], max(arrival))

    assert late.counts["out_of_order_events"] > 100
    assert (late.most <= in_time.most + 1.0).all()
    assert all(level <= in_time.levels[agent] for agent, level in late.levels.items())


def _work(make: Any, days: range) -> list[dict[str, Any]]:
    """Work of six agents: always the same ten steps, twenty seconds apart, seven times a day."""
    times = [
        (day * 24 * HOUR + run * HOUR + agent * 400_000 + step * 20_000, agent, step)
        for day in days
        for run in range(8, 15)
        for agent in range(6)
        for step in range(len(STEPS))
    ]
    return [
        make.event(
            f"{at}-{agent}",
            agent,
            make.START_MS + at,
            action=STEPS[step],
            session=f"{agent}-{at // HOUR}",
            resource={"target": f"host-{agent}"},
        )
        for at, agent, step in sorted(times)
    ]


@pytest.mark.parametrize("held_ms", [60_000, 600_000])
def test_what_a_gateway_shuffled_makes_nobody_odd(kit: Any, make: Any, held_ms: int) -> None:
    """Each minute's, or each ten minutes' events come in any order: no level is above what it is in time."""
    history, day = _work(make, range(7)), _work(make, range(7, 9))
    columns = kit.columns(history)
    shuffled_kit = type(kit)(train_model(columns, make.SALT, "steps", make.SETTINGS))
    dice = random.Random(1)
    at = [int(np.datetime64(event["time"].rstrip("Z"), "ms").astype(np.int64)) for event in day]
    order = sorted(range(len(day)), key=lambda n: (at[n] // held_ms, dice.random()))
    received_ms = max(at) + HOUR
    in_time = Delivery(shuffled_kit, day, received_ms)
    shuffled = Delivery(shuffled_kit, [day[n] for n in order], received_ms)

    assert all(level <= in_time.levels[agent] for agent, level in shuffled.levels.items())
    assert shuffled.counts["unordered_events"] > 0.9 * len(day)
    assert in_time.counts["unordered_events"] == 0
    assert (shuffled.agents_without_order, in_time.agents_without_order) == (6, 0)
