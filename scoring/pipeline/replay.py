"""Replay of a history by the processor of `serve`, without a store.

Time comes from the events: after a batch with the latest events so far, a tick lets due levels step down, as the
recorded ticks of the live service do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.duplicate_window import DuplicateWindow
from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.source import Source
from trustwatch.ingest.timestamps import MINUTE_MS
from trustwatch.models.concerns import CONCERNS
from trustwatch.models.trained_model import TrainedModel

from ..engine.decision_maker import RecordMoment
from ..engine.engine import Engine, EngineSettings
from ..engine.scored_batch import ScoredBatch
from ..policy.book import LivePolicy, PolicyBook
from ..records.agents import RiskLevel
from ..records.decisions import Decision, RiskReason
from .processor import AppliedBatch, Processor

REPLAY_BATCH_SIZE = 1000
TICK_MS = MINUTE_MS
EXPLAINED_P_VALUE = 0.25
"""p-value, of all evidence or of a concern, up to which an event brings evidence and has reasons in the output."""


class ConcernScore(msgspec.Struct, frozen=True, gc=False):
    """One concern of one event; see `trustwatch.models.concerns`."""

    anomaly_score: float
    p_value: float


class ReplayedEvent(NamedTuple):
    """One line of `replay`'s output.

    Anomaly scores and reasons are of the event alone, whatever counted before it. p-values are those of the evidence:
    names that have counted are left out, as in the calibration by training.
    """

    id: str
    agent_id: str
    time: str
    anomaly_score: float
    p_value: float
    risk_score: float
    risk_level: str
    reasons: tuple[RiskReason, ...]
    concerns: dict[str, ConcernScore]


class ReplaySummary(NamedTuple):
    """Counts and decisions of a replay."""

    events: int
    malformed: int
    duplicates: int
    mended: int
    late: int
    decisions: list[Decision]


class HistoryReplay:
    """Runs one source to its end."""

    def __init__(
        self,
        model: TrainedModel,
        settings: EngineSettings,
        domains: Mapping[str, Sequence[str]] | None = None,
        window: DuplicateWindow | None = None,
        newest: Callable[[], int] | None = None,
    ) -> None:
        self._mended = 0
        self._tick_at = 0
        self.ticked_ms = 0
        """Event time up to which time passed for all agents after the last batch; 0 = it did not."""
        self.engine = Engine(model, settings, None)
        policy = LivePolicy(PolicyBook())
        encoder = ColumnEncoder(model.salt, domains)
        self._processor = Processor(self.engine, encoder, window or DuplicateWindow(), policy, self._decode)
        self._newest = newest
        self._counts = Counter[str](events=0, malformed=0, duplicates=0, late=0)
        self._decisions: list[Decision] = []

    def _decode(self, raw: bytes) -> NativeEvent:
        event, mended = decode_history_event(raw)
        self._mended += mended
        return event

    def replayed_events(self, source: Source, on_malformed: Callable[[int, str, str], None]) -> Iterator[ReplayedEvent]:
        """Yield every event in input order; *on_malformed* gets offset, path and reason of other records."""
        for applied in self.applied_batches(source, on_malformed):
            for scored, _ in applied.scored:
                yield from self._events_of(scored)

    def applied_batches(self, source: Source, on_malformed: Callable[[int, str, str], None]) -> Iterator[AppliedBatch]:
        """Apply the source batch by batch. A result is valid until the next one is requested."""
        while (batch := source.poll(REPLAY_BATCH_SIZE, 0.0)) is not None:
            applied = self._processor.apply(batch)
            if self._newest is not None:
                newest = self._newest()
            else:
                newest = max((int(scored.columns.time_ms.max()) for scored, _ in applied.scored), default=0)
            self.ticked_ms = 0
            if newest >= self._tick_at:  # due levels step down at most once a minute of event time
                self.ticked_ms, self._tick_at = newest, newest + TICK_MS
                self._processor.apply_tick(RecordMoment(batch.partition, batch.next_offset - 1, newest), applied)
            for letter in applied.dead_letters:
                on_malformed(letter.offset, letter.path, letter.reason)
            late = sum(scored.late_events for scored, _ in applied.scored)
            counts = {"events": applied.events, "duplicates": applied.duplicates, "late": late}
            self._counts.update(counts, malformed=len(applied.dead_letters))
            self._decisions.extend(applied.decisions)
            yield applied

    def _events_of(self, scored: ScoredBatch) -> Iterator[ReplayedEvent]:
        counted = scored.concerns.p_value[:, self.engine.model.counted_concerns].min(axis=1)
        rows = np.flatnonzero(np.minimum(scored.raw_p_values, counted) <= EXPLAINED_P_VALUE).tolist()
        reasons: dict[int, Any] = dict(
            zip(rows, self.engine.explainer.reasons(scored, rows, alone=True), strict=True) if rows else ()
        )
        for row, event in enumerate(scored.columns.events):
            by_concern = zip(CONCERNS, scored.concerns.anomaly_score[row], scored.concern_p_values[row], strict=True)
            yield ReplayedEvent(
                event.id or "",
                event.agent.id,
                event.time.isoformat(),
                float(scored.anomaly[row]),
                float(scored.p_values[row]),
                float(scored.risk_scores[row]),
                RiskLevel(int(scored.levels[row, 1])).label,
                reasons.get(row, ()),
                {name: ConcernScore(float(anomaly), float(p_value)) for name, anomaly, p_value in by_concern},
            )

    def summary(self) -> ReplaySummary:
        return ReplaySummary(**self._counts, mended=self._mended, decisions=self._decisions)
