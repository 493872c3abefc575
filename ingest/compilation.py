"""Compilation of numba kernels, in one place: cached, sequential, without fast-math, so that runs give equal bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

from trustwatch_client import events

P = ParamSpec("P")
R = TypeVar("R")

as_int = cast(Callable[[Any], int], np.int64)
"""A signed integer for kernels: `int` leaves one without sign as it is, and the two together become a float."""


PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_KERNEL_SOURCES = ("ingest/*.py", "ingest/features/*.py", "ingest/scan/*.py", "models/*.py", "scoring/engine/*.py")


_NO_ENTRY_FROM_C: dict[str, Any] = {"no_cfunc_wrapper": True}  # nobody has one, and each costs compile time


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call; the machine code is kept beside the source (or in `NUMBA_CACHE_DIR`)."""
    return _compile_with_cache(function, {})


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `allocation_free` does, for small helpers that other kernels alone call: always inlined by LLVM.

    Nothing is compiled by which Python could call one, which would be a fifth of the time that kernels take.
    """
    options = {"_nrt": False, "forceinline": True, "no_cpython_wrapper": True}
    kernel: Any = _compile_with_cache(function, options)
    if isinstance(kernel, Dispatcher):  # without an entry, numba's own call would jump to address 0
        vars(kernel).update(_insert=_enter_nothing, _compile_for_args=_refuse_call)
    return cast(Callable[P, R], kernel)


def inlined_and_callable(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `inlined` does, for helpers that Python calls, too."""
    return _compile_with_cache(function, {"_nrt": False, "forceinline": True})


def _enter_nothing(*_signature: Any, **_options: Any) -> None:
    """Stand in for the table of what Python may call."""


def _refuse_call(*_arguments: Any, **_named: Any) -> NoReturn:
    raise TypeError("a kernel that is `inlined` can be called by kernels alone: declare it `inlined_and_callable`")


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
    compiled = njit(cache=True, **_NO_ENTRY_FROM_C, **options)(function)
    cache_file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = (cache_file._source_stamp, source_digest(PACKAGE_ROOT))
    return cast(Callable[P, R], compiled)


def is_kept(*kernels: Any) -> bool:
    """Return whether machine code of kernels is kept on disk: of these sources, this numba, this kind of processor.

    True for a kernel that numba keeps no code of (where no folder can be written): waiting would not help.
    """
    processor = cpu_target.target_context.codegen().magic_tuple()
    files = [getattr(getattr(kernel, "_cache", None), "_cache_file", None) for kernel in kernels]
    return all(file is None or _has_code(file, processor) for file in files)


def _has_code(file: Any, processor: Any) -> bool:
    """Return whether there is code for a *processor*."""
    # numba lists code before it writes it: who trusted the list would compile what another process has just compiled.
    names = [name for key, name in file._load_index().items() if key[1] == processor]
    return any(Path(file._data_path(name)).exists() for name in names)


class KernelGate:
    """Says when kernels may be called, for callers that can do without them until they are compiled."""

    def __init__(self, *kernels: Any, compiled_elsewhere: bool) -> None:
        self._kernels = kernels
        self._open = not compiled_elsewhere

    def is_open(self) -> bool:
        """Return whether they are to be called; once true, it stays so."""
        self._open = self._open or is_kept(*self._kernels)
        return self._open


@lru_cache
def source_digest(package: Path) -> str:
    """Digest of all files that hold kernels, their helpers and their constants: the event's members, too."""
    digest = hashlib.blake2b(Path(events.__file__).read_bytes(), digest_size=16)
    for path in sorted(path for pattern in _KERNEL_SOURCES for path in package.glob(pattern)):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(text)} ".encode() + text)
    return digest.hexdigest()
