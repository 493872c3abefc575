"""Model directories: arrays and a manifest that says what it is, what it was trained on, and the digest of every file.

`manifest.json` is a JSON object. Its `digest` is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of
all other members, so an edited manifest is noticed. That guards against damage and mix-ups; it is no signature.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ingest.durable_files import sync_directory, sync_file
from ..ingest.errors import ModelError

MODEL_KIND = "trustwatch-model"
MODEL_FORMAT_VERSION = 3
"""Raised whenever a program of the old version could misread the files; every version has its golden model in the
tests."""
MANIFEST_FILE = "manifest.json"
_ARRAY_PATH = re.compile(r"(detector|extras/[a-z0-9][a-z0-9_]*)/[a-z0-9][a-z0-9_]*\.npy")  # never outside the directory
_LIBRARIES = ("numpy", "numba", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Installed versions of what a model's numbers depend on; imports none of them."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Extent of the history that a model has seen: first and last event time (Unix milliseconds), numbers of events,
    agents and sessions."""

    from_ms: int
    to_ms: int
    events: int
    agents: int
    sessions: int


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """Facts about a model, given by whoever trains it.

    Attributes:
        model_version: name of the model, written into every decision.
        feature_names: names of the features, in order.
        feature_table_hash: digest of the feature table that the model was trained on.
        window: the history it was trained on.
        settings: JSON-able settings; `settings["detector"]` are the `DetectorSettings`.
        salt_hex: salt of the name hashes that the baselines are written in, hexadecimal.
        created_ms: when it was trained, Unix milliseconds.
        libraries: versions of the libraries that made it.
    """

    model_version: str
    feature_names: tuple[str, ...]
    feature_table_hash: str
    window: TrainingWindow
    settings: Mapping[str, Any]
    salt_hex: str
    created_ms: int
    libraries: Mapping[str, str] = field(default_factory=library_versions)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """One array of the model: digest of the file, element type and shape."""

    sha256: str
    dtype: str
    shape: tuple[int, ...]


def encode_manifest(manifest: ModelManifest, files: Mapping[str, ArrayFile]) -> bytes:
    """`manifest.json` of a model with these array files (path relative to the model, `/` between the parts)."""
    content: dict[str, Any] = {"kind": MODEL_KIND, "format_version": MODEL_FORMAT_VERSION, **asdict(manifest)}
    content["files"] = {path: asdict(file) for path, file in files.items()}
    content = json.loads(json.dumps(content))
    content["digest"] = manifest_digest(content)
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def manifest_digest(content: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of the canonical JSON of all members but `digest`."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def decode_manifest(raw: bytes, where: str) -> tuple[ModelManifest, dict[str, ArrayFile]]:
    """Read `manifest.json`; *where* is its path, for messages.

    Raises:
        ModelError: it is no manifest, of another format version, or was edited.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not JSON ({error}); the model is damaged: copy it again or retrain") from None
    if not isinstance(content, dict) or content.get("kind") != MODEL_KIND:
        raise ModelError(
            f'{where} has no "kind": "{MODEL_KIND}"; this is not a Trustwatch model: give another directory'
        )
    format_version = content.get("format_version")
    if format_version != MODEL_FORMAT_VERSION:
        raise ModelError(
            f"{where}: expected format version {MODEL_FORMAT_VERSION}, found {format_version!r}; "
            "retrain, or run the version of Trustwatch that wrote it"
        )
    expected = manifest_digest(content)
    if content.get("digest") != expected:
        raise ModelError(
            f"{where}: expected digest {expected}, found {content.get('digest')}; "
            "it was edited: copy it again or retrain"
        )
    return _parse_manifest(content, where)


def _parse_manifest(content: Mapping[str, Any], where: str) -> tuple[ModelManifest, dict[str, ArrayFile]]:
    try:
        manifest = ModelManifest(
            model_version=str(content["model_version"]),
            feature_names=tuple(content["feature_names"]),
            feature_table_hash=str(content["feature_table_hash"]),
            window=TrainingWindow(**content["window"]),
            settings=dict(content["settings"]),
            salt_hex=str(content["salt_hex"]),
            created_ms=int(content["created_ms"]),
            libraries=dict(content["libraries"]),
        )
        files = {
            path: ArrayFile(str(file["sha256"]), str(file["dtype"]), tuple(file["shape"]))
            for path, file in content["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{where}: a member is missing or of the wrong type ({error!r}); retrain") from None
    for path in files:
        if not _ARRAY_PATH.fullmatch(path):
            raise ModelError(f"{where}: {path!r} is no name of an array file; it was edited: copy it again or retrain")
    return manifest, files


# The files of a model. Never a pickle: loading a model runs no code of it.
#
# model/manifest.json
# model/detector/NAME.npy           arrays of the detector
# model/extras/GROUP/NAME.npy       arrays of others, e.g. the baselines of the feature builder
#
# Writing is all or nothing. Everything goes to a directory beside the target, is flushed to disk, and is then renamed.
# A model that is replaced is first renamed to `.NAME.previous`; if the machine stops between the two renames, loading
# takes that one.


Arrays = Mapping[str, NDArray[Any]]
_ARRAY_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")  # one part of a path: no separator, no dot, equal on every file system
_RESTORE_ADVICE = "copy the model again or retrain"


class LoadedModel(NamedTuple):
    """A verified model: its manifest, the detector's arrays, and the extra arrays by group."""

    manifest: ModelManifest
    detector_state: dict[str, NDArray[Any]]
    extras: dict[str, dict[str, NDArray[Any]]]


def save_model(path: Path, detector_state: Arrays, extras: Mapping[str, Arrays], manifest: ModelManifest) -> None:
    """Write a model directory, replacing an older model there.

    Args:
        path: the directory; its parent is created.
        detector_state: arrays of the detector, by name (lower-case letters, digits, underscores).
        extras: further arrays, by group and name.
        manifest: facts about the model.

    Raises:
        ModelError: *path* exists and is neither a Trustwatch model nor empty, or a name or array can not be stored.
    """
    path = Path(path).absolute()
    _refuse_foreign_directory(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.draft-", dir=path.parent))
    try:
        files = {name: _write_array(draft / name, array, name) for name, array in _named_arrays(detector_state, extras)}
        _write_bytes(draft / MANIFEST_FILE, encode_manifest(manifest, files))
        draft.chmod(0o755)  # mkdtemp makes it private; a model is read by the service's own user
        for folder in (draft, *(folder for folder in draft.rglob("*") if folder.is_dir())):
            sync_directory(folder)
        _replace_directory(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load_model(path: Path, *, feature_names: Sequence[str], feature_table_hash: str) -> LoadedModel:
    """Read and verify a model directory.

    Args:
        path: the directory.
        feature_names: features of this program, in order.
        feature_table_hash: digest of this program's feature table.

    Raises:
        ModelError: anything is missing, left over, damaged, edited, or does not fit this program. The message names the
            file, what was expected, what was found, and what to do.
    """
    folder = _current_directory(Path(path).absolute())
    raw = _read_file(folder / MANIFEST_FILE, folder)
    manifest, files = decode_manifest(raw, str(folder / MANIFEST_FILE))
    _check_features(folder / MANIFEST_FILE, manifest, feature_names, feature_table_hash)
    _check_listing(folder, files)
    detector: dict[str, NDArray[Any]] = {}
    extras: dict[str, dict[str, NDArray[Any]]] = {}
    for name, file in files.items():
        parts = name.removesuffix(".npy").split("/")
        array = _load_array(folder, name, file)
        if parts[0] == "detector":
            detector[parts[1]] = array
        else:
            extras.setdefault(parts[1], {})[parts[2]] = array
    return LoadedModel(manifest, detector, extras)


def read_manifest(path: Path) -> tuple[ModelManifest, str]:
    """The manifest of a model directory and its digest, without looking at the arrays.

    Raises:
        ModelError: it is no manifest, of another format version, or was edited.
    """
    folder = _current_directory(Path(path).absolute())
    raw = _read_file(folder / MANIFEST_FILE, folder)
    manifest, _ = decode_manifest(raw, str(folder / MANIFEST_FILE))
    return manifest, str(json.loads(raw)["digest"])


def copy_model(source: Path, target: Path) -> None:
    """Copy a model directory to *target*, replacing an older model there; all or nothing, as `save_model`.

    Raises:
        ModelError: *target* exists and is neither a Trustwatch model nor empty.
    """
    source, target = _current_directory(Path(source).absolute()), Path(target).absolute()
    _refuse_foreign_directory(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", dir=target.parent))
    try:
        for file in sorted(entry for entry in source.rglob("*") if entry.is_file()):
            copied = draft / file.relative_to(source)
            copied.parent.mkdir(parents=True, exist_ok=True)
            _write_bytes(copied, file.read_bytes())
        draft.chmod(0o755)
        for folder in (draft, *(folder for folder in draft.rglob("*") if folder.is_dir())):
            sync_directory(folder)
        _replace_directory(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def is_model(path: Path) -> bool:
    """Tell whether *path* is a directory that holds a Trustwatch model, of any format version, sound or not."""
    try:
        return f'"{MODEL_KIND}"'.encode() in (path / MANIFEST_FILE).read_bytes()
    except OSError:
        return False


def _named_arrays(detector: Arrays, extras: Mapping[str, Arrays]) -> list[tuple[str, NDArray[Any]]]:
    """Paths within the model and their arrays, sorted."""
    named: list[tuple[tuple[str, ...], NDArray[Any]]] = [
        (("detector", name), array) for name, array in detector.items()
    ]
    named += [(("extras", group, name), array) for group, arrays in extras.items() for name, array in arrays.items()]
    for parts, _ in named:
        if not all(_ARRAY_NAME.fullmatch(part) for part in parts):
            raise ModelError(f"array name {'/'.join(parts)!r} may only hold lower-case letters, digits and underscores")
    return sorted(("/".join(parts) + ".npy", array) for parts, array in named)


def _write_array(file: Path, array: NDArray[Any], name: str) -> ArrayFile:
    if array.dtype.hasobject:
        raise ModelError(f"{name} holds Python objects; only plain arrays can be stored")
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    _write_bytes(file, buffer.getbuffer())
    return ArrayFile(hashlib.sha256(buffer.getbuffer()).hexdigest(), array.dtype.str, array.shape)


def _write_bytes(file: Path, data: bytes | memoryview) -> None:
    with file.open("xb") as stream:
        stream.write(data)
        sync_file(stream)


def _previous_directory(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _current_directory(path: Path) -> Path:
    """The directory to read: *path*, or the model before it if a replacement stopped half-way."""
    return _previous_directory(path) if not path.exists() and is_model(_previous_directory(path)) else path


def _refuse_foreign_directory(path: Path) -> None:
    """A wrong `--model` must not cost anyone a directory."""
    if not os.path.lexists(path) or is_model(path):
        return
    if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
        raise ModelError(f"{path} exists and is not a Trustwatch model; nothing was written: give another directory")


def _replace_directory(draft: Path, path: Path) -> None:
    """Put a finished draft in place: at every moment either *path* or `.NAME.previous` is a whole model."""
    previous = _previous_directory(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    draft.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _read_file(file: Path, folder: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{file} can not be read ({error.strerror}); {folder} is no complete model: {_RESTORE_ADVICE}"
        ) from None


def _check_features(file: Path, manifest: ModelManifest, names: Sequence[str], table_hash: str) -> None:
    advice = "retrain, or run the version of Trustwatch that the model was trained with"
    if manifest.feature_names != tuple(names):
        ours, theirs = set(names), set(manifest.feature_names)
        raise ModelError(
            f"{file}: expected {len(names)} features, found {len(manifest.feature_names)}; "
            f"missing {sorted(ours - theirs)}, unknown {sorted(theirs - ours)}, or another order; {advice}"
        )
    if manifest.feature_table_hash != table_hash:
        raise ModelError(f"{file}: expected feature table {table_hash}, found {manifest.feature_table_hash}; {advice}")


def _check_listing(folder: Path, files: Mapping[str, ArrayFile]) -> None:
    present = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if not entry.is_dir()}
    expected = {MANIFEST_FILE, *files}
    for name in sorted(expected - present):
        raise ModelError(f"{folder / name}: expected by the manifest, not found; {_RESTORE_ADVICE}")
    for name in sorted(present - expected):
        raise ModelError(
            f"{folder / name}: not in the manifest; a model holds no other files: remove it, or {_RESTORE_ADVICE}"
        )


def _load_array(folder: Path, name: str, expected: ArrayFile) -> NDArray[Any]:
    data = _read_file(folder / name, folder)
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected.sha256:
        raise ModelError(
            f"{folder / name}: expected sha256 {expected.sha256}, found {digest}; it was changed: {_RESTORE_ADVICE}"
        )
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ModelError(
            f"{folder / name}: expected a .npy array, found something else ({error}); {_RESTORE_ADVICE}"
        ) from None
    if (array.dtype.str, array.shape) != (expected.dtype, expected.shape):
        raise ModelError(
            f"{folder / name}: expected {expected.dtype} {expected.shape}, "
            f"found {array.dtype.str} {array.shape}; {_RESTORE_ADVICE}"
        )
    return array
