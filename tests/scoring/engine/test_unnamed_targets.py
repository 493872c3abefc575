"""A target that no person named, in a task that no history shows: what it does to scores, reasons and later events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.scored_batch import ScoredBatch

DAY, MINUTE = 86_400_000, 60_000
Score = Callable[..., ScoredBatch]


def told(number: int, made: dict[str, Any]) -> dict[str, Any]:
    """The event with where its target came from: one in five out of an answer; and a third go to targets of their own,
    which a person has named but for one in a hundred."""
    derived = number % 5 == 0
    own = {"target": f"once-{number}"} if number % 3 == 0 and (not derived or number % 75 == 0) else {}
    shared = {"target": f"host-{number % 7}"}
    resource = {**shared, **own, "provenance": "derived" if derived else "granted"}
    return {**made, "task": ("desk", "post")[number % 2], "resource": resource}


@pytest.fixture(scope="module")
def learned(make: Any, kit: Any) -> TrainedModel:
    history = [told(number, made) for number, made in enumerate(make.stream(1, 3_000, agents=24))]
    return train_model(kit.columns(history), make.SALT, "targets", make.SETTINGS)


def call(make: Any, number: int, at_min: int, provenance: str | None, **more: Any) -> dict[str, Any]:
    """A call of a known agent in a new task to a target that nobody has used."""
    resource = {"target": "stranger.example", **({"provenance": provenance} if provenance else {})}
    at_ms = make.START_MS + 9 * DAY + at_min * MINUTE
    members = {"resource": resource, "task": "billing", "session": f"n-{at_min}", "bytes_out": 900, **more}
    return dict(make.event(number, 1, at_ms, **members))


def scored(model: TrainedModel, kit: Any, *events: dict[str, Any]) -> ScoredBatch:
    return Engine(model, EngineSettings(capacity=100)).score(kit.columns(events))


def test_what_nobody_named_raises_compromise_in_a_new_task_alone(learned: TrainedModel, make: Any, kit: Any) -> None:
    """By the rate of the history; who says that it was granted, or nothing, is judged as before there was a rate."""
    before = dataclasses.replace(learned, told_target_rate=1.0)
    assert 0.005 < learned.told_target_rate < 0.02
    for provenance, task in (("granted", "billing"), (None, "billing"), ("unknown", "billing"), ("derived", "desk")):
        event = call(make, 0, 0, provenance, task=task)
        ours, theirs = scored(learned, kit, event), scored(before, kit, event)
        assert np.array_equal(ours.concerns.p_value, theirs.concerns.p_value), (provenance, task)
        assert np.array_equal(ours.anomaly, theirs.anomaly)
    for provenance in ("derived", "new"):
        event = call(make, 0, 0, provenance)
        ours, theirs = scored(learned, kit, event), scored(before, kit, event)
        assert ours.concerns.p_value[0, 0] < 0.3 * theirs.concerns.p_value[0, 0]
        assert ours.p_values[0] < theirs.p_values[0]
        assert np.array_equal(ours.concerns.p_value[0, 1:], theirs.concerns.p_value[0, 1:])
        silent = scored(learned, kit, call(make, 0, 0, None))
        assert ours.concerns.p_value[0, 0] < 0.3 * silent.concerns.p_value[0, 0]


@pytest.fixture
def engine(learned: TrainedModel) -> Engine:
    return Engine(learned, EngineSettings(capacity=100, learn=False))


@pytest.fixture
def score(engine: Engine, make: Any, kit: Any) -> Score:
    """Scores one such call after another, at so many minutes."""
    numbers = iter(range(1_000))
    return lambda at_min, **more: engine.score(kit.columns([call(make, next(numbers), at_min, "derived", **more)]))


def test_how_events_are_cut_into_batches_changes_nothing(learned: TrainedModel, make: Any, kit: Any) -> None:
    events = [call(make, at, at, ("derived", "new", "granted")[at % 3], action=f"a-{at % 4}") for at in range(9)]
    for at, event in enumerate(events):
        event["resource"]["target"] = f"stranger-{at % 5}.example"
    whole = scored(learned, kit, *events)
    single = Engine(learned, EngineSettings(capacity=100))
    parts = [single.score(kit.columns([event])) for event in events]

    assert whole.target_evidence.any() and not whole.target_evidence.all()
    for name in ("target_evidence", "effective_target_evidence", "concern_p_values", "p_values", "levels"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts])), name
