"""Compilation of numba kernels, in one place: cached, sequential, without fast-math, so that runs give equal bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

as_int = cast(Callable[[Any], int], np.int64)
"""A signed integer for kernels: `int` leaves one without sign as it is, and the two together become a float."""


PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_KERNEL_SOURCES = ("ingest/**/*.py", "models/*.py", "scoring/engine/*.py")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call; the machine code is kept beside the source (or in `NUMBA_CACHE_DIR`)."""
    return _compile_with_cache(function, {})


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `allocation_free` does, for small helpers that other kernels call: always inlined by LLVM."""
    return _compile_with_cache(function, {"_nrt": False, "forceinline": True})


def allocation_free(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `compiled` does, for kernels that create no arrays, only views of their arguments.

    Without numba's runtime a view costs nothing. With it each one is an atomic count up and down, which made up most of
    the feature kernel's time.
    """
    return _compile_with_cache(function, {"_nrt": False})


def _compile_with_cache(function: Callable[P, R], options: dict[str, Any]) -> Callable[P, R]:
    """Compile with a cache that any change of a kernel's source makes stale.

    numba asks for the file of the kernel alone. Helpers and constants of other files are frozen into the machine code,
    too: after a `git pull` that changes one of those, old code would go on, with new models.
    """
    compiled = njit(cache=True, **options)(function)
    cache_file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = (cache_file._source_stamp, source_digest(PACKAGE_ROOT))
    return cast(Callable[P, R], compiled)


@lru_cache
def source_digest(package: Path) -> str:
    """Digest of all files that hold kernels, their helpers and their constants."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in _KERNEL_SOURCES for path in package.glob(pattern)):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(text)} ".encode() + text)
    return digest.hexdigest()
