"""Static files: held in memory, known by their content, so that browsers may keep them for good."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

PREFIX = "/console/static/"
FOREVER = "public, max-age=31536000, immutable"
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """One file."""

    body: bytes
    media_type: str
    digest: str


class Assets:
    """The files of `static/`, by path."""

    def __init__(self) -> None:
        self._files = dict(_walk(files(__package__) / "static", ""))

    def get(self, path: str) -> Asset | None:
        """One file; None = there is no such."""
        return self._files.get(path)

    def url(self, path: str) -> str:
        """Where a file is served, under a name that changes with its content. Raises KeyError."""
        return f"{PREFIX}{path}?v={self._files[path].digest}"


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _walk(entry, f"{path}/")
        else:
            body = entry.read_bytes()
            suffix = "." + path.rpartition(".")[2]
            kind = TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "text/plain; charset=utf-8"
            found.append((path, Asset(body, kind, hashlib.sha256(body).hexdigest()[:16])))
    return found
