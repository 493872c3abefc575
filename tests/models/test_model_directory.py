"""Model directories: written whole or not at all, and refused with a useful message when anything does not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from trustwatch.ingest.errors import ModelError
from trustwatch.models.model_directory import (
    ModelManifest,
    TrainingWindow,
    is_model,
    library_versions,
    load_model,
    manifest_digest,
    save_model,
)

NAMES, TABLE = ("pace", "novelty"), "feature-table-1"
MANIFEST = ModelManifest(
    model_version="2026-11-24.1",
    feature_names=NAMES,
    feature_table_hash=TABLE,
    window=TrainingWindow(from_ms=1_700_000_000_000, to_ms=1_700_600_000_000, events=1000, agents=12, sessions=90),
    settings={"detector": {"trees": 100}, "note": "ä"},
    salt_hex="00ff",
    created_ms=1_700_700_000_000,
)
STATE = {"leaves": np.arange(6.0).reshape(2, 3), "ids": np.array([1, 2**64 - 1], np.uint64), "scalar": np.array(2.5)}
EXTRAS = {
    "baselines": {"means": np.array([0.5, 0.25], np.float32), "empty": np.empty((0, 4))},
    "agents": {"rows": np.array([[1, 2]], dtype="<u4")},
}


def load(path, names=NAMES, table=TABLE):
    """Load as the program with this feature table would."""
    return load_model(path, feature_names=names, feature_table_hash=table)


@pytest.fixture
def model(tmp_path):
    """A saved model."""
    save_model(tmp_path / "model", STATE, EXTRAS, MANIFEST)
    return tmp_path / "model"


def rewrite(model: Path, change, *, sign=True) -> None:
    """Edit the manifest; with *sign*, as someone would who also knows how the digest is made."""
    content = json.loads((model / "manifest.json").read_text())
    change(content)
    if sign:
        content["digest"] = manifest_digest(content)
    (model / "manifest.json").write_text(json.dumps(content))


def test_what_is_saved_is_loaded(model):
    """Manifest, detector arrays and extras come back equal in value and type; empty and structured ones too."""
    loaded = load(model)
    assert loaded.manifest == MANIFEST
    assert loaded.manifest.libraries == library_versions()
    for ours, theirs in ((STATE, loaded.detector_state), *((EXTRAS[group], loaded.extras[group]) for group in EXTRAS)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(theirs[name], ours[name])
            assert theirs[name].dtype == ours[name].dtype
    assert loaded.extras.keys() == EXTRAS.keys()


def test_a_model_holds_json_and_npy_only(model):
    """No pickle, no program, nothing left beside the model."""
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert files == {
        "manifest.json",
        "detector/leaves.npy",
        "detector/ids.npy",
        "detector/scalar.npy",
        "extras/baselines/means.npy",
        "extras/baselines/empty.npy",
        "extras/agents/rows.npy",
    }
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_saving_twice_gives_equal_bytes(model, tmp_path):
    """The same arrays and manifest always give the same files."""
    save_model(tmp_path / "again", STATE, EXTRAS, MANIFEST)
    for path in (path for path in model.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(model)).read_bytes() == path.read_bytes()


def damage_array(model):
    """Flip the last byte of an array."""
    file = model / "detector/leaves.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def resized(content):
    """Claim another shape."""
    content["files"]["detector/leaves.npy"]["shape"] = [3, 2]


def retyped(content):
    """Claim another element type."""
    content["files"]["detector/leaves.npy"]["dtype"] = "<f4"


def escaped(content):
    """Name a file outside of the model."""
    content["files"]["../outside.npy"] = content["files"].pop("detector/leaves.npy")


def remove(name):
    """Delete a file of the model."""
    return lambda model: (model / name).unlink()


def write(name, text):
    """Put a file into the model."""
    return lambda model: (model / name).write_text(text)


DAMAGES = {
    "array changed": (damage_array, r"detector/leaves\.npy: expected sha256 .*found .*retrain"),
    "array truncated": (
        lambda model: (model / "detector/leaves.npy").write_bytes((model / "detector/leaves.npy").read_bytes()[:-8]),
        r"detector/leaves\.npy: more or fewer bytes than an array of \(2, 3\) has.*retrain",
    ),
    "array missing": (remove("detector/ids.npy"), r"detector/ids\.npy: expected .*not found.*retrain"),
    "file too many": (write("extras/x.npy", "x"), r"extras/x\.npy: not in the manifest.*remove"),
    "manifest missing": (remove("manifest.json"), r"manifest\.json cannot be read.*No such file"),
    "manifest no json": (write("manifest.json", "{"), r"manifest\.json is not JSON"),
    "other json": (write("manifest.json", "[]"), r"not a Trustwatch model"),
    "manifest edited": (
        lambda model: rewrite(model, lambda content: content.update(model_version="9"), sign=False),
        r"manifest\.json: expected digest .*found .*edited",
    ),
    "format version": (
        lambda model: rewrite(model, lambda content: content.update(format_version=1)),
        r"expected format version 6, found 1; retrain, or run the version of Trustwatch",
    ),
    "member missing": (lambda model: rewrite(model, lambda content: content.pop("window")), r"is missing.*window"),
    "member mistyped": (lambda model: rewrite(model, lambda content: content.update(files=[1])), r"of the wrong type"),
    "wrong shape": (lambda model: rewrite(model, resized), r"leaves\.npy: expected <f8 \(3, 2\), found <f8 \(2, 3\)"),
    "wrong dtype": (lambda model: rewrite(model, retyped), r"leaves\.npy: expected <f4 \(2, 3\), found <f8 \(2, 3\)"),
    "path outside": (lambda model: rewrite(model, escaped), r"'\.\./outside\.npy' is not the name of an array file"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_refused(model, case):
    """Each kind of damage is a ModelError that names the file, what was expected, what was found, and what to do."""
    harm, message = DAMAGES[case]
    harm(model)
    with pytest.raises(ModelError, match=message):
        load(model)


def test_a_pickle_in_disguise_is_never_run(model, tmp_path):
    """An object array whose digest fits is refused by the loader: no pickled code runs."""
    file = model / "detector/leaves.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    import hashlib

    found = hashlib.sha256(file.read_bytes()).hexdigest()
    rewrite(model, lambda content: content["files"]["detector/leaves.npy"].update(sha256=found))
    with pytest.raises(ModelError, match=r"leaves\.npy: expected <f8 \(2, 3\), found \|O"):
        load(model)


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        (("pace", "rarity"), TABLE, r"missing \['rarity'\], unknown \['novelty'\].*retrain"),
        (("novelty", "pace"), TABLE, r"another order"),
        (NAMES, "feature-table-2", r"expected feature table feature-table-2, found feature-table-1; retrain, or run"),
    ],
)
def test_another_feature_table_is_refused(model, names, table, message):
    """A model of another feature table is refused with the difference."""
    with pytest.raises(ModelError, match=message):
        load(model, names, table)


def test_a_path_without_a_model_is_refused(tmp_path):
    """A missing directory is a ModelError, not a traceback."""
    with pytest.raises(ModelError, match=r"nothing/manifest\.json cannot be read"):
        load(tmp_path / "nothing")


def test_replacing_a_model(model):
    """Saving over a model replaces all of it."""
    save_model(model, {"other": np.zeros(1)}, {}, replace(MANIFEST, model_version="2"))
    loaded = load(model)
    assert loaded.manifest.model_version == "2"
    assert loaded.detector_state.keys() == {"other"}
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_a_stranger_is_never_overwritten(tmp_path):
    """A directory with other files, a file and a link are refused and left alone; an empty directory is taken."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(full)
    for path in (full, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(ModelError, match="not a Trustwatch model; nothing was written"):
            save_model(path, STATE, {}, MANIFEST)
    assert (full / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", STATE, {}, MANIFEST)
    assert is_model(tmp_path / "empty")


@pytest.mark.parametrize("name", ["Leaves", "a/b", "../a", "", "a.b", "é"])
def test_names_that_could_leave_the_directory_are_refused(tmp_path, name):
    """Array names are lower-case letters, digits and underscores; a refused model leaves nothing behind."""
    with pytest.raises(ModelError, match="may only hold"):
        save_model(tmp_path / "model", {name: np.zeros(1)}, {}, MANIFEST)
    with pytest.raises(ModelError, match="plain numbers"):
        save_model(tmp_path / "model", {"a": np.array([object()])}, {}, MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_between_the_two_renames_leaves_the_old_model(model, tmp_path):
    """If the machine stops after the old model was put aside, loading finds it, and the next save tidies up."""
    model.rename(tmp_path / ".model.previous")
    assert load(model).manifest == MANIFEST
    save_model(model, STATE, {}, replace(MANIFEST, model_version="2"))
    assert load(model).manifest.model_version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


STOPPER = """
import os, shutil, sys
from msgspec.structs import replace
from pathlib import Path
import numpy as np
from trustwatch.models.model_directory import load_model, save_model

path = Path(sys.argv[1])
features = dict(feature_names=("pace", "novelty"), feature_table_hash="feature-table-1")
manifest = load_model(path, **features).manifest


def save(version):
    arrays = {"a": np.full(9, version), "b": np.full(9, version)}
    save_model(path, arrays, {}, replace(manifest, model_version=str(version)))


def stop_at(step):
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod"}:
            seen += 1
            if seen == step:
                os._exit(9)

    sys.addaudithook(hook)


for step in range(1, 1000):
    save(1)
    child = os.fork()
    if child == 0:
        stop_at(step)
        save(2)
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = load_model(path, **features)
    version = int(found.manifest.model_version)
    assert version in (1, 2), version
    assert all((array == version).all() for array in found.detector_state.values()), step
    print(step, version, flush=True)
    for draft in path.parent.glob(".*draft*"):
        shutil.rmtree(draft)
    if finished:
        break
"""


def test_a_writer_stopped_at_any_step_leaves_a_whole_model(model):
    """A process that ends at the n-th touch of the file system, for every n: what loads is the old model or the new."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STOPPER, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr
    versions = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert versions == sorted(versions)  # once the new model is in place it stays
    assert versions.count(1) > 10
    assert versions.count(2) > 3  # the steps after the second rename: the old one is tidied away


WRITER = """
import sys
from msgspec.structs import replace
from pathlib import Path
import numpy as np
from trustwatch.models.model_directory import load_model, save_model
path = Path(sys.argv[1])
manifest = load_model(path, feature_names=("pace", "novelty"), feature_table_hash="feature-table-1").manifest
for turn in range(1, 1_000_000):
    arrays = {f"array{i}": np.full(5000, turn) for i in range(4)}
    save_model(path, arrays, {}, replace(manifest, model_version=str(turn)))
    print(turn, flush=True)
"""


@pytest.mark.parametrize("after", [1, 6])
def test_a_killed_writer_leaves_a_whole_model(model, tmp_path, after):
    """kill -9 in the middle of saving, again and again: what loads is one whole model, the old or the new."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(model)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= after:
                writer.send_signal(signal.SIGKILL)
                break
    loaded = load(model)
    turn = int(loaded.manifest.model_version)
    assert turn >= after
    assert all((array == turn).all() for array in loaded.detector_state.values())
    save_model(model, STATE, EXTRAS, MANIFEST)
    assert load(model).manifest == MANIFEST
    shutil.rmtree(model)
