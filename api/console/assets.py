"""Static files: held in memory, known by their content, so that browsers may keep them for good."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

STATIC_URL_PREFIX = "/console/static/"
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"
STATIC_MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class StaticAsset(NamedTuple):
    """One file."""

    body: bytes
    media_type: str
    digest: str


class StaticAssets:
    """The files of `static/`, by path."""

    def __init__(self) -> None:
        self._files = dict(_read_folder(files(__package__) / "static", ""))

    def get(self, path: str) -> StaticAsset | None:
        """One file; None = there is no such."""
        return self._files.get(path)

    def url(self, path: str) -> str:
        """Where a file is served, under a name that changes with its content. Raises KeyError."""
        return f"{STATIC_URL_PREFIX}{path}?v={self._files[path].digest}"


def _read_folder(folder: Traversable, prefix: str) -> list[tuple[str, StaticAsset]]:
    found = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _read_folder(entry, f"{path}/")
        else:
            body = entry.read_bytes()
            suffix = "." + path.rpartition(".")[2]
            kind = STATIC_MEDIA_TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "text/plain; charset=utf-8"
            found.append((path, StaticAsset(body, kind, hashlib.sha256(body).hexdigest()[:16])))
    return found
