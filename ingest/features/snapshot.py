"""The state of many agents on disk: one directory with a file per array, tens of times faster than a row per agent.

A snapshot is written beside its place, flushed to the disk and renamed, so that a reader sees a whole one or none. Its
manifest holds the layout and a SHA-256 of every file; what does not fit is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import TrustwatchError
from .layout import GENERATION, ROW, Array

FORMAT = 1
_MANIFEST = "manifest.json"
_CHUNK = 1 << 16
"""Agents written at a time: rows are cut into arrays without a second copy of everything."""


class DamagedSnapshot(TrustwatchError):
    """A snapshot is missing, incomplete, altered or of another layout; state must come from elsewhere."""

    code = "damaged_snapshot"


class Snapshot(NamedTuple):
    """State of n agents."""

    keys: npt.NDArray[np.uint64]  # (n,)
    rows: Array  # structured (n,) of dtype `layout.ROW`


def save_snapshot(path: Path, keys: npt.NDArray[np.uint64], rows: Array) -> None:
    """Write a snapshot at *path*, a directory that must not exist yet.

    Args:
        path: where; its parent exists.
        keys: uint64 (n,), key of each agent.
        rows: structured (n,) of dtype `layout.ROW`.

    Raises:
        ValueError: keys and rows do not fit together.
        FileExistsError: there is something at *path*.
    """
    if rows.dtype != ROW or keys.dtype != np.uint64 or keys.shape != rows.shape or keys.ndim != 1:
        raise ValueError(f"{keys.shape} keys of {keys.dtype} do not fit {rows.shape} rows of {rows.dtype}")
    if path.exists():
        raise FileExistsError(f"a snapshot is never overwritten: {path}")
    draft = path.with_name(f".{path.name}.draft")
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir()
    files = {"keys": _write(draft / "keys.npy", keys), "rows": _write(draft / "rows.npy", rows)}
    manifest = {"format": FORMAT, "layout": _layout(), "agents": len(keys), "sha256": files}
    with (draft / _MANIFEST).open("wb") as file:
        file.write(json.dumps(manifest, indent=1).encode())
        _flush(file.fileno())
    _sync_folder(draft)
    draft.rename(path)
    _sync_folder(path.parent)


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot back, and check all of it.

    Raises:
        DamagedSnapshot: a file is missing or altered, or the snapshot has another layout.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_bytes())
        digests, agents, layout = manifest["sha256"], manifest["agents"], manifest["layout"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedSnapshot(f"{path} has no readable manifest: {error}") from None
    if manifest.get("format") != FORMAT or layout != _layout():
        raise DamagedSnapshot(f"{path} has another layout of agents' state; this program cannot go on from it")
    keys = _read(path / "keys.npy", np.dtype(np.uint64), agents, digests.get("keys"))
    return Snapshot(keys, _read(path / "rows.npy", ROW, agents, digests.get("rows")))


def _layout() -> str:
    return hashlib.sha256(f"{GENERATION}|{ROW.descr}".encode()).hexdigest()[:32]


def _write(path: Path, array: Array) -> str:
    """Write an array as .npy, flushed; returns the SHA-256 of the file."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in _pieces(array):
            digest.update(piece)
            _write_all(file, piece)
        _flush(file.fileno())
    return digest.hexdigest()


def _pieces(array: Array) -> Iterator[memoryview]:
    """The bytes of a .npy file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield header.getbuffer()
    for start in range(0, len(array), _CHUNK):
        yield np.ascontiguousarray(array[start : start + _CHUNK]).view(np.uint8).reshape(-1).data


def _write_all(file: io.FileIO, piece: memoryview) -> None:
    while piece:
        piece = piece[file.write(piece) :]


def _read(path: Path, dtype: np.dtype[Any], agents: int, expected: str | None) -> Array:
    """Read an array and check digest and shape."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise DamagedSnapshot(f"{path} was altered or is incomplete: SHA-256 is {found}, not {expected}")
            file.seek(0)
            array: Array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DamagedSnapshot(f"{path} cannot be read: {error}") from None
    if array.dtype != dtype or array.shape != (agents,):
        raise DamagedSnapshot(f"{path} holds {array.shape} of {array.dtype}, not {agents} of {dtype}")
    return array


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
