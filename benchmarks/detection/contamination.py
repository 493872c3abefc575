"""Bad sessions in the history: what ROC-AUC they cost on the others."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import Any

import numpy as np
from trustwatch.models.bundle import TrainedModel

from benchmarks.detection import traces
from benchmarks.detection.metrics import AUC, figures
from benchmarks.detection.report import Table
from benchmarks.detection.traces import Trace

SHARES = (0.02, 0.08)
WANTED = {0.02: 0.03, 0.08: 0.05}
"""Share of the history's sessions -> largest loss of ROC-AUC aimed at."""


def run(sets: list[Trace], draws: int) -> list[Table]:
    """Loss per set and share: means over draws of which bad sessions are in the history, and the largest."""
    rows = []
    for trace in sets:
        untouched = traces.train(trace.train, trace.name)
        for share in SHARES:
            cells = np.array([_losses(trace, untouched, share, seed) for seed in range(draws)])
            clean, dirty = cells[:, 0], cells[:, 1]
            loss = clean - dirty
            rows.append(
                (trace.name, f"{share:.0%}", float(clean.mean()), float(dirty.mean()), float(loss.mean()),
                 float(loss.max()), f"{WANTED[share]:.2f}")
            )  # fmt: skip
    columns = ("data", "bad sessions in the history", "ROC-AUC, clean history", "contaminated", "loss", "largest loss",
               "wanted below")  # fmt: skip
    note = f"Means over {draws} draws of the bad sessions, which are left out of the test; baseline frozen."
    return [Table("Contaminated history", columns, rows, note)]


def _losses(trace: Trace, untouched: TrainedModel, share: float, seed: int) -> tuple[float, float]:
    """ROC-AUC on the same remaining test sessions with a clean and with a contaminated history."""
    rng = np.random.default_rng(seed)
    taken = _drawn(trace, share, rng)
    left = [row for row, label in enumerate(trace.labels) if label["session"] not in taken]
    rest = Trace(trace.name, trace.train, *_pick(trace, left))
    bad = [raw for raw, label in zip(trace.test, trace.labels, strict=True) if label["session"] in taken]
    return _auc(rest, untouched), _auc(rest, traces.train(mixed(trace.train, bad, rng), trace.name))


def _drawn(trace: Trace, share: float, rng: np.random.Generator) -> set[str]:
    sessions = sorted({label["session"] for label in trace.labels if label["session_label"]})
    normal = len({json.loads(line)["session"] for line in trace.train})
    return set(rng.choice(sessions, round(share / (1.0 - share) * normal), replace=False).tolist())


def _pick(trace: Trace, rows: list[int]) -> tuple[list[bytes], list[dict[str, Any]]]:
    return [trace.test[row] for row in rows], [trace.labels[row] for row in rows]


def _auc(trace: Trace, model: TrainedModel) -> float:
    scores = traces.anomaly(traces.replay(model, trace.test, learn=False))
    return float(figures(trace.units.bad, trace.lift(scores))[0, AUC])


def mixed(history: list[bytes], bad: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """The history with bad sessions moved to moments drawn from it, in order of time."""
    events = [json.loads(line) for line in history]
    sessions: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for raw in bad:
        event = json.loads(raw)
        sessions[event["agent"]["id"], event["session"]].append(event)
    moments = [datetime.fromisoformat(event["time"]) for event in events]
    for session in sessions.values():
        start = datetime.fromisoformat(session[0]["time"])
        moved = moments[int(rng.integers(len(moments)))]
        for event in session:
            at = moved + (datetime.fromisoformat(event["time"]) - start)
            event["time"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            events.append(event)
    events.sort(key=lambda event: event["time"])
    return [json.dumps(event).encode() for event in events]
