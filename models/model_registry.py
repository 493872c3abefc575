"""Storage of model versions: one directory each, and the one that the operator installed next to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from trustwatch.ingest.errors import ModelError

from .model_directory import ModelManifest, copy_model, is_model, read_manifest
from .model_persistence import load_trained_model
from .trained_model import TrainedModel

_MAX_DIRECTORY_NAME = 120


class RegisteredModel(NamedTuple):
    """A model in the registry. `digest` is that of its manifest, and with it of every file."""

    manifest: ModelManifest
    digest: str

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.manifest.model_version


class ModelRegistry:
    """Versions below one directory."""

    def __init__(self, root: Path, installed_model: Path) -> None:
        self.root = root
        self._installed = installed_model
        self._learns: dict[str, bool] = {}

    def directory_of(self, version: str) -> Path:
        """Directory of a version. Raises ModelError for a name that can be no directory's."""
        name = quote(version, safe="")
        if not name or name.startswith(".") or len(name) > _MAX_DIRECTORY_NAME:
            raise ModelError(
                f"{version!r} can not name a directory: use at most {_MAX_DIRECTORY_NAME} plain characters, "
                "no dot first"
            )
        return self.root / name

    def installed_model(self) -> RegisteredModel:
        """The model that the operator installed. Raises ModelError."""
        return RegisteredModel(*read_manifest(self._installed))

    def register_installed(self) -> RegisteredModel:
        """Copy the installed model into the registry, unless it is there already. Raises ModelError, OSError."""
        installed = self.installed_model()
        directory = self.directory_of(installed.version)
        if not self._contains(directory, installed.digest):
            try:
                copy_model(self._installed, directory)
            except (OSError, ModelError):
                if not self._contains(directory, installed.digest):  # else another process of the service was quicker
                    raise
        return installed

    @staticmethod
    def _contains(directory: Path, digest: str) -> bool:
        """Returns whether that model is in the directory; a damaged one does not count."""
        try:
            return is_model(directory) and read_manifest(directory)[1] == digest
        except ModelError:
            return False

    def find_directory(self, version: str, digest: str | None = None) -> Path:
        """Directory that holds *version*: in the registry, or the installed model itself.

        Raises:
            ModelError: nowhere, or with another digest than *digest*.
        """
        for path in (self.directory_of(version), self._installed):
            if is_model(path):
                manifest, actual_digest = read_manifest(path)
                if manifest.model_version == version and digest in (None, actual_digest):
                    return path
        exactly = "" if digest is None else f" with digest {digest[:12]}…"
        raise ModelError(
            f"model {version!r}{exactly} is not at {self.directory_of(version)}: "
            "restore that directory from a back-up, or let all machines share it"
        )

    def learns(self, version: str, digest: str) -> bool:
        """Returns whether a version is the model that knows nothing. Raises ModelError.

        Asked every second; what has a digest does not change.
        """
        if digest not in self._learns:
            self._learns[digest] = read_manifest(self.find_directory(version, digest))[0].learns
        return self._learns[digest]

    def load(self, version: str, digest: str | None = None) -> TrainedModel:
        """Read and verify a version. Raises ModelError."""
        return load_trained_model(self.find_directory(version, digest))

    def versions(self) -> Iterator[RegisteredModel]:
        """Every sound manifest in the registry; unreadable ones are left out."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.iterdir()):
            if not path.name.startswith(".") and is_model(path):
                try:
                    yield RegisteredModel(*read_manifest(path))
                except ModelError:
                    continue

    def remove(self, version: str) -> None:
        """Remove a version's directory; a missing one is not an error."""
        shutil.rmtree(self.directory_of(version), ignore_errors=True)
