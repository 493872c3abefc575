"""Compilation of numba kernels: cached, sequential, without fast-math, so that every run gives equal bits.

Machine code is kept in one directory for each state of the sources, version of Python and numba, and processor: in
`NUMBA_CACHE_DIR` if it is set, else next to the package, else in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import llvmlite.binding
import numba
import numpy as np
from numba.extending import register_jitable

from trustwatch_client import events

P = ParamSpec("P")
R = TypeVar("R")

as_int = cast(Callable[[Any], int], np.int64)
"""A signed integer for kernels: `int` leaves one without sign as it is, and the two together become a float."""

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_KERNEL_SOURCES = ("ingest/*.py", "ingest/features/*.py", "ingest/scan/*.py", "models/*.py", "scoring/engine/*.py")
_USER_CACHE = Path("~/.cache/trustwatch")
ROOM_BYTES = 64 << 20
"""Free space without which nothing is compiled to a disk; machine code takes a fifth of it."""
UNUSED_AFTER_S = 7 * 86_400
"""Machine code of another version or processor is removed if no process has started with it for so long."""


class KernelPart(enum.StrEnum):
    """A part of the kernels that is compiled ahead of its use."""

    SCORING = "scoring"
    """Features, scores, p-values and risk, and what is learned."""
    READING = "reading"
    """JSON to columns, and claims of incoming events. Both have a slower path, which is used until then."""
    TRAINING = "training"
    """What `trustwatch train` needs in addition; it is not compiled ahead of time."""


def source_digest(package: Path) -> str:
    """Digest of all files that hold kernels, their helpers and their constants, including the members of an event.

    numba itself checks the file of a kernel alone, but compiles helpers and constants of other files into it.
    """
    digest = hashlib.blake2b(Path(events.__file__).read_bytes(), digest_size=16)
    for path in sorted(path for pattern in _KERNEL_SOURCES for path in package.glob(pattern)):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(text)} ".encode() + text)
    return digest.hexdigest()


_NUMBA: Any = numba  # its types know neither its configuration nor all options


def _processor() -> str:
    """Return what machine code is compiled for: the processor of this host, unless `NUMBA_CPU_NAME` names another."""
    binding, config = llvmlite.binding, _NUMBA.config
    features = binding.get_host_cpu_features().flatten() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return f"{config.CPU_NAME or binding.get_host_cpu_name()} {features}"


def _kernel_directory(bases: Iterable[Path]) -> Path | None:
    """Create the directory in the first base that can be written to and has room."""
    version = f"{source_digest(PACKAGE_ROOT)} {sys.implementation.cache_tag} {numba.__version__} {_processor()}"
    name = f"kernels-{hashlib.blake2b(version.encode(), digest_size=8).hexdigest()}"
    for base in bases:
        with contextlib.suppress(OSError, RuntimeError):  # the latter for a user without a home
            directory = base.expanduser() / name
            directory.mkdir(parents=True, exist_ok=True)
            has_room = (directory / KernelPart.SCORING).exists() or shutil.disk_usage(directory).free >= ROOM_BYTES
            if has_room and os.access(directory, os.W_OK):
                os.utime(directory)  # read by `remove_unused_kernels`
                return directory
    return None


_CHOSEN = _NUMBA.config.CACHE_DIR
KERNEL_DIRECTORY = _kernel_directory([Path(_CHOSEN)] if _CHOSEN else [PACKAGE_ROOT / "__pycache__", _USER_CACHE])
"""Directory of the machine code; None if space or permission is missing: each process then compiles what it calls."""
if KERNEL_DIRECTORY is not None:
    _NUMBA.config.CACHE_DIR = str(KERNEL_DIRECTORY)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, and keep the machine code."""
    return _compile_with_cache(function)


def allocation_free(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `compiled` does, for kernels that create no arrays, only views of their arguments.

    Without numba's runtime a view costs nothing; with it, an atomic count up and down.
    """
    return _compile_with_cache(function, _nrt=False)


def inlined_and_callable(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `allocation_free` does, for small helpers that Python calls, too: always inlined by LLVM."""
    return _compile_with_cache(function, _nrt=False, forceinline=True)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `inlined_and_callable` does if a kernel calls it; if Python calls it, it is plain Python."""
    options = {"_nrt": False, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return register_jitable(**options)(function)


def _compile_with_cache(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    # Nothing calls a kernel from C, and each entry for it costs compile time.
    options |= {"cache": KERNEL_DIRECTORY is not None, "no_cfunc_wrapper": True}
    return cast(Callable[P, R], _NUMBA.njit(**options)(function))


def is_kept(part: KernelPart) -> bool:
    """Return whether the machine code of a part is kept on disk."""
    return KERNEL_DIRECTORY is not None and (KERNEL_DIRECTORY / part).exists()


def mark_kept(part: KernelPart) -> None:
    """Record that every kernel of a part has been called, so that its machine code is on disk."""
    if KERNEL_DIRECTORY:
        KERNEL_DIRECTORY.mkdir(parents=True, exist_ok=True)  # see `remove_unused_kernels`
        (KERNEL_DIRECTORY / part).touch()


def remove_unused_kernels() -> None:
    """Remove machine code that no process has started with for a week, such as that of earlier versions.

    A process that still runs with it has it in memory; what it compiles next, numba writes to a new directory.
    """
    if KERNEL_DIRECTORY is None:
        return
    with contextlib.suppress(OSError):  # another process removes them, too
        oldest_s = KERNEL_DIRECTORY.stat().st_mtime - UNUSED_AFTER_S  # this process has dated it at its start
        for other in KERNEL_DIRECTORY.parent.glob("kernels-*"):
            if other.stat().st_mtime < oldest_s:
                shutil.rmtree(other)


class KernelGate:
    """States when the kernels of a part may be called, for callers that can do without them until then."""

    def __init__(self, part: KernelPart, *, compiled_elsewhere: bool) -> None:
        self._part = part
        self._open = not compiled_elsewhere or KERNEL_DIRECTORY is None  # the other process cannot pass its code on

    def is_open(self) -> bool:
        """Return whether they may be called; once true, it stays true."""
        self._open = self._open or is_kept(self._part)
        return self._open
