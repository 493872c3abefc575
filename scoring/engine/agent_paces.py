"""The pace of agents, and a check that events arrive when they happen.

The pace compares the events of an agent's newest hour with its usual day. Levels refer to event times. They mean little
for a history that is sent to a running service, or for a stream with compressed times, so `EventTimes` logs both. It
changes no score.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import structlog

from trustwatch.ingest.columns import AGENT
from trustwatch.ingest.compilation import allocation_free, inlined
from trustwatch.ingest.features import layout
from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, format_rfc3339_seconds
from trustwatch.models.trained_model import TrainedModel

from .scored_batch import ScoredBatch

HASTY_DAYS = 2.0
"""Usual days of an agent's events within an hour from which it is in haste."""

LEAST_EVENTS = 20
"""Events of an agent from which its haste is judged."""

Places = npt.NDArray[np.int64]

_NEVER = np.iinfo(np.int64).min


class AgentPaces:
    """Counts the events of each agent in its newest hour. Agents do not affect each other's figures.

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
        """Count a batch and return the place of each row. Events before their agent's newest hour are ignored."""
        keys = scored.columns.names[:, AGENT].tolist()
        places = self._places_of(keys)
        hasty = _count_rows(
            places, scored.columns.time_ms, scored.agent_numbers, self._hour, self._events, self._usual_day
        )
        if hasty:
            self.hasty.update(
                key for key, days in zip(keys, self.usual_days(places).tolist(), strict=True) if days >= HASTY_DAYS
            )
        return places

    def _places_of(self, keys: list[int]) -> Places:
        known = self._places
        places = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        if (more := len(known) - len(self._hour)) > 0:
            more = max(more, len(self._hour))
            self._hour = np.concatenate([self._hour, np.full(more, _NEVER)])
            self._events = np.concatenate([self._events, np.zeros(more, np.int64)])
            self._usual_day = np.concatenate([self._usual_day, np.zeros(more)])
        return places

    def flag(self, places: Places, hour: int, present: PlaceSet, hasty: PlaceSet) -> None:
        """Add those *places* whose agent's newest hour is *hour* to *present*, and those in haste to *hasty*."""
        count = len(self._hour)
        flags = present.flags(count), hasty.flags(count)
        met, hurried = _flag_rows(places, hour, self._hour, self._events, self._usual_day, *flags)
        present.count += met
        hasty.count += hurried

    def usual_days(self, places: Places) -> npt.NDArray[np.float64]:
        """Return, by place, how many usual days of events came within the newest hour; 0 if unknown or too few."""
        events, usual = self._events[places], self._usual_day[places]
        return np.where(events >= LEAST_EVENTS, events / np.where(usual > 0.0, usual, np.inf), 0.0)


class PlaceSet:
    """A set of places, stored as flags, so that adding a batch costs the same however many places there are."""

    def __init__(self) -> None:
        self._flags = np.zeros(0, np.bool_)
        self.count = 0

    def flags(self, least: int) -> npt.NDArray[np.bool_]:
        """Return the flags, with room for at least *least* places."""
        if (more := least - len(self._flags)) > 0:
            self._flags = np.concatenate([self._flags, np.zeros(max(more, len(self._flags)), np.bool_)])
        return self._flags

    @property
    def places(self) -> Places:
        """Return all places in ascending order."""
        return np.flatnonzero(self._flags)


@allocation_free
def _count_rows(
    places: npt.NDArray[np.int64],
    time_ms: npt.NDArray[np.int64],
    agent_numbers: npt.NDArray[np.float32],
    hour: npt.NDArray[np.int64],
    events: npt.NDArray[np.int64],
    usual_day: npt.NDArray[np.float64],
) -> int:
    """Count rows in order; return how many of them leave their agent in haste.

    Args:
        places, time_ms: (n,); UTC milliseconds.
        agent_numbers: (n, NUMBERS), what agents had learned before each row.
        hour, events, usual_day: by place; changed.
    """
    hasty = 0
    for row in range(len(places)):
        place, now = places[row], time_ms[row] // HOUR_MS
        if now > hour[place]:
            days = np.float64(agent_numbers[row, layout.N_REF_AGE])
            hour[place], events[place] = now, 0
            usual_day[place] = agent_numbers[row, layout.N_EVENTS] / days if days >= 1.0 else 0.0
        if now == hour[place]:
            events[place] += 1
        hasty += _is_hasty(events[place], usual_day[place])
    return hasty


@allocation_free
def _flag_rows(
    places: npt.NDArray[np.int64],
    now: int,
    hour: npt.NDArray[np.int64],
    events: npt.NDArray[np.int64],
    usual_day: npt.NDArray[np.float64],
    present: npt.NDArray[np.bool_],
    hasty: npt.NDArray[np.bool_],
) -> tuple[int, int]:
    """Flag places whose newest hour is *now*, and those in haste; return how many of each are new."""
    met, hurried = 0, 0
    for place in places:
        if hour[place] != now:
            continue
        met += not present[place]
        present[place] = True
        if _is_hasty(events[place], usual_day[place]):
            hurried += not hasty[place]
            hasty[place] = True
    return met, hurried


@inlined
def _is_hasty(events: int, usual_day: float) -> bool:
    return events >= LEAST_EVENTS and usual_day > 0.0 and events / usual_day >= HASTY_DAYS


OLD_MS = DAY_MS
"""Age at arrival from which an event is old: a day, since exports of logs are late by hours."""

LEAST_AGENTS, MAX_WATCHED = 5, 50_000
"""Agents from which haste is checked; most agents that are checked together."""

_LOG_EVERY_MS = HOUR_MS
_log = structlog.get_logger(__name__)


def is_haste(hasty: int, agents: int) -> bool:
    """Return whether so many of so many agents are in haste that the sent times, not the agents, are the cause."""
    return agents >= LEAST_AGENTS and 2 * hasty > agents


class EventTimes:
    """Checks the events of one partition, and logs if they do not arrive when they happen."""

    def __init__(self, partition: int, counts: Counter[str]) -> None:
        self._partition = partition
        self._counts = counts
        self._hour = 0
        self._paces = AgentPaces()
        self._present, self._hasty = PlaceSet(), PlaceSet()
        self._logged_ms: dict[str, int] = {}

    def note(self, scored: ScoredBatch, model: TrainedModel) -> None:
        """Check events that were scored by *model*."""
        if model.learns or not len(scored.columns):
            return  # a history is expected, and no agent has habits yet
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
        """Check the newest hour of event time."""
        newest = int(scored.columns.time_ms.max()) // HOUR_MS
        if newest > self._hour or len(self._paces) > MAX_WATCHED:
            self._hour, self._paces = max(newest, self._hour), AgentPaces()
            self._present, self._hasty = PlaceSet(), PlaceSet()
        self._paces.flag(self._paces.note(scored), self._hour, self._present, self._hasty)
        if is_haste(self._hasty.count, self._present.count):
            self._counts["hasty_events"] += len(scored.columns)
            self._log_haste(self._paces.usual_days(self._hasty.places), self._present.count, now_ms)

    def _log_haste(self, hasty: npt.NDArray[np.float64], agents: int, now_ms: int) -> None:
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
        """Return whether *what* is logged now: once an hour."""
        if now_ms < self._logged_ms.get(what, 0) + _LOG_EVERY_MS:
            return False
        self._logged_ms[what] = now_ms
        return True
