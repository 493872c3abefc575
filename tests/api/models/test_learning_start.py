"""Where a service without a model begins to learn, and where it says what is wrong instead."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustwatch.api import clock
from trustwatch.api.composition import open_model_registry, open_service_store
from trustwatch.api.models import first_training
from trustwatch.api.models.first_training import begin_learning, is_learning
from trustwatch.api.settings.access_settings import KafkaSettings
from trustwatch.api.settings.root import Settings
from trustwatch.ingest.errors import ModelError, Unavailable
from trustwatch.models.model_directory import read_manifest
from trustwatch.models.model_persistence import load_trained_model, save_learning_model
from trustwatch.scoring.records.commits import Commit, Position
from trustwatch.scoring.records.models import ModelHistoryEntry, ModelSwitch, ModelVersion
from trustwatch.scoring.store.database import Database

NOW = 1_764_000_000_000
BROKERS = KafkaSettings(bootstrap_servers=("h:9",))


def machine(tmp_path: Path, model: str = "model") -> Settings:
    """Settings of one machine of several, which share brokers, database and versions."""
    return Settings(data_dir=tmp_path / "data", model_dir=tmp_path / model, kafka=BROKERS)


def judged_by(settings: Settings, version: str, installed: str) -> None:
    """Note that a version came into force."""
    with closing(open_service_store(settings)) as store:
        at = store.partitions.claim(0)
        switch = ModelSwitch(0, at.epoch, 0, version, "d", installed, NOW)
        store.commit(Commit(at, Position(0, at.epoch, 1), [], [], [], [], switches=[switch]))


def test_a_service_without_a_model_begins_to_learn(tmp_path: Path) -> None:
    """Once: a model that is there stays, and one that was lost is not replaced in silence."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")
    begin_learning(settings)
    salt = load_trained_model(settings.model_dir).salt
    begin_learning(settings)
    assert load_trained_model(settings.model_dir).salt == salt
    installed = open_model_registry(settings).installed_model()
    with closing(open_service_store(settings)) as store:
        assert is_learning(installed, store)
    judged_by(settings, "first", installed.digest)
    with closing(open_service_store(settings)) as store:
        assert not is_learning(installed, store)
    shutil.rmtree(settings.model_dir)
    with pytest.raises(ModelError, match="agents were judged by 'first' before: put it back"):
        begin_learning(settings)


@pytest.mark.parametrize(
    ("place", "kafka", "said"),
    [
        ("nowhere/model", KafkaSettings(), "nowhere is not a folder: is `model_dir` right"),
        ("modle", BROKERS, "there is one in .*/model: is `model_dir` right"),
    ],
    ids=["folder", "beside"],
)
def test_a_typing_error_in_model_dir_is_no_wish_to_learn(
    tmp_path: Path, place: str, kafka: KafkaSettings, said: str
) -> None:
    """A folder that somebody made is one."""
    save_learning_model(tmp_path / "model", NOW)
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / place, kafka=kafka)
    with pytest.raises(ModelError, match=said) as refused:
        begin_learning(settings)
    assert f"mkdir -p {settings.model_dir}" in str(refused.value) and not settings.model_dir.exists()
    settings.model_dir.mkdir(parents=True)
    begin_learning(settings)
    assert load_trained_model(settings.model_dir).version == "learning"


@pytest.mark.parametrize("model", ["var/model", "var/data/model"])
def test_the_folders_of_the_first_settings_need_not_be_there(tmp_path: Path, model: str) -> None:
    """The service makes `data_dir`, and with it what is above."""
    begin_learning(Settings(data_dir=tmp_path / "var/data", model_dir=tmp_path / model))
    assert load_trained_model(tmp_path / model).version == "learning"


def test_machines_begin_with_the_same_model(tmp_path: Path) -> None:
    """The first one makes it; who comes later, even when a trained one is in force, takes that of the versions."""
    first, second, third = (machine(tmp_path, f"model-{number}") for number in "123")
    for settings in (first, second, second):
        settings.model_dir.mkdir(exist_ok=True)
        begin_learning(settings)
    digest = read_manifest(first.model_dir)[1]
    judged_by(first, "first", digest)
    third.model_dir.mkdir()
    begin_learning(third)
    assert read_manifest(second.model_dir)[1] == read_manifest(third.model_dir)[1] == digest


@pytest.mark.parametrize("shares_model_dir", [True, False])
def test_machines_that_do_not_share_versions_do_not_begin(tmp_path: Path, shares_model_dir: bool) -> None:
    """The first trained version would not reach them."""
    settings = machine(tmp_path)
    begin_learning(settings)
    shutil.rmtree(settings.data_dir / "models")
    if not shares_model_dir:
        shutil.rmtree(settings.model_dir)
    with pytest.raises(ModelError, match=r"Let all machines share that folder; or train a model with `trustwatch tr"):
        begin_learning(settings)


def test_a_lost_model_that_judged_nobody_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume was not mounted at the first start. Once agents were judged, or so soon that another machine may have
    it, the start says what is wrong instead."""
    settings = machine(tmp_path)
    begin_learning(settings)
    first, later = read_manifest(settings.model_dir)[1], clock.now_ms() + first_training.BEGIN_AGAIN_MS
    shutil.rmtree(settings.data_dir / "models")
    shutil.rmtree(settings.model_dir)
    with pytest.raises(ModelError, match="Let all machines share that folder"):
        begin_learning(settings)
    monkeypatch.setattr(clock, "now_ms", lambda: later)
    begin_learning(settings)
    second = read_manifest(settings.model_dir)[1]
    assert second != first
    judged_by(settings, "first", second)
    shutil.rmtree(settings.data_dir / "models")
    shutil.rmtree(settings.model_dir)
    monkeypatch.setattr(clock, "now_ms", lambda: later + first_training.BEGIN_AGAIN_MS)
    with pytest.raises(ModelError, match="Let all machines share that folder"):
        begin_learning(settings)


def test_with_brokers_no_model_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    """One that somebody trained and installed there, or that judged agents before."""
    settings = machine(tmp_path)
    made = ModelVersion("m1", "champion", "d", NOW, NOW, NOW, NOW, NOW, 0, {"source": "trustwatch train"})
    with closing(open_service_store(settings)) as store:
        store.models.add(made, ModelHistoryEntry("h1", NOW, "m1", "installed", "operator", ""))
    with pytest.raises(ModelError, match="another machine has 'm1': all machines need the same one"):
        begin_learning(settings)
    judged_by(settings, "m1", "d")
    with pytest.raises(ModelError, match="agents were judged by 'm1' before"):
        begin_learning(settings)
    assert not settings.model_dir.exists()


def test_machines_that_begin_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes, for minutes where it compiles, and the others go on with that; one that never ends is told."""
    settings, tries, take = machine(tmp_path), [], Database.acquire_leader_lock

    def taken_twice(database: Database, job: str) -> Any:
        tries.append(job)
        return take(database, job) if waited[0] > 300 else None

    waited = [0.0]
    monkeypatch.setattr(clock, "sleep", lambda seconds: waited.append(waited.pop() + seconds))
    monkeypatch.setattr(Database, "acquire_leader_lock", taken_twice)
    begin_learning(settings)
    assert {*tries} == {"learning"}
    shutil.rmtree(settings.model_dir)
    never: Callable[..., None] = lambda _database, _job: None  # noqa: E731
    monkeypatch.setattr(Database, "acquire_leader_lock", never)
    with pytest.raises(Unavailable, match="start again later"):
        begin_learning(settings)
    assert 900 < waited[0] < 1_000
    with pytest.raises(Unavailable, match="start again later"):
        begin_learning(settings, ending=lambda: True)
    assert waited[0] < 1_000


def test_an_interrupted_begin_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the model was in `model_dir`, or before the database knew of it."""
    settings = machine(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(first_training, "copy_model", _die)
        with pytest.raises(KeyboardInterrupt):
            begin_learning(settings)
    begin_learning(settings)
    other = machine(tmp_path, "other")
    other = msgspec.structs.replace(other, data_dir=tmp_path / "other-data")
    save_learning_model(other.data_dir / "models" / "learning", NOW)
    other.model_dir.mkdir()
    begin_learning(other)
    for ours in (settings, other):
        assert read_manifest(ours.model_dir)[1] == read_manifest(ours.data_dir / "models" / "learning")[1]


def _die(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_model_that_is_half_replaced_is_no_missing_one(tmp_path: Path) -> None:
    """`trustwatch train` was killed between two steps: the model of before is read, and stays."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")
    save_learning_model(settings.model_dir, NOW)
    salt = load_trained_model(settings.model_dir).salt
    settings.model_dir.rename(tmp_path / ".model.previous")
    begin_learning(settings)
    assert load_trained_model(settings.model_dir).salt == salt


def test_where_no_model_can_be_written_it_says_so(tmp_path: Path) -> None:
    """As on a disk that is read only. The name of the draft beside is too long here."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / ("m" * 250))
    with pytest.raises(ModelError, match=r"holds no model, and none can be put there \(File name too long\)"):
        begin_learning(settings)


def test_other_files_are_no_place_for_a_model(tmp_path: Path) -> None:
    """Loading says what is wrong with them."""
    settings = Settings(data_dir=tmp_path / "data", model_dir=tmp_path / "model")
    settings.model_dir.mkdir()
    (settings.model_dir / "notes.txt").write_text("mine")
    begin_learning(settings)
    with pytest.raises(ModelError):
        load_trained_model(settings.model_dir)
