"""Sensitive data that leaves with a usual mail, in an enterprise whose clients tell where arguments come from.

The simulator's agents send nothing of what they read; here every write takes its content out of the last answer before
it in the session. An attacked agent looks up a record that it may read, and sends that to a place that it knows, by an
action that it uses for this. Others of the enterprise send such records as their job.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from unittest import mock

import msgspec
import numpy as np
from numpy.typing import NDArray

from trustwatch.ingest.columns import WORK_TYPES, ColumnEncoder
from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.ingest.features.row_observations import SENSITIVE
from trustwatch.ingest.file_source import FileSource
from trustwatch.ingest.formats.history_decoding import decode_history_event
from trustwatch.ingest.timestamps import DAY_MS
from trustwatch.scoring.engine.engine import EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.learning.walkforward import train_walk_forward
from trustwatch.scoring.pipeline.replay import HistoryReplay
from trustwatch.simulator.actors import SUCCESS_JSON, resource_json
from trustwatch.simulator.attack_scenarios import SCENARIOS, AttackContext, AttackScenario, usual_steps
from trustwatch.simulator.event_stream import simulate
from trustwatch.simulator.labelled_events import SimulatedLabel
from trustwatch.simulator.population import Attack, SimulationSettings

from ..detection.report import FigureTable
from .additional_scenarios import writes_outside
from .attacked_enterprise import SALT, START, TENANTS, EnterpriseSize, domains

SENSITIVE_TYPES = ("tbl", "emp", "inv", "rpt")
"""Tables and employees, which nobody sends out; invoices and reports, which two roles send every day."""
_KEPT_INSIDE = ("tbl", "emp")
_VICTIMS = frozenset({"DataAnalyst", "HRAssistant"})
"""Roles that may read what is kept inside, and have a way out for other things."""
_ODD, _VERY_ODD = 0.01, 0.001
_ROUTE = FEATURE_INDEX["sensitive_route"]
_COLUMNS = (
    "sensitive types",
    "median p of thefts",
    "thefts with p <= 0.1 %",
    "honest sends of such data",
    "of these by a new way",
    "of these with p <= 1 %",
    "other honest events with p <= 1 %",
)
SCENARIO = "sensitive_mail"


def sensitive_mail(strike: AttackContext) -> Iterator[None]:
    """A usual session with a way out; before the mail the agent reads a record that is kept inside."""
    task = next(task for task in strike.agent.role.tasks if any(map(writes_outside, task.steps)))
    session = strike.start_session(strike.at_ms, task)
    session.obtain_token()
    secret = next(step for step in usual_steps(strike, "read") if step.kind.name in _KEPT_INSIDE)
    out = next(filter(writes_outside, task.steps))
    for step in (next(step for step in task.steps if step.effect == "read"), secret):
        session.pause()
        session.perform(step, outcome=SUCCESS_JSON)
    session.pause()
    known = resource_json(strike.agent, out.kind, 0, "granted")
    session.perform(out, event_label=1, resource=known, outcome=SUCCESS_JSON)
    yield


def with_origins(events: Sequence[bytes]) -> list[bytes]:
    """The events, whose writes take their content out of the last answer before them in the session."""
    calls: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    made = []
    for raw in events:
        event = msgspec.json.decode(raw)
        if event["type"] not in WORK_TYPES:
            made.append(raw)
            continue
        earlier = calls.setdefault((event["agent"]["id"], event.get("session", "")), [])
        answers = [at for at, (_, answered) in enumerate(earlier) if answered]
        writes = event.get("effect") == "write" and bool(answers)
        event["arguments"] = [_content(event, answers[-1], earlier[answers[-1]][0])] if writes else []
        event["untrusted_result"] = False
        earlier.append((event["action"], event.get("effect") == "read" and event["outcome"] == "success"))
        made.append(msgspec.json.encode(event))
    return made


def _content(event: dict[str, Any], call: int, action: str) -> dict[str, Any]:
    value = hashlib.sha256(f"{event.get('session')}/{call}".encode()).hexdigest()[:12]
    return {"name": "content", "origin": "tool", "from": call, "from_action": action, "hash": value, "untrusted": False}


class JudgedMails(NamedTuple):
    """What the live path said of each judged event (n,): whether sensitive data leave, whether by a new way, and the
    p-value of compromise."""

    sends: NDArray[np.bool_]
    novelty: NDArray[np.float64]
    p_value: NDArray[np.float64]


class _RouteReplay(HistoryReplay):
    """A replay that keeps what is asked of each event."""

    def _events_of(self, scored: ScoredBatch) -> Iterator[Any]:
        found = scored.observations
        rows = np.repeat(np.arange(len(scored.columns)), np.diff(found.arguments.start))
        sends = np.zeros(len(scored.columns), np.bool_)
        sends[rows[found.routes[:, SENSITIVE] != 0]] = True
        yield JudgedMails(sends, scored.vectors[:, _ROUTE].copy(), scored.concerns.p_value[:, 0].copy())


def run(quick: bool) -> list[FigureTable]:
    """What a list of sensitive types finds, and what it costs those who send such things as their job."""
    size = EnterpriseSize(40, 3, 1, 6, 100.0) if quick else EnterpriseSize(80, 8, 3, 24, 150.0)
    history, judged, labels = _enterprise(size, 11)
    columns = ColumnEncoder(SALT, domains()).encode([decode_history_event(one)[0] for one in history])
    judgements = []
    for types in ((), SENSITIVE_TYPES):
        model = train_walk_forward(columns, SALT, "enterprise", sensitive_types=types).model
        replay = _RouteReplay(model, EngineSettings(), domains())
        source = FileSource(io.BytesIO(b"\n".join(judged) + b"\n"))
        parts = list(replay.replayed_events(source, _refuse))
        judgements.append(JudgedMails(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))
    sends = judgements[1].sends  # without a list nobody knows
    rows = [
        (told, *_cells(found._replace(sends=sends), labels))
        for told, found in zip(("none", ", ".join(SENSITIVE_TYPES)), judgements, strict=True)
    ]
    note = (
        "One mail of usual size to a known place by a usual action; its content is out of a record that the agent may "
        "read and that nobody sends out. p of compromise, learning on."
    )
    return [FigureTable("Sensitive data that leaves with a usual mail", _COLUMNS, rows, note)]


def _cells(found: JudgedMails, labels: list[SimulatedLabel]) -> tuple[str, ...]:
    stolen = np.array([bool(label.event_label) for label in labels])
    honest = ~np.array([bool(label.session_label) for label in labels])
    sends, other = found.sends & honest, ~found.sends & honest
    odd = found.p_value <= _ODD
    return (
        f"{np.median(found.p_value[stolen]):.5f}",
        f"{int((found.p_value[stolen] <= _VERY_ODD).sum())} of {int(stolen.sum())}",
        str(int(sends.sum())),
        str(int((sends & (found.novelty > 1.0)).sum())),
        f"{100 * odd[sends].mean():.2f} %" if sends.any() else "–",
        f"{100 * odd[other].mean():.2f} %",
    )


def _enterprise(size: EnterpriseSize, seed: int) -> tuple[list[bytes], list[bytes], list[SimulatedLabel]]:
    """History, judged events and their labels."""
    first = timedelta(days=size.history_days)
    step = timedelta(days=size.judged_days) / (size.each + 1)
    attacks = tuple(Attack(SCENARIO, first + step * (number + 1)) for number in range(size.each))
    scenario = AttackScenario(SCENARIO, "a record that is kept inside leaves with a mail", sensitive_mail, _VICTIMS)
    duration = timedelta(days=size.history_days + size.judged_days)
    settings = SimulationSettings(
        START, duration, seed, size.agents, TENANTS, attacks=attacks, events_per_agent_day=size.events_per_agent_day
    )
    with mock.patch.dict(SCENARIOS, {SCENARIO: scenario}):
        made = list(simulate(settings))
    told = with_origins([one.event for one in made])
    cut = sum(one.at_ms < settings.start_ms + size.history_days * DAY_MS for one in made)
    return told[:cut], told[cut:], [one.label for one in made[cut:]]


def _refuse(offset: int, path: str, reason: str) -> None:
    raise SystemExit(f"record {offset} is no event: {reason} at {path}")
