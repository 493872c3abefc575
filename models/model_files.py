"""Files of a model, read with suspicion: plain files alone, no more of them than was said, and nothing but numbers.

An attacker who can write the directory can put anything there: a named pipe or a device, which would be read forever;
a sparse file, or a header that promises terabytes; a header that is nested until the parser gives up.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray

from trustwatch.ingest.errors import ModelError

from .array_rules import ArrayForm, array_bytes

RESTORE_ADVICE: Final = "copy the model again or retrain"
_MAX_HEADER_BYTES: Final = 1024
_MEMORY_SHARE: Final = 3
"""A model may take a third of the machine's memory: while it is loaded, its agents are in memory twice."""


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """One array of the model: digest of the file, element type and shape."""

    sha256: Annotated[str, msgspec.Meta(max_length=64)]
    dtype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**40)], ...]


def read_plain_file(file: Path, folder: Path, most: int) -> bytes:
    """All of a plain file, if it has no more than *most* bytes. Raises ModelError."""
    try:
        with open_plain_file(file) as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise ModelError(
            f"{file} can not be read ({error.strerror}); {folder} is no complete model: {RESTORE_ADVICE}"
        ) from None
    if len(data) > most:
        raise ModelError(f"{file} has more than {most} bytes; no such file of a model has: {RESTORE_ADVICE}")
    return data


def open_plain_file(file: Path) -> BufferedReader:
    """Open a file that is one: a device or a named pipe would be read for ever. Raises OSError."""
    stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "no plain file", str(file))
    return stream


def list_files(folder: Path, known: Collection[Path]) -> set[str]:
    """Paths of all files; a folder without a known array counts as one, however deep it goes."""
    paths, folders = set[str](), [Path()]
    while folders:
        inner = folders.pop()
        with os.scandir(folder / inner) as entries:
            for entry in entries:
                path = inner / entry.name
                if entry.is_dir(follow_symlinks=False) and path in known:
                    folders.append(path)
                else:
                    paths.add(path.as_posix())
    return paths


def check_memory(folder: Path, files: Mapping[str, ArrayFile]) -> None:
    """Refuse what would not fit: a sparse file costs its maker nothing."""
    needed = sum(array_bytes(ArrayForm(file.dtype, file.shape)) for file in files.values())
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY_SHARE
    if needed > most:
        raise ModelError(
            f"{folder}: its arrays take {needed >> 20} MiB, and a model may take {most >> 20} MiB of this machine's "
            "memory: train on fewer agents or a shorter window, or use a larger machine"
        )


def load_array(folder: Path, name: str, expected: ArrayFile) -> NDArray[Any]:
    """The array of one file, of which only as much is read as the manifest says. Raises ModelError."""
    try:
        with open_plain_file(folder / name) as stream:
            return _read_array(stream, folder / name, expected)
    except OSError as error:
        raise ModelError(
            f"{folder / name} can not be read ({error.strerror}); {folder} is no complete model: {RESTORE_ADVICE}"
        ) from None


def _read_array(stream: BufferedReader, path: Path, expected: ArrayFile) -> NDArray[Any]:
    try:
        if read_magic(stream) != (1, 0):
            raise ValueError("another version of the format")
        shape, by_columns, dtype = read_array_header_1_0(stream, max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # the header is Python text: its parser ends in many ways
        raise ModelError(f"{path}: expected a .npy array, found something else ({error}); {RESTORE_ADVICE}") from None
    if (dtype.str, shape) != (expected.dtype, expected.shape):
        raise ModelError(
            f"{path}: expected {expected.dtype} {expected.shape}, found {dtype.str} {shape}; {RESTORE_ADVICE}"
        )
    begins = stream.tell()
    if os.fstat(stream.fileno()).st_size != begins + array_bytes(ArrayForm(dtype.str, shape)):
        raise ModelError(f"{path}: more or fewer bytes than an array of {shape} has; {RESTORE_ADVICE}")
    array = np.empty(shape[::-1] if by_columns else shape, dtype)
    stream.seek(0)
    digest = hashlib.sha256(stream.read(begins))
    if array.size:
        body = array.reshape(-1).view(np.uint8).data
        stream.readinto(body)
        digest.update(body)
    check_digest(path, digest.hexdigest(), expected)
    return np.ascontiguousarray(array.T) if by_columns else array


def check_digest(path: Path, found: str, expected: ArrayFile) -> None:
    """Raises ModelError if a file differs from the manifest."""
    if found != expected.sha256:
        raise ModelError(f"{path}: expected sha256 {expected.sha256}, found {found}; it was changed: {RESTORE_ADVICE}")
