"""A check that events arrive when they happen: their times against arrival, the model's history and agents' habits.

Levels refer to event times. They mean little for a history that is sent to a running service, or for a stream with
compressed times, so both are logged. Nothing here changes a score.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import structlog

from trustwatch.ingest.timestamps import DAY_MS, HOUR_MS, format_rfc3339_seconds
from trustwatch.models.trained_model import TrainedModel

from ..engine.agent_paces import AgentPaces, PlaceSet
from ..engine.scored_batch import ScoredBatch

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
