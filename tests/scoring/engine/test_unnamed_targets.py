"""A target that no person named, in a task that no history shows: what it does to scores, reasons and later events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest.features.feature_table import FEATURE_INDEX
from trustwatch.models.model_training import train_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.engine.engine import Engine, EngineSettings
from trustwatch.scoring.engine.evidence_dedup import DEDUP_WINDOW_MINUTES
from trustwatch.scoring.engine.scored_batch import ScoredBatch
from trustwatch.scoring.records.feedback import FeedbackRule

DAY, MINUTE = 86_400_000, 60_000
TARGET = FEATURE_INDEX["target_surprise"]
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


def test_the_target_is_the_reason(score: Score, engine: Engine) -> None:
    """Also where its own surprise would not make it the first one."""
    odd = score(0)
    assert engine.model.detector.explain(odd.vectors)[0].argmax() != TARGET

    for alone in (False, True):
        (reasons,) = engine.explainer.reasons(odd, [0], alone=alone)
        assert reasons[0].feature == "target_surprise"


def test_a_target_that_has_counted_is_no_evidence_again(score: Score, engine: Engine) -> None:
    """Within a day, in whatever task; the scores stay those of the event as it is."""
    first, again = score(0), score(60, task="invoices")
    later = score(60 + DEDUP_WINDOW_MINUTES)

    assert first.effective_target_evidence[0] == first.target_evidence[0] == again.target_evidence[0] > 1.5
    assert again.effective_target_evidence[0] == 0.0
    kept = [engine.explainer.decision_evidence(0, one, 0).get("target_evidence") for one in (first, again)]
    assert kept == [first.target_evidence[0], None]
    assert first.concern_p_values[0, 0] < 0.1 * again.concern_p_values[0, 0]
    assert again.concerns.p_value[0, 0] < 0.1 * again.concern_p_values[0, 0]
    assert later.effective_target_evidence[0] == later.target_evidence[0]


def test_had_the_target_been_usual_nothing_would_be_told(score: Score, engine: Engine) -> None:
    """The evidence goes with the target, and with nothing else."""
    odd = score(0)
    with_usual = engine.explainer._p_values_with_usual

    assert with_usual(odd, 0, TARGET)[0] > 5.0 * odd.concern_p_values[0, 0]
    assert with_usual(odd, 0, FEATURE_INDEX["bytes_out"])[0] < 2.0 * odd.concern_p_values[0, 0]


def test_a_target_that_a_person_calls_usual_is_not_told(learned: TrainedModel, make: Any, kit: Any) -> None:
    """A rule of feedback about targets silences what goes with them, and one about sizes does not."""
    event = call(make, 0, 0, "derived")
    for feature, evidence in (("target_surprise", False), ("bytes_out", True)):
        engine = Engine(learned, EngineSettings(capacity=100))
        given = {"kind": "agent", "key": "", "tenant": "acme", "agent_type": "Payer", "features": (feature,)}
        more = {"resource": None, "expires_ms": 10**15, "issuer": "https://as.example", "agent_id": "agent-1"}
        engine.feedback_rules.adopt(FeedbackRule(rule_id="F1", **given, **more), 0, 0)
        found = engine.score(kit.columns([event]))
        assert engine.feedback_rules.matched == 1
        assert bool(found.target_evidence[0]) is evidence, feature


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
