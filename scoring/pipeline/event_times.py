"""A check that events come as they happen: their times against arrival, the model's history and agents' habits.

Levels speak of event times. Of a history that is sent to a running service, and of a stream whose times were pressed
together, they say little, and who looks at them has to know. Nothing here changes a score.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from ...ingest.columns import AGENT
from ...ingest.features import layout
from ...ingest.timestamps import DAY_MS, HOUR_MS, format_rfc3339_seconds
from ...models.trained_model import TrainedModel
from ..engine.scored_batch import ScoredBatch

OLD_MS = DAY_MS
"""Age at its arrival from which an event is old: a day, since exports of logs are late by hours."""

HASTY_DAYS = 2.0
"""Usual days of an agent's events within an hour from which it is in haste."""

LEAST_EVENTS, LEAST_AGENTS, MAX_WATCHED = 20, 5, 50_000
"""Events of an agent, and agents, from which on haste is judged; most agents that are looked at together."""

_LOG_EVERY_MS = HOUR_MS
_log = structlog.get_logger(__name__)


class AgentHour:
    """Events of an agent in one hour of event time; *usual_day* of one of its days before, 0 = unknown."""

    __slots__ = ("events", "hour", "usual_day")

    def __init__(self, hour: int, usual_day: float, events: int) -> None:
        self.hour, self.usual_day, self.events = hour, usual_day, events

    @property
    def usual_days(self) -> float:
        """Usual days of events that came within the hour; 0 = unknown, or too few to tell."""
        return self.events / self.usual_day if self.usual_day and self.events >= LEAST_EVENTS else 0.0


class AgentPaces:
    """Counts events of each agent in its newest hour. What it says of an agent depends on that agent's events alone.

    Attributes:
        hours: by agent key.
        hasty: keys of agents that once were in haste.
    """

    def __init__(self) -> None:
        self.hours: dict[int, AgentHour] = {}
        self.hasty: set[int] = set()

    def note(self, scored: ScoredBatch) -> list[int]:
        """Count a batch; what is older than its agent's newest hour was looked at. Returns the keys of its agents."""
        hours = scored.columns.time_ms // HOUR_MS
        keys, agents = np.unique(scored.columns.names[:, AGENT], return_inverse=True)
        newest = np.full(len(keys), np.iinfo(np.int64).min)
        np.maximum.at(newest, agents, hours)
        rows = np.flatnonzero(hours == newest[agents])
        first = np.empty(len(keys), np.int64)
        first[agents[rows[::-1]]] = rows[::-1]  # of several the last one that is written stays
        counts = np.bincount(agents[rows], minlength=len(keys))
        touched: list[int] = keys.tolist()
        for key, hour, events, row in zip(touched, newest.tolist(), counts.tolist(), first.tolist(), strict=True):
            known = self.hours.get(key)
            if known is None or hour > known.hour:
                known = self.hours[key] = AgentHour(hour, _usual_day(scored.agent_numbers[row]), events)
            elif hour == known.hour:
                known.events += events
            if known.usual_days >= HASTY_DAYS:
                self.hasty.add(key)
        return touched


def is_haste(hasty: int, agents: int) -> bool:
    """Tell whether so many of so many agents in haste are no finding about one, but a matter of the times sent."""
    return agents >= LEAST_AGENTS and 2 * hasty > agents


class EventTimes:
    """Looks at the events of one partition, and says so where they do not come as they happen.

    Args:
        partition: of the log.
        counts: gets `old_events` (a day old at their arrival), `known_events` (not newer than the model's history)
            and `hasty_events` (while most agents are in haste).
    """

    def __init__(self, partition: int, counts: Counter[str]) -> None:
        self._partition = partition
        self._counts = counts
        self._hour = 0
        self._paces = AgentPaces()
        self._present: set[int] = set()
        self._hasty: dict[int, float] = {}
        self._logged_ms: dict[str, int] = {}

    def note(self, scored: ScoredBatch, model: TrainedModel) -> None:
        """Look at events that were scored by *model*."""
        if model.learns or not len(scored.columns):
            return  # a history is welcome, and nobody has habits yet
        times, now_ms = scored.columns.time_ms, int(scored.at_ms[-1])
        if old := int((scored.at_ms - times > OLD_MS).sum()):
            self._counts["old_events"] += old
            self._note_old(times, now_ms, model)
        self._note_pace(scored, now_ms)

    def _note_old(self, times: npt.NDArray[np.int64], now_ms: int, model: TrainedModel) -> None:
        end_ms = model.window_ms[1]
        known_events = int((times <= end_ms).sum())
        self._counts["known_events"] += known_events
        advice = "`trustwatch train` learns from a history, `trustwatch replay` and `backtest` judge one"
        if known_events:
            advice += "; events that the model has learned from count twice here, and raise agents by haste"
        if self._is_due("known" if known_events else "old", now_ms):
            _log.warning(
                "old events arrive: levels are of then, not of now",
                partition=self._partition,
                oldest=format_rfc3339_seconds(int(times.min())),
                model_learned_until=format_rfc3339_seconds(end_ms),
                advice=advice,
            )

    def _note_pace(self, scored: ScoredBatch, now_ms: int) -> None:
        """Look at the newest hour of event time."""
        newest = int(scored.columns.time_ms.max()) // HOUR_MS
        if newest > self._hour or len(self._paces.hours) > MAX_WATCHED:
            self._hour, self._paces = max(newest, self._hour), AgentPaces()
            self._present, self._hasty = set(), {}
        for key in self._paces.note(scored):  # those of the batch alone: there may be 50,000
            agent = self._paces.hours[key]
            if agent.hour == self._hour:
                self._present.add(key)
                if (days := agent.usual_days) >= HASTY_DAYS:
                    self._hasty[key] = days
        if is_haste(len(self._hasty), len(self._present)):
            self._counts["hasty_events"] += len(scored.columns)
            self._tell_haste(list(self._hasty.values()), len(self._present), now_ms)

    def _tell_haste(self, hasty: list[float], agents: int, now_ms: int) -> None:
        if self._is_due("haste", now_ms):
            _log.warning(
                "most agents send days of their work within an hour: were event times pressed together?",
                partition=self._partition,
                agents=agents,
                in_haste=len(hasty),
                usual_days_in_an_hour=round(float(np.median(hasty)), 1),
                advice="levels are of a haste that may never have been; send events with the times at which they "
                "happened, or look at a history by `trustwatch replay`",
            )

    def _is_due(self, what: str, now_ms: int) -> bool:
        """Tell whether *what* is to be logged now: once an hour."""
        if now_ms < self._logged_ms.get(what, 0) + _LOG_EVERY_MS:
            return False
        self._logged_ms[what] = now_ms
        return True


def _usual_day(numbers: npt.NDArray[Any]) -> float:
    """Events a day of an agent whose learned numbers these are; 0 = it is known for less than a day."""
    days = float(numbers[layout.N_REF_AGE])
    return float(numbers[layout.N_EVENTS]) / days if days >= 1.0 else 0.0
