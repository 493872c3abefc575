"""Where versions lie: copied whole or not at all, found by name and digest, never outside."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trustwatch.ingest.errors import ModelError
from trustwatch.models.detector import DetectorSettings
from trustwatch.models.model_persistence import ModelRegistry, save_trained_model
from trustwatch.models.trained_model import TrainedModel
from trustwatch.scoring.pipeline.model_switch import ActiveModels
from trustwatch.scoring.records.models import ModelSwitch, SwitchModel, decode_model_switch, encode_model_switch


@pytest.fixture
def shelf(tmp_path: Path, model: TrainedModel) -> ModelRegistry:
    """An installed model, and an empty shelf."""
    save_trained_model(tmp_path / "model", model, DetectorSettings(trees=20, folds=3), 10, 5)
    return ModelRegistry(tmp_path / "models", tmp_path / "model")


def test_the_installed_model_is_copied_once(shelf: ModelRegistry) -> None:
    """Also where several processes do it at the same time; another one of the same name replaces it."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shelf.register_installed(), range(24)))
    place = shelf.directory_of("test-1")
    assert {one.digest for one in found} == {shelf.installed_model().digest}
    assert [path.name for path in shelf.root.iterdir()] == [place.name]
    inode = place.stat().st_ino
    shelf.register_installed()
    assert place.stat().st_ino == inode

    manifest = place / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"created_ms": 5', '"created_ms": 6'))
    shelf.register_installed()
    assert shelf.load("test-1", found[0].digest).version == "test-1"


@pytest.mark.parametrize("name", ["..", "../other", "/etc", ".hidden", "", "a" * 200])
def test_names_lead_nowhere_else(shelf: ModelRegistry, name: str) -> None:
    """A version's name comes from a manifest, or from a caller."""
    try:
        place = shelf.directory_of(name)
    except ModelError:
        return
    assert place.parent == shelf.root
    assert place.resolve().parent == shelf.root.resolve()


def test_what_is_missing_or_another_is_named(shelf: ModelRegistry) -> None:
    """With the directory where it should be."""
    shelf.register_installed()
    with pytest.raises(ModelError, match="is not at"):
        shelf.find_directory("other")
    with pytest.raises(ModelError, match="with digest 0000"):
        shelf.find_directory("test-1", "0000")
    shutil.rmtree(shelf.root)
    assert shelf.find_directory("test-1") == shelf.root.parent / "model"
    assert list(shelf.versions()) == []


def test_a_shelf_that_can_not_be_written_says_so(tmp_path: Path, model: TrainedModel) -> None:
    """A file stands where the directory should be."""
    save_trained_model(tmp_path / "model", model, DetectorSettings(trees=20, folds=3), 10, 5)
    (tmp_path / "models").write_text("")
    with pytest.raises(OSError, match="models"):
        ModelRegistry(tmp_path / "models", tmp_path / "model").register_installed()


def test_the_newest_switch_holds_until_another_model_is_installed(shelf: ModelRegistry) -> None:
    """A partition that nothing is known of begins with the installed one."""
    models = ActiveModels(shelf, lambda: 7)
    installed = shelf.installed_model().digest
    assert models.choose(None) == ("test-1", installed, True)
    switch = ModelSwitch(0, 1, 9, "later", "d2", installed, 3)
    assert models.choose(switch) == ("later", "d2", False)
    assert models.choose(ModelSwitch(0, 1, 9, "later", "d2", "another", 3)) == ("test-1", installed, True)
    assert models.switch_record((2, 3, 4), models.choose(None)) == ModelSwitch(
        2, 3, 4, "test-1", installed, installed, 7
    )


def test_other_commands_are_no_switch() -> None:
    """Releases, rules of feedback and rubbish go their own way."""
    wish = SwitchModel("v", "d", "ann", "why")
    assert decode_model_switch(encode_model_switch(wish)) == wish
    for other in (b'{"command":"release","key":"1","by":"x"}', b"rubbish", b"[]", b'{"command":"model.switch"}'):
        assert decode_model_switch(other) is None
