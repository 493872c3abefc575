"""Paces of agents against the same counts in plain Python."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features import layout
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.engine.agent_paces import HASTY_DAYS, LEAST_EVENTS, AgentPaces, PlaceSet
from trustwatch.scoring.engine.scored_batch import ScoredBatch

COLUMNS = AGENT + 1


class PlainPaces:
    """The newest hour of each agent, its events, and those of a usual day."""

    def __init__(self) -> None:
        self.hours: dict[int, int] = {}
        self.events: dict[int, int] = {}
        self.usual: dict[int, float] = {}
        self.hasty: set[int] = set()

    def note(self, rows: list[tuple[int, int, float, float]]) -> None:
        for key, time_ms, days, events in rows:
            hour = time_ms // HOUR_MS
            if hour > self.hours.get(key, -1):
                self.hours[key], self.events[key] = hour, 0
                self.usual[key] = events / days if days >= 1.0 else 0.0
            self.events[key] += hour == self.hours[key]
        self.hasty |= {key for key, *_ in rows if self.is_hasty(key)}

    def is_hasty(self, key: int) -> bool:
        usual = self.usual[key]
        return self.events[key] >= LEAST_EVENTS and usual > 0 and self.events[key] / usual >= HASTY_DAYS


def batch_of(rows: list[tuple[int, int, float, float]]) -> ScoredBatch:
    names = np.zeros((len(rows), COLUMNS), np.uint64)
    numbers = np.zeros((len(rows), max(layout.N_REF_AGE, layout.N_EVENTS) + 1), np.float32)
    names[:, AGENT] = [key for key, *_ in rows]
    numbers[:, layout.N_REF_AGE] = [days for _, _, days, _ in rows]
    numbers[:, layout.N_EVENTS] = [events for *_, events in rows]
    columns: Any = SimpleNamespace(names=names, time_ms=np.array([time_ms for _, time_ms, *_ in rows], np.int64))
    return cast(ScoredBatch, SimpleNamespace(columns=columns, agent_numbers=numbers))


def test_batches_out_of_order_count_as_one_event_after_the_other() -> None:
    """Several rows of an agent in a batch, older and newer hours in turns, agents known for less than a day."""
    drawn = random.Random(7)
    paces, plain = AgentPaces(), PlainPaces()
    for newest in range(8):
        flagged, expected = (PlaceSet(), PlaceSet()), (set[int](), set[int]())
        for _ in range(60):
            rows = [draw_row(drawn, newest) for _ in range(drawn.randrange(1, 16))]
            plain.note(rows)
            paces.flag(paces.note(batch_of(rows)), newest, *flagged)
            expected[0].update(key for key, *_ in rows if plain.hours[key] == newest)
            expected[1].update(key for key in expected[0] if plain.is_hasty(key))
            assert [one.count for one in flagged] == [len(one) for one in expected]
            assert paces.hasty == plain.hasty
        assert len(expected[1]) < len(expected[0])
    assert len(plain.hasty) > 3


def draw_row(drawn: random.Random, newest: int) -> tuple[int, int, float, float]:
    """Agent, time, days that it is known for, events in them: of the hour *newest*, and one in five of that before."""
    hour = max(0, newest - drawn.choice((0, 0, 0, 0, 1)))
    time_ms = hour * HOUR_MS + drawn.randrange(HOUR_MS)
    return drawn.randrange(12), time_ms, drawn.choice((0.5, 2.0, 2.0)), drawn.choice((0.0, 8.0, 400.0))
