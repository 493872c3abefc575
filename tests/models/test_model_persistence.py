"""A trained model on disk: what is loaded scores as what was saved, and nothing damaged is loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
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
    return model.detector.score(vectors, columns.names[:, event_columns.GROUP].copy())


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


def names(saved: Path) -> list[str]:
    return sorted(str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file())


def test_any_changed_file_is_refused(saved: Path, tmp_path: Path) -> None:
    """One flipped bit in any array of detector, baseline, seeds or groups refuses the whole model."""
    kinds = {name.rsplit("/", 1)[0] for name in names(saved) if name.endswith(".npy")}
    assert kinds == {"detector", "extras/alarms", "extras/baseline", "extras/seeds", "extras/groups"}
    for name in names(saved):
        if name.endswith(".npy"):
            copy = tmp_path / "copy"
            shutil.copytree(saved, copy)
            raw = bytearray((copy / name).read_bytes())
            raw[-1] ^= 1
            (copy / name).write_bytes(raw)
            with pytest.raises(ModelError, match=r"\.npy"):
                load_trained_model(copy)
            shutil.rmtree(copy)


@pytest.mark.parametrize("member", ["model_version", "feature_table_hash", "salt_hex"])
def test_an_edited_manifest_is_refused(saved: Path, tmp_path: Path, member: str) -> None:
    """Facts in the manifest can not be changed by hand."""
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    value = json.loads(text)[member]
    manifest.write_text(text.replace(json.dumps(value), json.dumps(value[:-1] + ("1" if value[-1] == "0" else "0")), 1))
    with pytest.raises(ModelError):
        load_trained_model(copy)


def test_a_missing_or_foreign_file_is_refused(saved: Path, tmp_path: Path) -> None:
    for change in ("missing", "more", "pickle"):
        copy = tmp_path / change
        shutil.copytree(saved, copy)
        if change == "missing":
            (copy / "extras/seeds/keys.npy").unlink()
        else:
            (copy / f"extras/seeds/{change}.npy").write_bytes(b"\x80\x04." if change == "pickle" else b"")
        with pytest.raises(ModelError):
            load_trained_model(copy)


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
    with pytest.raises(NotEnoughHistory, match="vouches"):
        train_model(EventColumns(foreign.events, foreign.names, foreign.numbers, codes, foreign.time_ms), SALT, "x")
