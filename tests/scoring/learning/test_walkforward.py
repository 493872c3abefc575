"""Learning with a rehearsal: agents that the history shows have a calibration of their own, and it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import ColumnEncoder
from trustwatch.ingest.features import layout
from trustwatch.models import betting
from trustwatch.models.detector import FAMILIAR_EVENTS
from trustwatch.models.model_persistence import load_trained_model, save_trained_model
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.settings import RiskEvaluationSettings
from trustwatch.scoring.engine.usual_anomalies import USUAL
from trustwatch.scoring.learning.budget_check import check_budget
from trustwatch.scoring.learning.training import TrainingHistory
from trustwatch.scoring.learning.walkforward import (
    MIN_VALIDATION_EVENTS,
    WalkForwardResult,
    train_walk_forward,
    validation_start,
)

DAY = 86_400_000
EVENTS, AGENTS = 5_000, 4
"""Of a history whose first half shows every agent well."""


@pytest.fixture(scope="module")
def learned(kit: Any, make: Any) -> WalkForwardResult:
    """Of a history in which every agent is there from the first day to the last."""
    return train_walk_forward(kit.columns(make.stream(31, EVENTS, AGENTS)), make.SALT, "rehearsed", make.SETTINGS)


def test_the_second_half_is_judged(learned: WalkForwardResult) -> None:
    """By p-values that are uniform there, by construction; thresholds stand on its agent-days."""
    assert len(learned.validation_events) == len(learned.p_values) == EVENTS // 2
    for promised in (0.05, 0.2, 0.5):
        assert (learned.p_values <= promised).mean(axis=0) == pytest.approx(np.full(3, promised), abs=0.02)
    assert all(tail.days < EVENTS * 240_000 / DAY * AGENTS for tail in learned.model.alarms)


def test_days_that_were_rehearsed_are_told_from_those_held_out(
    learned: WalkForwardResult, kit: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a short history has too few days: thresholds rest on held-out ones, which lie among known days."""
    assert not any(tail.rehearsed for tail in learned.model.alarms)
    monkeypatch.setattr(betting, "MIN_AGENT_DAYS", 10)
    found = train_walk_forward(kit.columns(make.stream(31, EVENTS, AGENTS)), make.SALT, "days", make.SETTINGS)
    assert all(tail.rehearsed for tail in found.model.alarms)
    assert all(
        ours.days < held_out.days for ours, held_out in zip(found.model.alarms, learned.model.alarms, strict=True)
    )


def test_it_holds_for_days_to_come(learned: WalkForwardResult, kit: Any, make: Any) -> None:
    """Known agents' p-values are near uniform behind the history; by a stranger's calibration they are too large."""
    columns = kit.columns(make.stream(32, 2_000, AGENTS, start_ms=int(learned.model.window_ms[1]) + 3_600_000))
    scored = Engine(learned.model, EngineSettings(capacity=50), None).score(columns)
    familiar = scored.p_values
    strangers = learned.model.detector.assess(scored.vectors, columns.names[:, event_columns.GROUP].copy())[0].p_value
    assert 0.02 <= float((familiar <= 0.05).mean()) <= 0.09
    assert 0.4 <= float(np.median(familiar)) <= 0.7  # more is known by then than was in the part that was judged
    assert float(np.median(strangers)) > float(np.median(familiar))


def test_strangers_are_judged_as_ever(learned: WalkForwardResult, kit: Any, make: Any) -> None:
    """Agents that the history does not show keep the calibration of agents that were held out."""
    events = make.stream(33, 300, AGENTS, start_ms=int(learned.model.window_ms[1]) + 3_600_000)
    for made in events:
        made["agent"]["id"] += "-new"
    columns = kit.columns(events)
    scored = Engine(learned.model, EngineSettings(capacity=50), None).score(columns)
    expected = [
        learned.model.detector.assess(vectors, columns.names[:, event_columns.GROUP].copy())[0].p_value
        for vectors in (scored.vectors, scored.effective_vectors(range(300)))
    ]
    np.testing.assert_allclose(scored.p_values, np.maximum(*expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("events", "agents"), [(MIN_VALIDATION_EVENTS, 1), (2 * FAMILIAR_EVENTS, 2)])
def test_a_history_that_shows_nobody_well_is_not_rehearsed(kit: Any, make: Any, events: int, agents: int) -> None:
    """Then all are strangers, and what was held out is what was judged."""
    columns = kit.columns(make.stream(31, events, agents))
    found = train_walk_forward(columns, make.SALT, "short", make.SETTINGS)
    assert len(found.model.detector.familiar.groups) == 0  # type: ignore[attr-defined]
    assert len(found.validation_events) == len(found.p_values) == len(columns)


def test_who_was_seen_for_a_day_is_judged_as_a_stranger(kit: Any, make: Any) -> None:
    """Much that it does it does for the first time; it was flagged for that beside agents that did all of it before."""
    late = make.stream(36, 100, 1, start_ms=make.START_MS + 6 * DAY)
    for made in late:
        made["agent"]["id"] += "-late"
    history = sorted([*make.stream(31, EVENTS, AGENTS), *late], key=lambda one: one["time"])
    model = train_walk_forward(kit.columns(history), make.SALT, "late", make.SETTINGS).model
    events = make.stream(37, 300, AGENTS, start_ms=int(model.window_ms[1]) + 3_600_000)
    for made in events[::2]:
        made["agent"]["id"] = late[0]["agent"]["id"]
    scored = Engine(model, EngineSettings(capacity=50), None).score(kit.columns(events))
    assert (scored.agent_numbers[::2, layout.N_SHARED] > 0).all()
    familiar = scored.is_familiar(range(300))
    assert not familiar[::2].any()
    assert familiar[1::2].all()


def test_agents_begin_with_what_the_rehearsal_showed_of_them(learned: WalkForwardResult) -> None:
    """So often each was as odd, by the p-values that it was judged by."""
    seeds, events = learned.model.seeds, learned.validation_events
    for place, key in enumerate(seeds.keys.tolist()):
        own = learned.p_values[(events.names[:, event_columns.AGENT] == key) & (learned.habits == USUAL)]
        assert seeds.rehearsed[place] == len(own) > 0
        assert seeds.odd[place, 0, 0] == (own[:, 0] <= 0.02).sum()
    state = Engine(learned.model, EngineSettings(capacity=50), None)
    state.score(events.take(np.arange(200)))
    assert (np.sort(state.risk["events_before"][:AGENTS]) > 0).all()


def test_names_that_nobody_used_are_no_odder_behind_the_history(kit: Any, make: Any) -> None:
    """Two of a hundred events name something new, in the history and after it: their p-values say so.

    Measured against the counts of half of it, new names of the rehearsal would be calmer than all later ones.
    """

    def with_new_names(seed: int, count: int, **more: Any) -> list[dict[str, Any]]:
        events = make.stream(seed, count, AGENTS, **more)
        for number, made in enumerate(events):
            if number % 50 == 0:
                made["resource"] = {"target": f"new-{seed}-{number}"}
        return events

    model = train_walk_forward(kit.columns(with_new_names(41, EVENTS)), make.SALT, "new", make.SETTINGS).model
    columns = kit.columns(with_new_names(42, 1_500, start_ms=int(model.window_ms[1]) + 3_600_000))
    p_values = Engine(model, EngineSettings(capacity=50), None).score(columns).p_values[::50]
    assert 0.004 < float(np.median(p_values)) < 0.05


def test_a_model_keeps_it(learned: WalkForwardResult, kit: Any, make: Any, tmp_path: Path) -> None:
    """Saved and read, it gives the same p-values to the last bit."""
    save_trained_model(tmp_path / "model", learned.model, make.SETTINGS, 10, 0)
    columns = kit.columns(make.stream(34, 200, AGENTS, start_ms=int(learned.model.window_ms[1]) + 3_600_000, odd=0.1))
    ours, theirs = (
        Engine(model, EngineSettings(capacity=50), None).score(columns)
        for model in (learned.model, load_trained_model(tmp_path / "model"))
    )
    assert ours.p_values.tobytes() == theirs.p_values.tobytes()
    assert (ours.p_values < 1.0).any()


def test_claims_are_no_part_of_it(kit: Any, make: Any) -> None:
    """What no token vouches for is neither learned nor judged."""
    events = make.stream(31, 3_600, 2)
    for made in events[::3]:
        made["agent"]["self_asserted"] = True
    found = train_walk_forward(kit.columns(events), make.SALT, "claims", make.SETTINGS)
    assert len(found.validation_events) == 1_200
    assert not found.validation_events.codes[:, event_columns.SELF_ASSERTED].any()


def test_a_kept_history_without_its_events_is_rehearsed_alike(learned: WalkForwardResult, kit: Any, make: Any) -> None:
    """The keeper trains on columns alone (`lifecycle.training.History`)."""
    history = TrainingHistory(ColumnEncoder(make.SALT), 10_000)
    for made in make.stream(31, EVENTS, AGENTS):
        history.add(json.dumps(made).encode())
    columns = history.columns()
    assert columns is not None
    found = train_walk_forward(columns, make.SALT, "rehearsed", make.SETTINGS)
    assert found.p_values.tobytes() == learned.p_values.tobytes()
    assert found.model.alarms == learned.model.alarms


def test_files_one_after_the_other_are_rehearsed_in_time(learned: WalkForwardResult, kit: Any, make: Any) -> None:
    """What is the first half is said by the clock, not by the order of files."""
    events = sorted(make.stream(31, EVENTS, AGENTS), key=lambda one: one["agent"]["id"])
    found = train_walk_forward(kit.columns(events), make.SALT, "sorted", make.SETTINGS)
    assert (np.diff(found.validation_events.time_ms) >= 0).all()
    assert found.validation_events.time_ms.min() == learned.validation_events.time_ms.min()


def test_hard_signals_are_inside_the_budget(kit: Any, make: Any) -> None:
    """What they cost on the history is in the report: one full of them alerts, however quiet its behaviour."""
    events = make.stream(31, EVENTS, AGENTS)
    for made in events:
        made["agent"]["capabilities"] = ["other"]
    found = train_walk_forward(kit.columns(events), make.SALT, "outside", make.SETTINGS)
    assert (found.signals.sum(axis=1) == 3.0).all()
    whole, behaviour = (
        check_budget(
            found.model, found.validation_events, found.p_values, RiskEvaluationSettings(), found.habits, signals
        )
        for signals in (found.signals, None)
    )
    assert whole.levels[0].alerts > behaviour.levels[0].alerts


def test_batches_change_no_bit(learned: WalkForwardResult, kit: Any, make: Any) -> None:
    """Also with a calibration of known agents, and with what has counted."""
    events = make.stream(35, 600, AGENTS, start_ms=int(learned.model.window_ms[1]) + 3_600_000, odd=0.2)

    def run(size: int, capacity: int) -> list[tuple[float, float]]:
        engine = Engine(learned.model, EngineSettings(capacity=capacity), None)
        found = []
        for start in range(0, len(events), size):
            scored = engine.score(kit.columns(events[start : start + size]))
            found += list(zip(scored.p_values.tolist(), scored.risk_scores.tolist(), strict=True))
        return found

    assert run(600, 50) == run(1, 50) == run(7, 8)


def test_the_judged_part_has_every_day_of_the_week_where_there_are_two() -> None:
    """The last week of a month, an eighth of a year, half of ten days."""
    for days, judged in ((28, 7), (364, 45.5), (14, 7), (10, 5)):
        time_ms = np.arange(0, days * DAY + 1, 3_600_000)
        assert (time_ms[-1] - time_ms[validation_start(time_ms)]) / DAY == pytest.approx(judged, abs=0.05)
    assert validation_start(np.zeros(0, np.int64)) == 0
    assert validation_start(np.full(10, DAY)) == 5
