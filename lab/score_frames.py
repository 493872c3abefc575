"""Events through the live path again, in memory: every event's score, its vector, and the risk it left."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..ingest.events import NativeEvent
from ..ingest.features.feature_table import FEATURE_NAMES, FEATURES
from ..models.detector import ForestDetector
from ..models.trained_model import TrainedModel
from ..scoring.engine import risk
from ..scoring.engine.engine import EngineSettings, ScoredBatch
from ..scoring.pipeline.replay import HistoryReplay
from ..scoring.records.agents import RiskLevel
from ..scoring.records.decisions import Decision
from .event_history import EventFilter, RawEventSource, parse_time_ms
from .frame_builder import build_frame, build_frame_from_columns
from .frame_columns import LEVEL_NAMES
from .session import LabError, LabWarning

_EVENT_COLUMNS = ("time", "id", "tenant", "issuer", "agent_id", "agent_type", "action")
_LEVEL_NAME_ARRAY = np.array(LEVEL_NAMES)
_MAX_DECAY_POINTS = 20_000
"""Most points of decay in a history: of years, they lie further apart."""


class ReplayedRows(NamedTuple):
    """One batch, the rows that are wanted. *numbers* has the columns of `_numbers`."""

    event_columns: list[tuple[Any, ...]]
    numbers: np.ndarray[Any, np.dtype[np.float64]]
    vectors: np.ndarray[Any, np.dtype[np.float64]] | None


def replay_events(
    lines: Iterable[bytes],
    model: TrainedModel,
    settings: EngineSettings,
    domains: Mapping[str, Sequence[str]],
    wanted: EventFilter,
    limit: int,
    vectors: bool,
) -> list[ReplayedRows]:
    """Replay all of *lines*; what is kept is the last *limit* rows that are wanted."""
    replay = HistoryReplay(model, settings, domains)
    kept: deque[ReplayedRows] = deque()
    held = dropped = 0
    for applied in replay.applied_batches(RawEventSource(lines), lambda *_: None):
        for scored, _ in applied.scored:
            part = _select_rows(scored, wanted, vectors)
            kept.append(part)
            held += len(part.event_columns)
            while held - len(kept[0].event_columns) >= limit:
                held -= len(kept[0].event_columns)
                dropped += len(kept.popleft().event_columns)
    if dropped or held > limit:
        warnings.warn(
            f"{held + dropped:,} events were scored, the last {limit:,} are here: narrow since, until or agent, or "
            "raise limit",
            LabWarning,
            stacklevel=4,
        )
        first = kept[0]
        cut = held - limit
        kept[0] = ReplayedRows(
            first.event_columns[cut:], first.numbers[cut:], None if first.vectors is None else first.vectors[cut:]
        )
    return list(kept)


def _select_rows(scored: ScoredBatch, wanted: EventFilter, vectors: bool) -> ReplayedRows:
    times = scored.columns.time_ms
    window = np.ones(len(times), np.bool_)
    if wanted.since_ms is not None:
        window &= times >= wanted.since_ms
    if wanted.until_ms is not None:
        window &= times < wanted.until_ms
    rows = np.flatnonzero(window)
    events = scored.columns.events
    rows = np.array([row for row in rows.tolist() if _matches_agent(wanted, events[row])], np.int64)
    who = [_event_values(events[row], int(times[row])) for row in rows.tolist()]
    return ReplayedRows(who, _score_values(scored, rows), scored.vectors[rows] if vectors else None)


def _matches_agent(wanted: EventFilter, event: NativeEvent) -> bool:
    return wanted.agent is None or wanted._matches_agent(wanted.agent, event)


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


def scores_frame(parts: Sequence[ReplayedRows]) -> Any:
    """The frame `scores`."""
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


def _level_names_of(levels: Any) -> Any:
    return _LEVEL_NAME_ARRAY[levels.astype(np.int64)].tolist()


def vectors_frame(parts: Sequence[ReplayedRows]) -> Any:
    """The frame `vectors`."""
    found = [part.vectors for part in parts if part.vectors is not None]
    matrix = np.concatenate(found) if found else np.zeros((0, len(FEATURE_NAMES)))
    return build_frame_from_columns(
        "vectors", {**_event_column_values(parts), **dict(zip(FEATURE_NAMES, matrix.T, strict=True))}
    )


def raw_events(events: Any) -> Iterator[bytes]:
    """The records of a frame `events`, in order of event time. Raises LabError for a frame that has none."""
    if "raw" not in events.columns:
        raise LabError("the frame has no column `raw`: pass what `lab.events()` returned, with rows left out at most")
    return iter(events.sort_values("time", kind="stable")["raw"].tolist())


def risk_history_frame(scores: Any, found: Iterable[Decision], half_life_s: float, every: str) -> Any:
    """The frame `risk_history`: replayed events, decay between and after them, and the decisions that were recorded."""
    rows: list[tuple[Any, ...]] = [
        (parse_time_ms(one.time), "event", one.risk_score, one.level, one.action, None, "", "")
        for one in scores.itertuples()
    ]
    decided = sorted(found, key=lambda one: one.event_time_ms)
    last_ms = max([row[0] for row in rows[-1:]] + [one.event_time_ms for one in decided[-1:]], default=0)
    every_ms = max(
        int(pd.Timedelta(every).total_seconds() * 1000), (last_ms - rows[0][0]) // _MAX_DECAY_POINTS if rows else 1, 1
    )
    rows += _decay_points(rows, last_ms, half_life_s, every_ms)
    rows += [
        (
            one.event_time_ms,
            "decision",
            one.risk_score,
            RiskLevel(one.level).label,
            None,
            one.cause,
            one.reasons[0].text if one.reasons else "",
            one.decision_id,
        )
        for one in decided
    ]
    return build_frame("risk_history", sorted(rows, key=lambda row: row[0]))


def _decay_points(
    rows: Sequence[tuple[Any, ...]], last_ms: int, half_life_s: float, every_ms: int
) -> list[tuple[Any, ...]]:
    """Points between events, on which the displayed risk halves with every half-life."""
    points: list[tuple[Any, ...]] = []
    ends = [*(row[0] for row in rows[1:]), last_ms + 1]
    for (at_ms, _, score, level, *_), end_ms in zip(rows, ends, strict=False):
        if score < 0.001:
            continue
        for point_ms in range(at_ms + every_ms, end_ms, every_ms):
            decayed = score * 0.5 ** ((point_ms - at_ms) / 1000.0 / half_life_s)
            points.append((point_ms, "decay", decayed, level, None, None, "", ""))
    return points


def contributions_frame(detector: ForestDetector, vector: Mapping[str, float]) -> Any:
    """The frame `contributions`: what stood out in one vector, the most first."""
    X = np.array([[float(vector.get(name, 0.0)) for name in FEATURE_NAMES]])
    share, evidence = detector.explain(X)[0], detector.evidence(X).feature_evidence[0]
    order = np.argsort(-share, kind="stable").tolist()
    return build_frame(
        "contributions",
        [
            (
                FEATURES[at].name,
                FEATURES[at].family,
                X[0, at],
                FEATURES[at].unit,
                evidence[at],
                share[at],
                FEATURES[at].meaning,
            )
            for at in order
        ],
    )
