"""Replay of events through the live path, in memory: every event's score, its vector, and the risk after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trustwatch.ingest.events import NativeEvent
from trustwatch.ingest.features.feature_declaration import UNIT_WORDS
from trustwatch.ingest.features.feature_table import FEATURE_NAMES, FEATURES
from trustwatch.ingest.record_keys import raw_id_hash
from trustwatch.ingest.source import Record, RecordBatch, RecordKind
from trustwatch.scoring.engine import risk
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.scoring.records.agents import RiskLevel
from trustwatch.scoring.records.decisions import Decision

from .event_frames import raw_events
from .event_history import AgentReference, EventFilter, EventHistory, build_event_filter, parse_time_ms
from .frame_builder import build_frame, build_frame_from_columns
from .frame_columns import LEVEL_NAMES
from .session import DEFAULT_ROW_LIMIT, LabError, LabModel, LabSession, warn_incomplete
from .store_frames import find_decision, find_decisions

_EVENT_COLUMNS = ("time", "id", "tenant", "issuer", "agent_id", "agent_type", "action")
_LEVEL_NAME_ARRAY = np.array(LEVEL_NAMES)
_LOWEST_DECAYING_SCORE = 0.001
_MAX_DECAY_POINTS = 20_000
"""Most points of decay in a history: of years, they lie further apart."""


def scores(
    session: LabSession,
    events: pd.DataFrame | None = None,
    model: LabModel | None = None,
    *,
    agent: AgentReference = None,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    learn: bool = True,
    limit: int = DEFAULT_ROW_LIMIT,
) -> pd.DataFrame:
    """Every event through the live path: its score, its evidence, and the risk it left.

    Without *events*, all since the model's history ended are replayed, so that agents' state is as it was live.
    """
    event_filter = build_event_filter(session, agent, tenant, since, until)
    parts = _replay(session, events, model, event_filter, learn=learn, limit=limit)
    numbers = np.concatenate([part.numbers for part in parts]) if parts else np.zeros((0, 8))
    anomaly, p_value, evidence, statistic, score, before, after, confidence = numbers.T
    return build_frame_from_columns(
        "scores",
        {
            **_event_column_values(parts),
            "anomaly_score": anomaly,
            "p_value": p_value,
            "evidence": evidence,
            "statistic": statistic,
            "risk_score": score,
            "level_before": _level_names_of(before),
            "level": _level_names_of(after),
            "confidence": confidence,
        },
    )


def vectors(
    session: LabSession,
    events: pd.DataFrame | None = None,
    model: LabModel | None = None,
    *,
    agent: AgentReference = None,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    learn: bool = True,
    limit: int = 20_000,
) -> pd.DataFrame:
    """The feature vector of every event, as `scores`."""
    event_filter = build_event_filter(session, agent, tenant, since, until)
    parts = _replay(session, events, model, event_filter, learn=learn, limit=limit, with_vectors=True)
    matrices = [part.vectors for part in parts if part.vectors is not None]
    matrix = np.concatenate(matrices) if matrices else np.zeros((0, len(FEATURE_NAMES)))
    return build_frame_from_columns(
        "vectors", {**_event_column_values(parts), **dict(zip(FEATURE_NAMES, matrix.T, strict=True))}
    )


def risk_history(
    session: LabSession,
    agent: AgentReference,
    *,
    tenant: str | None = None,
    since: Any = None,
    until: Any = None,
    every: str = "5min",
) -> pd.DataFrame:
    """An agent's risk over time: replayed event by event, decaying between them, with the recorded decisions."""
    replayed = scores(session, agent=agent, tenant=tenant, since=since, until=until)
    rows: list[tuple[Any, ...]] = [
        (parse_time_ms(row.time), "event", row.risk_score, row.level, row.action, None, "", "")
        for row in replayed.itertuples()
    ]
    decided = sorted(find_decisions(session, agent, tenant, since, until), key=lambda decision: decision.event_time_ms)
    last_ms = max([row[0] for row in rows[-1:]] + [decision.event_time_ms for decision in decided[-1:]], default=0)
    step_ms = max(int(pd.Timedelta(every).total_seconds() * 1000), 1)
    if rows:
        step_ms = max(step_ms, (last_ms - rows[0][0]) // _MAX_DECAY_POINTS)
    rows += _decay_points(rows, last_ms, session.settings.risk.half_life_s, step_ms)
    rows += map(_decision_point, decided)
    return build_frame("risk_history", sorted(rows, key=lambda row: row[0]))


def contributions(session: LabSession, decision: str | pd.Series, model: LabModel | None = None) -> pd.DataFrame:
    """All features of a decision's event: what was measured, and what stood out under the model."""
    stored = find_decision(session, decision)
    if not stored.feature_vector:
        raise LabError(f"decision {stored.decision_id} has no feature vector: no event made it, but {stored.cause}")
    chosen = model or session.model()
    if chosen.version != stored.model_version:
        warn_incomplete(
            f"the decision was made under model {stored.model_version}, this is how {chosen.version} sees its event"
        )
    vector = np.array([[float(stored.feature_vector.get(name, 0.0)) for name in FEATURE_NAMES]])
    shares = chosen.detector.explain(vector)[0]
    evidence = chosen.detector.evidence(vector).feature_evidence[0]
    rows = [
        (
            feature.name,
            feature.family,
            vector[0, at],
            UNIT_WORDS[feature.unit],
            evidence[at],
            shares[at],
            feature.meaning,
        )
        for at, feature in enumerate(FEATURES)
    ]
    return build_frame("contributions", sorted(rows, key=lambda row: -row[5]))


def events_to_replay(session: LabSession, model: LabModel, event_filter: EventFilter) -> Iterator[bytes]:
    """All events since the end of the model's history, or since the begin of the window if that is earlier."""
    learned_ms = model.trained.window_ms[1]
    since_ms = learned_ms + 1
    if event_filter.since_ms is not None and event_filter.since_ms <= learned_ms:
        since_ms = event_filter.since_ms
        warn_incomplete(
            f"model {model.version} has learned from events up to {model.window[1]:%Y-%m-%d %H:%M}: what is "
            "scored before that it has seen",
            calls=3,
        )
    events = EventHistory(session.settings).events(event_filter._replace(since_ms=since_ms))
    return (record.raw for record in events)


class ReplayedRows(NamedTuple):
    """The rows of one batch that are asked for.

    Attributes:
        event_columns: values of `_EVENT_COLUMNS`, by row.
        numbers: float64 (rows, 8), the columns of `_score_values`.
        vectors: float64 (rows, features); None where only scores are asked for.
    """

    event_columns: list[tuple[Any, ...]]
    numbers: np.ndarray[Any, np.dtype[np.float64]]
    vectors: np.ndarray[Any, np.dtype[np.float64]] | None

    def without_first(self, number: int) -> ReplayedRows:
        """The rows but for the first *number*."""
        vectors = None if self.vectors is None else self.vectors[number:]
        return ReplayedRows(self.event_columns[number:], self.numbers[number:], vectors)


def _replay(
    session: LabSession,
    events: pd.DataFrame | None,
    model: LabModel | None,
    event_filter: EventFilter,
    *,
    learn: bool,
    limit: int,
    with_vectors: bool = False,
) -> list[ReplayedRows]:
    """Replay all events; what is kept is the last *limit* rows that the filter asks for."""
    chosen = model or session.model()
    lines = events_to_replay(session, chosen, event_filter) if events is None else raw_events(events)
    settings = session.engine_settings._replace(learn=learn)
    replay = HistoryReplay(chosen.trained, settings, session.settings.domains())
    return _keep_newest(
        (
            _select_rows(scored, event_filter, with_vectors)
            for applied in replay.applied_batches(RawEventSource(lines), lambda *_: None)
            for scored, _ in applied.scored
        ),
        limit,
    )


def _keep_newest(batches: Iterable[ReplayedRows], limit: int) -> list[ReplayedRows]:
    """The last *limit* rows; says by a `LabWarning` if there were more."""
    kept: deque[ReplayedRows] = deque()
    kept_rows = dropped_rows = 0
    for batch in batches:
        kept.append(batch)
        kept_rows += len(batch.event_columns)
        while kept_rows - len(kept[0].event_columns) >= limit:
            oldest = kept.popleft()
            kept_rows -= len(oldest.event_columns)
            dropped_rows += len(oldest.event_columns)
    if dropped_rows or kept_rows > limit:
        warn_incomplete(
            f"{kept_rows + dropped_rows:,} events were scored, the last {limit:,} are here: narrow since, until or "
            "agent, or raise limit",
            calls=3,
        )
        kept[0] = kept[0].without_first(kept_rows - limit)
    return list(kept)


def _select_rows(scored: ScoredBatch, event_filter: EventFilter, with_vectors: bool) -> ReplayedRows:
    times, events = scored.columns.time_ms, scored.columns.events
    in_window = np.ones(len(times), np.bool_)
    if event_filter.since_ms is not None:
        in_window &= times >= event_filter.since_ms
    if event_filter.until_ms is not None:
        in_window &= times < event_filter.until_ms
    rows = [row for row in np.flatnonzero(in_window).tolist() if event_filter.matches_agent(events[row])]
    return ReplayedRows(
        [_event_values(events[row], int(times[row])) for row in rows],
        _score_values(scored, np.array(rows, np.int64)),
        scored.vectors[rows] if with_vectors else None,
    )


def _event_values(event: NativeEvent, at_ms: int) -> tuple[Any, ...]:
    agent = event.agent
    return at_ms, event.id, event.tenant, agent.issuer, agent.id, agent.type, event.action


def _score_values(scored: ScoredBatch, rows: Any) -> Any:
    out = scored.risk[rows]
    return np.column_stack(
        [
            scored.anomaly[rows],
            scored.p_values[rows],
            out[:, risk.GAIN],
            out[:, risk.STATISTIC],
            out[:, risk.SCORE],
            out[:, risk.LEVEL_BEFORE],
            scored.levels[rows, 1],
            out[:, risk.CONFIDENCE],
        ]
    )


def _event_column_values(parts: Sequence[ReplayedRows]) -> dict[str, Any]:
    rows = [row for part in parts for row in part.event_columns]
    columns = list(zip(*rows, strict=True)) or [()] * len(_EVENT_COLUMNS)
    return dict(zip(_EVENT_COLUMNS, columns, strict=True))


def _level_names_of(levels: Any) -> Any:
    return _LEVEL_NAME_ARRAY[levels.astype(np.int64)].tolist()


def _decay_points(
    rows: Sequence[tuple[Any, ...]], last_ms: int, half_life_s: float, step_ms: int
) -> list[tuple[Any, ...]]:
    """Points between events, on which the displayed risk halves with every half-life."""
    points: list[tuple[Any, ...]] = []
    ends = [*(row[0] for row in rows[1:]), last_ms + 1]
    for (at_ms, _, score, level, *_), end_ms in zip(rows, ends, strict=False):
        if score < _LOWEST_DECAYING_SCORE:
            continue
        for point_ms in range(at_ms + step_ms, end_ms, step_ms):
            decayed = score * 0.5 ** ((point_ms - at_ms) / 1000.0 / half_life_s)
            points.append((point_ms, "decay", decayed, level, None, None, "", ""))
    return points


def _decision_point(decision: Decision) -> tuple[Any, ...]:
    return (
        decision.event_time_ms,
        "decision",
        decision.risk_score,
        RiskLevel(decision.level).label,
        None,
        decision.cause,
        decision.reasons[0].text if decision.reasons else "",
        decision.decision_id,
    )


class RawEventSource:
    """Raw events in order, as a replay reads them: implements what it needs of a `Source`.

    Args:
        lines: one event each.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._base = 0

    def poll(self, max_records: int, timeout_s: float) -> RecordBatch | None:  # noqa: ARG002 (nothing waits)
        """The next records; None at the end."""
        lines = [line for _, line in zip(range(max_records), self._lines, strict=False)]
        if not lines:
            return None
        base, self._base = self._base, self._base + len(lines)
        return RecordBatch(0, base, [Record(RecordKind.EVENT, raw_id_hash(line), 0, line) for line in lines])

    def seek(self, partition: int, offset: int) -> None:
        """A replay begins at the beginning."""

    def end_offset(self, partition: int) -> int:  # noqa: ARG002 (there is one)
        """Number of records returned so far."""
        return self._base

    def close(self) -> None:
        """Do nothing: no resource is open."""
