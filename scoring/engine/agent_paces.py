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

_NEVER = np.iinfo(np.int64).min


class AgentPaces:
    """Counts the events of each agent in its newest hour. Agents do not affect each other's figures.

    Agents have places, from 0 up, in the order in which they are met.

    Args:
        hour: hour since 1970 in which agents are counted; -1 = none.

    Attributes:
        hasty: keys of agents that once were in haste.
        present, hurried: numbers of agents that acted in *hour*, and that were in haste in it.
    """

    def __init__(self, hour: int = -1) -> None:
        self.hour = hour
        self.hasty: set[int] = set()
        self.present = self.hurried = 0
        self._places: dict[int, int] = {}
        self._hours, self._events = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._usual_day = np.zeros(0)  # events of one of its days before that hour; 0 = unknown

    def __len__(self) -> int:
        return len(self._places)

    def note(self, scored: ScoredBatch) -> None:
        """Count a batch. Events before their agent's newest hour are ignored."""
        keys, known = scored.columns.names[:, AGENT].tolist(), self._places
        places = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
        if (more := len(known) - len(self._hours)) > 0:
            more = max(more, len(self._hours))
            self._hours = np.concatenate([self._hours, np.full(more, _NEVER)])
            self._events = np.concatenate([self._events, np.zeros(more, np.int64)])
            self._usual_day = np.concatenate([self._usual_day, np.zeros(more)])
        hasty, present, hurried = _count_rows(
            places,
            scored.columns.time_ms,
            scored.agent_numbers,
            self.hour,
            self._hours,
            self._events,
            self._usual_day,
        )
        self.present += present
        self.hurried += hurried
        if hasty:
            days = self._usual_days(places).tolist()
            self.hasty.update(key for key, number in zip(keys, days, strict=True) if number >= HASTY_DAYS)

    def _usual_days(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return, by place, how many usual days of events came within the newest hour; 0 if unknown or too few."""
        events, usual = self._events[places], self._usual_day[places]
        return np.where(events >= LEAST_EVENTS, events / np.where(usual > 0.0, usual, np.inf), 0.0)

    def median_haste(self) -> float:
        """Return the median, over agents in haste in `hour`, of the usual days of events that came within it."""
        days = self._usual_days(np.flatnonzero(self._hours == self.hour))
        return float(np.median(days[days >= HASTY_DAYS]))


@allocation_free
def _count_rows(
    places: npt.NDArray[np.int64],
    time_ms: npt.NDArray[np.int64],
    agent_numbers: npt.NDArray[np.float32],
    counted_hour: int,
    hour: npt.NDArray[np.int64],
    events: npt.NDArray[np.int64],
    usual_day: npt.NDArray[np.float64],
) -> tuple[int, int, int]:
    """Count rows in order; return how many of them leave their agent in haste, how many agents began the counted hour,
    and how many came in haste in it.

    Args:
        places, time_ms: (n,); UTC milliseconds.
        agent_numbers: (n, NUMBERS), what agents had learned before each row.
        hour, events, usual_day: by place; changed.
    """
    hasty, present, hurried = 0, 0, 0
    for row in range(len(places)):
        place, now = places[row], time_ms[row] // HOUR_MS
        if now > hour[place]:
            days = np.float64(agent_numbers[row, layout.N_REF_AGE])
            hour[place], events[place] = now, 0
            usual_day[place] = agent_numbers[row, layout.N_EVENTS] / days if days >= 1.0 else 0.0
            present += now == counted_hour
        was_hasty = _is_hasty(events[place], usual_day[place])
        if now == hour[place]:
            events[place] += 1
        if _is_hasty(events[place], usual_day[place]):
            hasty += 1
            hurried += not was_hasty and now == counted_hour
    return hasty, present, hurried


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
        self._paces = AgentPaces(hour=0)
        self._logged_ms: dict[str, int] = {}

    def note(self, scored: ScoredBatch, model: TrainedModel) -> None:
        """Check events that were scored by *model*."""
        if model.learns or not len(scored.columns):
            return  # a history is expected, and no agent has habits yet
        times, now_ms = scored.columns.time_ms, int(scored.at_ms[-1])
        if old := int((scored.at_ms - times > OLD_MS).sum()):
            self._counts["old_events"] += old
            self._note_old(times, now_ms, model)
        newest = int(times.max()) // HOUR_MS
        if newest > self._paces.hour or len(self._paces) > MAX_WATCHED:
            self._paces = AgentPaces(max(newest, self._paces.hour))
        paces = self._paces
        paces.note(scored)
        if is_haste(paces.hurried, paces.present):
            self._counts["hasty_events"] += len(times)
            if self._is_due("haste", now_ms):
                _log.warning(
                    "most agents send days of their work within an hour: were event times compressed?",
                    partition=self._partition,
                    agents=paces.present,
                    in_haste=paces.hurried,
                    usual_days_in_an_hour=round(paces.median_haste(), 1),
                    advice="the levels rest on a haste that may never have happened; send events with the times at "
                    "which they happened, or look at a history by `trustwatch replay`",
                )

    def _note_old(self, times: npt.NDArray[np.int64], now_ms: int, model: TrainedModel) -> None:
        end_ms = model.window_ms[1]
        known = int((times <= end_ms).sum())
        self._counts["known_events"] += known
        advice = "`trustwatch train` learns from a history, `trustwatch replay` and `backtest` evaluate one"
        if known:
            advice += "; events that the model has learned from count twice here, and look more usual than they are"
        if self._is_due("known" if known else "old", now_ms):
            _log.warning(
                "old events arrive: levels refer to the time of the events, not to now",
                partition=self._partition,
                oldest=format_rfc3339_seconds(int(times.min())),
                model_learned_until=format_rfc3339_seconds(end_ms),
                advice=advice,
            )

    def _is_due(self, what: str, now_ms: int) -> bool:
        """Return whether *what* is logged now: once an hour."""
        if now_ms < self._logged_ms.get(what, 0) + _LOG_EVERY_MS:
            return False
        self._logged_ms[what] = now_ms
        return True
