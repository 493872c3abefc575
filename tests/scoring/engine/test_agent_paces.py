"""Paces of agents against the same counts in plain Python."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.features import layout
from trustwatch.ingest.timestamps import HOUR_MS
from trustwatch.scoring.engine.agent_paces import HASTY_DAYS, LEAST_EVENTS, AgentPaces
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
    every_hour, plain = AgentPaces(), PlainPaces()
    for newest in range(8):
        paces, present = AgentPaces(newest), set[int]()
        of_hour = PlainPaces()
        for _ in range(60):
            rows = [draw_row(drawn, newest) for _ in range(drawn.randrange(1, 16))]
            for one in (plain, of_hour):
                one.note(rows)
            for counted in (every_hour, paces):
                counted.note(batch_of(rows))
            present.update(key for key, *_ in rows if of_hour.hours[key] == newest)
            hurried = {key for key in present if of_hour.is_hasty(key)}
            assert (paces.present, paces.hurried) == (len(present), len(hurried))
            assert every_hour.hasty == plain.hasty
        assert len(hurried) < len(present)
        if hurried:
            days = [of_hour.events[key] / of_hour.usual[key] for key in hurried]
            assert paces.median_haste() == np.median(days)
    assert len(plain.hasty) > 3


def draw_row(drawn: random.Random, newest: int) -> tuple[int, int, float, float]:
    """Agent, time, days that it is known for, events in them: of the hour *newest*, and one in five of that before."""
    hour = max(0, newest - drawn.choice((0, 0, 0, 0, 1)))
    time_ms = hour * HOUR_MS + drawn.randrange(HOUR_MS)
    return drawn.randrange(12), time_ms, drawn.choice((0.5, 2.0, 2.0)), drawn.choice((0.0, 8.0, 400.0))
