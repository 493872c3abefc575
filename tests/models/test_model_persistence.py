"""A trained model on disk: what is loaded scores as what was saved, and nothing damaged is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trustwatch.ingest import columns as event_columns
from trustwatch.ingest.columns import EventColumns
from trustwatch.ingest.errors import ModelError
from trustwatch.ingest.features.feature_builder import FeatureBuilder
from trustwatch.models.input_checks import NotEnoughHistory
from trustwatch.models.model_persistence import load_trained_model, save_trained_model
from trustwatch.models.model_training import baseline_digest, train_model, train_with_held_out
from trustwatch.models.trained_model import TrainedModel

from ..support.model_history import SALT, SETTINGS, history


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    model = train_model(history(500), SALT, "p-1", SETTINGS)
    first, second, third = model.alarms
    return dataclasses.replace(model, alarms=(first, second._replace(rehearsed=True), third))


@pytest.fixture(scope="module")
def saved(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("persist") / "model"
    save_trained_model(path, trained, SETTINGS, 50, 1_764_000_000_000)
    return path


def scores(model: TrainedModel, columns: EventColumns) -> Any:
    vectors = FeatureBuilder(model.baseline, 50).observe_and_learn(columns)[0]
    return model.detector.assess(vectors, columns.names[:, event_columns.GROUP].copy())[0]


def test_loaded_model_scores_as_the_saved_one(trained: TrainedModel, saved: Path) -> None:
    """Scores, p-values, seeds, groups and versions survive bit for bit."""
    loaded = load_trained_model(saved)
    before, after = (scores(model, history(200, seed=2)) for model in (trained, loaded))
    for ours, theirs in zip(before, after, strict=True):
        assert np.array_equal(ours, theirs)
    assert loaded.seeds.rows.tobytes() == trained.seeds.rows.tobytes()
    for field in ("salt", "version", "baseline_version", "window_ms", "exponents", "alarms"):
        assert getattr(loaded, field) == getattr(trained, field), field
    for field in ("groups", "group_rates", "group_events"):
        assert np.array_equal(getattr(loaded, field), getattr(trained, field)), field
    assert baseline_digest(loaded.baseline) == trained.baseline_version


def test_a_model_of_before_knows_no_rate_of_told_targets(trained: TrainedModel, saved: Path, tmp_path: Path) -> None:
    """One that has a rate keeps it; without, such a target is no evidence; what is no rate is refused."""
    save_trained_model(tmp_path / "told", dataclasses.replace(trained, told_target_rate=0.01), SETTINGS, 50, 0)
    told = np.array([False, True])

    assert load_trained_model(tmp_path / "told").target_evidence(told).tolist() == [0.0, 2.0]
    assert "told_target_rate" not in json.loads((saved / "manifest.json").read_text())["settings"]
    assert load_trained_model(saved).target_evidence(told).tolist() == [0.0, 0.0]
    save_trained_model(tmp_path / "wrong", dataclasses.replace(trained, told_target_rate=0.0), SETTINGS, 50, 0)
    with pytest.raises(ModelError, match=r"settings\.told_target_rate is wrong"):
        load_trained_model(tmp_path / "wrong")


def test_vectors_are_cross_fitted(trained: TrainedModel) -> None:
    """An event of a session that no other session shares looks new to the detector: held-out p-values are calibrated,
    so about a tenth of fresh normal events fall below 0.1 or less, not nearly all or none."""
    p_values = scores(trained, history(600, seed=9)).p_value
    assert 0.01 < float((p_values <= 0.1).mean()) < 0.3


def test_the_salt_changes_no_score() -> None:
    """Two salts give the same model but for the names of things."""
    ours, theirs = (train_model(history(300, salt=salt), salt, "s", SETTINGS) for salt in (b"one", b"b"))
    assert ours.exponents == theirs.exponents
    first, second = (scores(model, history(100, seed=4, salt=model.salt)).anomaly_score for model in (ours, theirs))
    assert np.allclose(np.sort(first), np.sort(second))


def test_what_agents_are_called_changes_no_score() -> None:
    """Which odd events a training learns is drawn by the order of agents: other names and keys give the same model."""
    ours, theirs = history(300), history(300)
    identity = [event_columns.AGENT, event_columns.AGENT_CHECK, event_columns.AGENT_DRAW]
    theirs.names[:, identity] = theirs.names[:, identity] * np.uint64(3) + np.uint64(1)
    (first, one), (second, other) = (train_with_held_out(one, SALT, "k", SETTINGS) for one in (ours, theirs))
    assert np.array_equal(one.scores.anomaly_score, other.scores.anomaly_score)
    assert np.array_equal(one.concerns.p_value, other.concerns.p_value)
    assert first.exponents == second.exponents


def test_too_little_history_is_refused() -> None:
    """A detector is not fitted on a handful of events."""
    with pytest.raises(NotEnoughHistory):
        train_model(history(20), SALT, "x", SETTINGS)


def test_nobody_teaches_who_is_not_vouched_for() -> None:
    """Self-asserted events and our own denials of a history are left out of model and calibration altogether."""
    events = history(300)
    foreign = events.take(np.arange(40))
    codes = foreign.codes.copy()
    codes[:20, event_columns.SELF_ASSERTED], codes[20:, event_columns.OWN_DENIAL] = 1, 1
    both = EventColumns(
        [*foreign.events, *events.events],
        np.concatenate([foreign.names, events.names]),
        np.concatenate([foreign.numbers, events.numbers]),
        np.concatenate([codes, events.codes]),
        np.concatenate([foreign.time_ms, events.time_ms]),
    )
    ours, held = train_with_held_out(both, SALT, "x", SETTINGS)
    plain, alone = train_with_held_out(events, SALT, "x", SETTINGS)
    assert ours.baseline_version == plain.baseline_version
    assert np.array_equal(ours.seeds.events, plain.seeds.events)
    assert np.array_equal(held.scores.p_value, np.concatenate([np.ones(40), alone.scores.p_value]))
    assert np.array_equal(held.concerns.p_value, np.concatenate([np.ones((40, 3)), alone.concerns.p_value]))
    with pytest.raises(NotEnoughHistory, match="authenticated behavior"):
        train_model(EventColumns(foreign.events, foreign.names, foreign.numbers, codes, foreign.time_ms), SALT, "x")
