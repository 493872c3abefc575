"""Stolen identities: sessions of one agent under the name, key, network and task of another, in a simulated enterprise.

Everything that is done is honest; only who does it is not. A session is judged by its largest event score, learning on.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from trustwatch.models.concerns import CONCERNS
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.population import SimulationSettings

from ..attacks.attacked_enterprise import START
from . import traces
from .metrics import figures
from .report import FigureTable

AGENTS, DAYS, EVENTS_PER_DAY, SEED = 60, 10, 120.0, 5
HISTORY_SHARE, STOLEN_SHARE, LEAST_EVENTS = 0.75, 0.06, 5
"""Parts of the events that are history and of the sessions that are stolen, and events that a judged session has."""
DRAWS = (1, 2)
FALSE_POSITIVES = (0.01, 0.049)
OF_THE_VICTIM = ("agent", "client", "credential", "principal", "task", "tenant", "delegation")
"""Members of an event that a thief has from the agent whose identity it uses."""

Event = dict[str, Any]


class JudgedSession(NamedTuple):
    """Whether a session is stolen, and the rows of its events."""

    stolen: bool
    rows: list[int]


def run(quick: bool) -> list[FigureTable]:
    """Figures of thieves of the victim's own type, and of any."""
    days = 4 if quick else DAYS
    made = simulate(
        SimulationSettings(
            start=START, duration=timedelta(days=days), seed=SEED, agents=AGENTS, events_per_agent_day=EVENTS_PER_DAY
        )
    )
    events = [json.loads(one.event) for one in made]
    cut = int(len(events) * HISTORY_SHARE)
    history, judged = events[:cut], events[cut:]
    model = traces.train([json.dumps(one).encode() for one in history], "enterprise")
    rows = []
    for same_type in (True, False):
        for draw in DRAWS[: 1 if quick else None]:
            swapped, sessions = steal(history, judged, same_type, draw)
            lines = traces.replay(model, [json.dumps(one).encode() for one in swapped], True)
            scores = {"all evidence": [line.anomaly_score for line in lines]}
            scores |= {CONCERNS[0]: [line.concerns[CONCERNS[0]].anomaly_score for line in lines]}
            for name, values in scores.items():
                found = _figures(sessions, values)
                thief = "of the same type" if same_type else "of any type"
                rows.append((thief, draw, name, *found, sum(one.stolen for one in sessions), len(sessions)))
    columns = ("thief", "draw", "score", "ROC-AUC", "recall at 1 %", "recall at 4.9 %", "stolen", "sessions")
    return [FigureTable("Stolen identities", columns, rows)]


def steal(
    history: list[Event], judged: list[Event], same_type: bool, draw: int
) -> tuple[list[Event], list[JudgedSession]]:
    """Events in which some sessions are under the identity of another agent of the history, and all sessions."""
    rng, latest, of_type = random.Random(draw), dict[str, Event](), defaultdict(set)
    for one in history:
        latest[one["agent"]["id"]] = one
        of_type[one["agent"].get("type")].add(one["agent"]["id"])
    by_session: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, one in enumerate(judged):
        if one.get("session"):
            by_session[one["agent"]["id"], one["session"]].append(row)
    swapped, sessions = list(judged), []
    for (thief, _), rows in by_session.items():
        if len(rows) < LEAST_EVENTS:
            continue
        victims = sorted((of_type[judged[rows[0]]["agent"].get("type")] if same_type else set(latest)) - {thief})
        stolen = rng.random() < STOLEN_SHARE and bool(victims)
        if stolen:
            victim = latest[rng.choice(victims)]
            for row in rows:
                own = {name: value for name, value in judged[row].items() if name not in OF_THE_VICTIM}
                swapped[row] = own | {name: victim[name] for name in OF_THE_VICTIM if name in victim}
        sessions.append(JudgedSession(stolen, rows))
    return swapped, sessions


def _figures(sessions: list[JudgedSession], scores: list[float]) -> list[float]:
    """ROC-AUC, and recall at each share of `FALSE_POSITIVES`."""
    largest = np.array([max(scores[row] for row in one.rows) for one in sessions])
    found = figures([one.stolen for one in sessions], largest, None, FALSE_POSITIVES)[0]
    return [float(found[at]) for at in (0, 2, 3)]
