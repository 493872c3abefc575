"""Events through the live path again, in memory: every event's score, its vector, and the risk it left."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...ingest.events import AuditEvent
from ...ingest.features.table import FEATURES, NAMES
from ...models.bundle import TrainedModel
from ...models.detector import ForestDetector
from ...scoring import risk
from ...scoring.engine import EngineSettings, Scored
from ...scoring.records import Decision, RiskLevel
from ...scoring.replay import Replay
from .columns import LEVELS
from .frames import frame, frame_of
from .history import Lines, Wanted, moment
from .opening import LabError, LabWarning

_WHO = ("time", "id", "tenant", "issuer", "agent_id", "agent_type", "action")
_LEVEL_NAMES = np.array(LEVELS)
_POINTS = 20_000
"""Most points of decay in a history: of years, they lie further apart."""


class Replayed(NamedTuple):
    """One batch, the rows that are wanted. *numbers* has the columns of `_numbers`."""

    who: list[tuple[Any, ...]]
    numbers: np.ndarray[Any, np.dtype[np.float64]]
    vectors: np.ndarray[Any, np.dtype[np.float64]] | None


def replayed(
    lines: Iterable[bytes],
    model: TrainedModel,
    settings: EngineSettings,
    domains: Mapping[str, Sequence[str]],
    wanted: Wanted,
    limit: int,
    vectors: bool,
) -> list[Replayed]:
    """Replay all of *lines*; what is kept is the last *limit* rows that are wanted."""
    replay = Replay(model, settings, domains)
    kept: deque[Replayed] = deque()
    held = dropped = 0
    for applied in replay.applied(Lines(lines), lambda *_: None):
        for scored, _ in applied.scored:
            part = _part(scored, wanted, vectors)
            kept.append(part)
            held += len(part.who)
            while held - len(kept[0].who) >= limit:
                held -= len(kept[0].who)
                dropped += len(kept.popleft().who)
    if dropped or held > limit:
        warnings.warn(
            f"{held + dropped:,} events were scored, the last {limit:,} are here: narrow since, until or agent, or "
            "raise limit",
            LabWarning,
            stacklevel=4,
        )
        first = kept[0]
        cut = held - limit
        kept[0] = Replayed(first.who[cut:], first.numbers[cut:], None if first.vectors is None else first.vectors[cut:])
    return list(kept)


def _part(scored: Scored, wanted: Wanted, vectors: bool) -> Replayed:
    times = scored.columns.time_ms
    window = np.ones(len(times), np.bool_)
    if wanted.since_ms is not None:
        window &= times >= wanted.since_ms
    if wanted.until_ms is not None:
        window &= times < wanted.until_ms
    rows = np.flatnonzero(window)
    events = scored.columns.events
    rows = np.array([row for row in rows.tolist() if _takes(wanted, events[row])], np.int64)
    who = [_who(events[row], int(times[row])) for row in rows.tolist()]
    return Replayed(who, _numbers(scored, rows), scored.vectors[rows] if vectors else None)


def _takes(wanted: Wanted, event: AuditEvent) -> bool:
    return wanted.agent is None or wanted._names(wanted.agent, event)


def _who(event: AuditEvent, at_ms: int) -> tuple[Any, ...]:
    agent = event.agent
    return at_ms, event.id, event.tenant, agent.issuer, agent.id, agent.type, event.action


def _numbers(scored: Scored, rows: Any) -> Any:
    out = scored.risk[rows]
    return np.column_stack(
        [
            scored.anomaly[rows],
            scored.p_values[rows],
            out[:, risk.GAIN],
            out[:, risk.STATISTIC],
            out[:, risk.SCORE],
            out[:, risk.RESTED],
            scored.levels[rows, 1],
            out[:, risk.CONFIDENCE],
        ]
    )


def _who_columns(parts: Sequence[Replayed]) -> dict[str, Any]:
    rows = [row for part in parts for row in part.who]
    columns = list(zip(*rows, strict=True)) or [()] * len(_WHO)
    return dict(zip(_WHO, columns, strict=True))


def scores_frame(parts: Sequence[Replayed]) -> Any:
    """The frame `scores`."""
    numbers = np.concatenate([part.numbers for part in parts]) if parts else np.zeros((0, 8))
    anomaly, p_value, evidence, statistic, score, before, after, confidence = numbers.T
    return frame_of(
        "scores",
        {
            **_who_columns(parts),
            "anomaly_score": anomaly,
            "p_value": p_value,
            "evidence": evidence,
            "statistic": statistic,
            "risk_score": score,
            "level_before": _names(before),
            "level": _names(after),
            "confidence": confidence,
        },
    )


def _names(levels: Any) -> Any:
    return _LEVEL_NAMES[levels.astype(np.int64)].tolist()


def vectors_frame(parts: Sequence[Replayed]) -> Any:
    """The frame `vectors`."""
    found = [part.vectors for part in parts if part.vectors is not None]
    matrix = np.concatenate(found) if found else np.zeros((0, len(NAMES)))
    return frame_of("vectors", {**_who_columns(parts), **dict(zip(NAMES, matrix.T, strict=True))})


def raw_lines(events: Any) -> Iterator[bytes]:
    """The records of a frame `events`, in order of event time. Raises LabError for a frame that has none."""
    if "raw" not in events.columns:
        raise LabError("the frame has no column `raw`: pass what `lab.events()` returned, with rows left out at most")
    return iter(events.sort_values("time", kind="stable")["raw"].tolist())


def history_frame(scores: Any, found: Iterable[Decision], half_life_s: float, every: str) -> Any:
    """The frame `risk_history`: replayed events, decay between and after them, and the decisions that were recorded."""
    rows: list[tuple[Any, ...]] = [
        (moment(one.time), "event", one.risk_score, one.level, one.action, None, "", "") for one in scores.itertuples()
    ]
    decided = sorted(found, key=lambda one: one.event_time_ms)
    last_ms = max([row[0] for row in rows[-1:]] + [one.event_time_ms for one in decided[-1:]], default=0)
    every_ms = max(int(pd.Timedelta(every).total_seconds() * 1000), (last_ms - rows[0][0]) // _POINTS if rows else 1, 1)
    rows += _decay(rows, last_ms, half_life_s, every_ms)
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
    return frame("risk_history", sorted(rows, key=lambda row: row[0]))


def _decay(rows: Sequence[tuple[Any, ...]], last_ms: int, half_life_s: float, every_ms: int) -> list[tuple[Any, ...]]:
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
    X = np.array([[float(vector.get(name, 0.0)) for name in NAMES]])
    share, evidence = detector.explain(X)[0], detector.evidence(X).u[0]
    order = np.argsort(-share, kind="stable").tolist()
    return frame(
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
