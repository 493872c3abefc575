"""The manifest of a back-up: what is in it, from which moment, and the digest of every file.

A back-up is a folder: `manifest.json`, `data/` as `data_dir` is laid out, and `model/`, the installed model. The
manifest is written last: a folder without one was never finished. Its `digest` guards against damage and mix-ups, as
that of a model does; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal

import msgspec

from trustwatch.ingest.durable_files import write_file_atomically
from trustwatch.ingest.errors import ConfigError, TrustwatchError
from trustwatch.models.model_directory import manifest_digest

KIND: Final = "trustwatch-backup"
FORMAT_VERSION: Final = 1
"""Raised whenever an older program could misread a back-up."""
MANIFEST_FILE: Final = "manifest.json"
UNFINISHED_FILE: Final = "unfinished"
"""The first file of a back-up, removed once its manifest is there: it alone says that a folder is ours to give up."""
DATA_FOLDER: Final = "data"
MODEL_FOLDER: Final = "model"
MAX_MANIFEST_BYTES: Final = 64 << 20
_PATH = re.compile(r"(data|model)(/[A-Za-z0-9%_~-][A-Za-z0-9%_.~-]*)+")
_BLOCK_BYTES = 1 << 20

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class BadBackup(TrustwatchError):
    """A folder is no back-up of ours, or a damaged one: nothing of it was restored. Take another back-up."""

    code = "bad_backup"


class BackupFile(msgspec.Struct, frozen=True):
    """Size and SHA-256 (hexadecimal) of one file."""

    bytes: _Whole
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of a back-up.

    Attributes:
        trustwatch: version of the program that wrote it.
        created: when the database was copied, RFC 3339, UTC.
        epoch, offset: position of the database: events before this offset are in its state.
        log_first_offset, log_end_offset: records of the log; the position lies between them.
        model: version of the installed model; `model_digest` names it exactly.
        keys: key files that are in it, by their names in `data_dir`.
        left_out: what a service has besides, in words.
        files: by path within the folder.
    """

    kind: Literal["trustwatch-backup"]
    format_version: int
    trustwatch: str
    created: str
    epoch: _Whole
    offset: _Whole
    log_first_offset: _Whole
    log_end_offset: _Whole
    model: str
    model_digest: str
    keys: list[str]
    left_out: list[str]
    files: dict[str, BackupFile]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder, with its path in the manifest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def describe_file(path: Path) -> BackupFile:
    """Size and digest of a file, as it is on disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return BackupFile(size, digest.hexdigest())


def describe_files(folder: Path) -> dict[str, BackupFile]:
    """Every file below a folder. Raises ConfigError for a name that `restore` would not take."""
    described: dict[str, BackupFile] = {}
    for name, path in list_files(folder):
        if name == UNFINISHED_FILE:
            continue
        if not _PATH.fullmatch(name):
            raise ConfigError(
                f"{name.partition('/')[2]!r} in data_dir: no file of a back-up may be called so (letters, digits, "
                "`%._~-`, no dot first): rename it, or move it away"
            )
        described[name] = describe_file(path)
    return described


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file of a back-up. A pipe would be waited for, a device read without an end.

    Raises:
        BadBackup: it is neither a file nor a link to one.
        OSError: it can not be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadBackup(f"{path}: is no regular file; the back-up is damaged: take another one")
    return os.fdopen(descriptor, "rb")


def write_manifest(folder: Path, manifest: BackupManifest) -> str:
    """Finish a back-up; returns the digest of its manifest."""
    content: dict[str, Any] = msgspec.to_builtins(manifest)
    content["digest"] = manifest_digest(content)
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_file_atomically(folder / MANIFEST_FILE, text.encode())
    return str(content["digest"])


def read_manifest(folder: Path) -> BackupManifest:
    """The manifest of a back-up, itself checked. Raises BadBackup."""
    path = folder / MANIFEST_FILE
    try:
        with open_regular_file(path) as file:
            raw = file.read(MAX_MANIFEST_BYTES)
        content = json.loads(raw)
    except OSError as error:
        raise BadBackup(
            f"{path}: {error.strerror}: this is no back-up, or one that was never finished; "
            "give the folder that `trustwatch backup` wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadBackup(f"{path}: is not JSON ({error}); the back-up is damaged: take another one") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise BadBackup(f'{path}: has no "kind": "{KIND}"; this is not a back-up of Trustwatch: give another folder')
    if content.get("format_version") != FORMAT_VERSION:
        raise BadBackup(
            f"{path}: expected format version {FORMAT_VERSION}, found {content.get('format_version')!r}: "
            f"restore it with Trustwatch {content.get('trustwatch')!r}, which wrote it"
        )
    return _checked_manifest(path, content)


def _checked_manifest(path: Path, content: Mapping[str, Any]) -> BackupManifest:
    if content.get("digest") != manifest_digest(content):
        raise BadBackup(f"{path}: it was edited or is damaged (its digest differs): take another back-up")
    try:
        manifest = msgspec.convert(content, BackupManifest)
    except msgspec.ValidationError as error:
        raise BadBackup(f"{path}: {error}; take another back-up") from None
    for name in manifest.files:
        if not _PATH.fullmatch(name):
            raise BadBackup(f"{path}: {name!r} is no file of a back-up: take another one")
    return manifest
