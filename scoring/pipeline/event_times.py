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

Places = npt.NDArray[np.int64]

_LOG_EVERY_MS = HOUR_MS
_log = structlog.get_logger(__name__)


class AgentPaces:
    """Counts events of each agent in its newest hour. What it says of an agent depends on that agent's events alone.

    Agents have places, from 0 up, in the order in which they are met.

    Attributes:
        hasty: keys of agents that once were in haste.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._hour, self._events = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._usual_day = np.zeros(0)  # events of one of its days before that hour; 0 = unknown
        self.hasty: set[int] = set()

    def __len__(self) -> int:
        return len(self._places)

    def note(self, scored: ScoredBatch) -> Places:
        """Count a batch; what is older than its agent's newest hour was looked at. Returns the places of its agents."""
        hours = scored.columns.time_ms // HOUR_MS
        keys, agents = np.unique(scored.columns.names[:, AGENT], return_inverse=True)
        places = self._places_of(keys)
        newest = np.full(len(keys), np.iinfo(np.int64).min)
        np.maximum.at(newest, agents, hours)
        rows = np.flatnonzero(hours == newest[agents])
        first = np.empty(len(keys), np.int64)
        first[agents[rows[::-1]]] = rows[::-1]  # of several the last one that is written stays
        events, counted = np.bincount(agents[rows], minlength=len(keys)), self._events[places]
        later, same = newest > self._hour[places], newest == self._hour[places]
        self._events[places] = np.where(later, events, counted + np.where(same, events, 0))
        self._usual_day[places[later]] = _usual_days(scored.agent_numbers[first[later]])
        self._hour[places] = np.maximum(self._hour[places], newest)
        self.hasty.update(keys[self.usual_days(places) >= HASTY_DAYS].tolist())
        return places

    def _places_of(self, keys: npt.NDArray[np.uint64]) -> Places:
        known = self._places
        places = np.array([known.setdefault(key, len(known)) for key in keys.tolist()], np.int64)
        if (more := len(known) - len(self._hour)) > 0:
            more = max(more, len(self._hour))
            self._hour = np.concatenate([self._hour, np.full(more, np.iinfo(np.int64).min)])
            self._events = np.concatenate([self._events, np.zeros(more, np.int64)])
            self._usual_day = np.concatenate([self._usual_day, np.zeros(more)])
        return places

    def hours(self, places: Places) -> npt.NDArray[np.int64]:
        """Newest hour of the agent at each place."""
        return np.asarray(self._hour[places])

    def usual_days(self, places: Places) -> npt.NDArray[np.float64]:
        """Usual days of events that came within the newest hour, by place; 0 = unknown, or too few to tell."""
        events, usual = self._events[places], self._usual_day[places]
        return np.where(events >= LEAST_EVENTS, events / np.where(usual > 0.0, usual, np.inf), 0.0)


class PlaceSet:
    """Places, as flags: what is added costs the batch its own, however many there are."""

    def __init__(self) -> None:
        self._flags, self._number = np.zeros(0, np.bool_), 0

    def add(self, places: Places) -> None:
        """Add distinct *places*."""
        if not len(places):
            return
        if (more := int(places.max()) + 1 - len(self._flags)) > 0:
            self._flags = np.concatenate([self._flags, np.zeros(max(more, len(self._flags)), np.bool_)])
        self._number += int((~self._flags[places]).sum())
        self._flags[places] = True

    def __len__(self) -> int:
        return self._number

    @property
    def places(self) -> Places:
        """All of them, ascending."""
        return np.flatnonzero(self._flags)


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
        self._present, self._hasty = PlaceSet(), PlaceSet()
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
        known = int((times <= end_ms).sum())
        self._counts["known_events"] += known
        advice = "`trustwatch train` learns from a history, `trustwatch replay` and `backtest` judge one"
        if known:
            advice += "; events that the model has learned from count twice here, and look more usual than they are"
        if self._is_due("known" if known else "old", now_ms):
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
        if newest > self._hour or len(self._paces) > MAX_WATCHED:
            self._hour, self._paces = max(newest, self._hour), AgentPaces()
            self._present, self._hasty = PlaceSet(), PlaceSet()
        touched = self._paces.note(scored)
        now = touched[self._paces.hours(touched) == self._hour]
        self._present.add(now)
        self._hasty.add(now[self._paces.usual_days(now) >= HASTY_DAYS])
        if is_haste(len(self._hasty), len(self._present)):
            self._counts["hasty_events"] += len(scored.columns)
            self._tell_haste(self._paces.usual_days(self._hasty.places), len(self._present), now_ms)

    def _tell_haste(self, hasty: npt.NDArray[np.float64], agents: int, now_ms: int) -> None:
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
        """Tell whether *what* is logged now: once an hour."""
        if now_ms < self._logged_ms.get(what, 0) + _LOG_EVERY_MS:
            return False
        self._logged_ms[what] = now_ms
        return True


def _usual_days(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Events a day of agents whose learned numbers (m, NUMBERS) these are; 0 = known for less than a day."""
    days = numbers[:, layout.N_REF_AGE].astype(np.float64)
    return np.where(days >= 1.0, numbers[:, layout.N_EVENTS] / np.maximum(days, 1.0), 0.0)
