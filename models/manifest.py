"""The manifest of a saved model: what it is, what it was trained on, and the digest of every file.

`manifest.json` is a JSON object. Its `digest` is the SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of
all other members, so an edited manifest is noticed. That guards against damage and mix-ups; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

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
    """What the model has seen: first and last event time (Unix milliseconds), numbers of events, agents and
    sessions."""

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
    except ValueError as error:
        raise ModelError(f"{where} is not JSON ({error}); the model is damaged: copy it again or retrain") from None
    if not isinstance(content, dict) or content.get("kind") != MODEL_KIND:
        raise ModelError(
            f'{where} has no "kind": "{MODEL_KIND}"; this is not a Trustwatch model: give another directory'
        )
    found = content.get("format_version")
    if found != MODEL_FORMAT_VERSION:
        raise ModelError(
            f"{where}: expected format version {MODEL_FORMAT_VERSION}, found {found!r}; "
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
