"""Bad sessions in the history: what ROC-AUC they cost on the others.

What an agent's own past vouches for is worse than what one of many sessions does: an agent whose whole history is
hijacked sessions is told apart from one of whose history they are a part. Honest sessions instead are the control.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

import numpy as np

from trustwatch.models.trained_model import TrainedModel

from . import traces
from .metrics import AUC, figures
from .report import FigureTable
from .traces import Trace

SHARES = (0.02, 0.08)
WANTED = {0.02: 0.03, 0.08: 0.05}
"""Share of the history's sessions -> largest loss of ROC-AUC aimed at."""


BY_UNKNOWN_AGENTS, BY_KNOWN_AGENTS, CONTROL = (
    "hijacked, of agents that the history has nothing else of",
    "hijacked, of agents of the history",
    "honest, of the same agents (control)",
)


def run(sets: list[Trace], draws: int) -> list[FigureTable]:
    """Loss per set and share: means over draws of which sessions are in the history, and the largest."""
    rows = []
    for trace in sets:
        untouched = traces.train(trace.train, trace.name)
        for share in SHARES:
            found = [_losses(trace, untouched, share, seed) for seed in range(draws)]
            for who in (BY_KNOWN_AGENTS, BY_UNKNOWN_AGENTS, CONTROL):
                clean, dirty = np.array([one[who] for one in found]).T
                loss = clean - dirty
                wanted = "–" if who == CONTROL else f"{WANTED[share]:.2f}"
                rows.append(
                    (
                        trace.name,
                        f"{share:.0%}",
                        who,
                        float(clean.mean()),
                        float(dirty.mean()),
                        float(loss.mean()),
                        float(loss.max()),
                        wanted,
                    )
                )
    columns = (
        "data",
        "sessions added to the history",
        "which",
        "ROC-AUC, history as it is",
        "with them",
        "loss",
        "largest loss",
        "wanted below",
    )
    note = f"Means over {draws} draws of the sessions, which are left out of the test; baseline frozen."
    return [FigureTable("Contaminated history", columns, rows, note)]


def _losses(trace: Trace, untouched: TrainedModel, share: float, seed: int) -> dict[str, tuple[float, float]]:
    """ROC-AUC on the same remaining test sessions without and with sessions in the history, for each kind of these."""
    rng = np.random.default_rng(seed)
    taken = _draw_sessions(trace, share, rng)
    honest = _honest_sessions(trace, taken, rng)
    bad, good = _lines(trace, taken), _lines(trace, honest)
    given = _by_insiders(bad, trace.train_events, rng)
    found = {}
    for who, added, out in (
        (BY_UNKNOWN_AGENTS, bad, taken),
        (BY_KNOWN_AGENTS, given, taken),
        (CONTROL, good, taken | honest),
    ):
        left = [row for row, label in enumerate(trace.labels) if label["session"] not in out]
        rest = Trace(trace.name, trace.train, *_pick(trace, left))
        with_them = traces.train(mixed(trace.train, added, rng), trace.name)
        found[who] = _auc(rest, untouched), _auc(rest, with_them)
    return found


def _lines(trace: Trace, sessions: set[str]) -> list[bytes]:
    return [raw for raw, label in zip(trace.test, trace.labels, strict=True) if label["session"] in sessions]


def _honest_sessions(trace: Trace, taken: set[str], rng: np.random.Generator) -> set[str]:
    """For each taken session an honest one of the same agent, as far as it has any."""
    wanted, theirs = Counter[str](), defaultdict[str, set[str]](set)
    agents = {
        label["session"]: event["agent"]["id"] for event, label in zip(trace.test_events, trace.labels, strict=True)
    }
    for label in trace.labels:
        if not label["session_label"] and label["class"] != "resisted":
            theirs[agents[label["session"]]].add(label["session"])
    wanted.update(agents[session] for session in taken)
    found: set[str] = set()
    for agent, count in sorted(wanted.items()):
        pool = sorted(theirs[agent])
        found |= set(rng.choice(pool, min(count, len(pool)), replace=False).tolist())
    return found


def _by_insiders(bad: list[bytes], history: list[dict[str, Any]], rng: np.random.Generator) -> list[bytes]:
    """The same sessions, each as one of an agent of the history with the same type."""
    pool, doer, made = defaultdict[str, set[str]](set), dict[str, str](), []
    for event in history:
        pool[event["agent"]["type"]].add(event["agent"]["id"])
    for raw in bad:
        event = json.loads(raw)
        agent = event["agent"]
        if event["session"] not in doer:
            doer[event["session"]] = str(rng.choice(sorted(pool[agent["type"]] or {agent["id"]})))
        agent["id"] = doer[event["session"]]
        made.append(json.dumps(event).encode())
    return made


def _draw_sessions(trace: Trace, share: float, rng: np.random.Generator) -> set[str]:
    sessions = sorted({label["session"] for label in trace.labels if label["session_label"]})
    normal = len({json.loads(line)["session"] for line in trace.train})
    return set(rng.choice(sessions, round(share / (1.0 - share) * normal), replace=False).tolist())


def _pick(trace: Trace, rows: list[int]) -> tuple[list[bytes], list[dict[str, Any]]]:
    return [trace.test[row] for row in rows], [trace.labels[row] for row in rows]


def _auc(trace: Trace, model: TrainedModel) -> float:
    scores = traces.anomaly(traces.replay(model, trace.test, learn=False))
    return float(figures(trace.units.bad, trace.unit_scores(scores))[0, AUC])


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
